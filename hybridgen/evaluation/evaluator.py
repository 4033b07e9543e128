"""The evaluator: prepared once for a data set, it maps anybody's samples to figures."""

import hashlib
import math
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from hybridgen.data.images import ImageSource
from hybridgen.data.source import Source
from hybridgen.errors import InputError
from hybridgen.evaluation.baselines import (
    duration_warning,
    ideal_values,
    sample_size_warnings,
    tail_warning,
)
from hybridgen.evaluation.sharing import extracted, in_turn
from hybridgen.maths.mixtures import GaussianMixture, reverse_kl
from hybridgen.maths.rng import rng_for
from hybridgen.metrics.distances import (
    frechet_distance,
    kernel_distance,
    mean_kernel,
    sliced_wasserstein,
)
from hybridgen.metrics.features import (
    CollectedFeatures,
    FeatureExtractor,
    FeatureFunction,
    Features,
    count_classes,
    feature_network,
)
from hybridgen.metrics.intervals import (
    SUBSETS,
    Estimate,
    interval,
    jackknife_deviations,
    jackknife_error,
    jackknife_subsets,
)
from hybridgen.metrics.modes import mode_coverage, mode_shares
from hybridgen.metrics.neighbours import memorisation, nearest, neighbour_radii, prdc
from hybridgen.metrics.registry import FEWEST, NEIGHBOURS
from hybridgen.metrics.two_sample import two_sample_test

Data = Source | tuple[Tensor, Tensor]

POINTS, IMAGES = 2_500, 10_000
"""Default numbers of samples: of points while training, and of everything else."""
RECOGNISED = 0.9
"""Held-out accuracy above which a network's classes are taken for the data's."""
DRAWS, TRAINING_DRAWS = 4, 32
"""Sets of a mixture's own points that its floors are the mean of; more where figures are few."""
TRAINING = 100_000
"""Training examples among which nearest ones are looked for, at most."""
SHARES = ("precision", "recall", "density", "coverage")


class Unmeasurable(InputError):
    """Data that no shipped network knows, or of which there is too little."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluator:
    """Maps `samples` samples to figures with 95 % intervals, each beside its floor.

    `evaluator(x)` takes all samples at once. `update` takes batches, on as many processes as there
    are, `compute` then gives the figures of all of them together, and `reset` forgets them, as with
    any `torchmetrics.Metric`. Everything happens on the CPU and no random state changes: the same
    samples, the same figures. The intervals are about the draw of samples; held-out examples stay
    the same for all samplers.

    Attributes:
        samples: how many it takes, the same number from every sampler.
        extractor: of features, what examples are compared by.
        held_out: features `[n d]` that samples are compared with.
        training: features `[t d]` among which nearest ones are looked for, if there are any.
        training_examples: `[t ...]`; `None` where they are drawn without end.
        classes: how many the network tells apart; 0 where they are not the data's.
        mixture: the density of points, if known.
        subsets: of the samples, for the intervals; without them (0) there is no two-sample test
            and no memorisation either, and an interval's ends are its value.
        seed: of the subsets and of the classifier.
        warnings: a sentence each.
        floors: figures of as many real samples; of memorisation, what new examples get.
        accelerator: Accelerate's, of the processes that call it alike and share its work, if any.
        collected: features of the updates so far.
    """

    samples: int
    extractor: FeatureExtractor
    held_out: Tensor
    training: Tensor | None
    training_examples: Tensor | None
    classes: int
    mixture: GaussianMixture | None
    subsets: int
    seed: int
    warnings: tuple[str, ...]
    accelerator: Any = None
    floors: dict[str, float] = field(default_factory=dict)
    collected: CollectedFeatures = field(default_factory=CollectedFeatures)

    def __call__(self, x: Tensor) -> dict[str, Estimate]:
        """Every figure of the samples `[samples ...]`, whatever was collected.

        Raises:
            ValueError: another number of samples, or another shape.
            RunError: a sample is not finite; without intervals, points of a known density that are
                not count as samples of low quality.
        """
        return self.with_warning(x)[0]

    def with_warning(self, x: Tensor) -> tuple[dict[str, Estimate], str]:
        """The same, and a sentence if the intervals of these samples cannot be trusted."""
        extracted = self.extractor.extract(x)
        sentence = tail_warning(extracted.features, "The samples") if self.subsets else ""
        return self._figures(extracted), sentence

    def update(self, x: Tensor) -> None:
        """Collect a batch of samples `[b ...]`; see `__call__`."""
        self.collected.update(self.extractor.extract(x))

    def compute(self) -> dict[str, Estimate]:
        """Every figure of the samples of all updates on all processes; see `__call__`."""
        return self._figures(self.collected.compute())

    def reset(self) -> None:
        """Forget all updates."""
        self.collected.reset()

    def values(self, x: Tensor | Features) -> dict[str, float]:
        """Plain figures of the samples `[samples ...]`, or of features of them, and the floors,
        named `floor_...`."""
        features = x if isinstance(x, Features) else self.extractor.extract(x)
        figures = {name: estimate.value for name, estimate in self._figures(features).items()}
        return figures | {f"floor_{name}": floor for name, floor in self.floors.items()}

    def histogram(self, x: Tensor) -> tuple[int, ...]:
        """How many of `[b ...]` the network takes for each class; empty where it has none."""
        label = self.extractor.extract(x).label
        if label is None or not self.classes:
            return ()
        return tuple(count_classes(label, self.classes).tolist())

    def shares(self, x: Features) -> list[float]:
        """What share of the samples is nearest to each mode of the density, or is taken for each
        class; empty where there are neither."""
        if self.mixture is not None:
            return mode_shares(x.features, self.mixture).tolist()
        if x.label is None or not self.classes:
            return []
        return (count_classes(x.label, self.classes) / len(x.label)).tolist()

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Index of the training example nearest to each of `[b ...]`, by features, the distance to
        it, and that to the nearest held-out example; `[b]` each.

        Raises:
            ValueError: training examples are drawn without end.
        """
        features = self.extractor.extract(x).features
        distance, index = self._nearest(features)
        return index, distance, nearest(features, self.held_out)[0]

    @cached_property
    def key(self) -> dict[str, str | int]:
        """What its figures depend on but the samples, to recognise a measurement by."""
        content = hashlib.sha256()
        for x in (self.held_out, self.training):
            content.update(b"" if x is None else x.contiguous().numpy().tobytes())
        settings = {"samples": self.samples, "subsets": self.subsets, "seed": self.seed}
        return {**settings, "classes": self.classes, "compared": content.hexdigest()}

    def _nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        if self.training is None:
            raise ValueError("training examples that are drawn without end have no nearest one")
        return nearest(features, self.training)

    @cached_property
    def _radii(self) -> Tensor:
        return neighbour_radii(self.held_out, neighbours=NEIGHBOURS)

    @cached_property
    def _held_out_distance(self) -> Tensor:
        """From held-out to the nearest training examples, `[n]`."""
        return self._nearest(self.held_out)[0]

    @cached_property
    def _kernel(self) -> float:
        return mean_kernel(self.held_out)

    def _figures(self, x: Features) -> dict[str, Estimate]:
        count = len(x.features)
        if count != self.samples:
            raise ValueError(
                f"this evaluator's floors hold for {self.samples} samples, got {count}"
            )
        ideal = {}
        if self.mixture is not None:
            ideal = ideal_values(self.mixture, len(self.held_out), count)
        return {
            name: replace(estimate, floor=self.floors.get(name), ideal=ideal.get(name))
            for name, estimate in self._estimates(x, self.subsets).items()
        }

    def _estimates(self, x: Features, subsets: int) -> dict[str, Estimate]:
        """Figures without floors; with 0 subsets an interval's ends are its value."""
        members = torch.ones(1, self.samples, dtype=torch.bool)
        if subsets:
            parts = jackknife_subsets(self.samples, subsets=subsets, seed=self.seed)
            members = torch.cat([members, parts])
        # Of n samples that all agree no subset differs: 1.5 / n gives the rule of three.
        shares = {name: self.samples for name in ("precision", "high_quality", "memorisation")}
        shares |= {name: len(self.held_out) for name in ("recall", "coverage")}
        figures = {}
        for name, (value, *of_subsets) in self._values(x, members).items():
            estimate = Estimate(value=value, low=value, high=value)
            if of_subsets:
                least = 1.5 / shares.get(name, math.inf)
                error = max(jackknife_error(of_subsets, self.samples), least)
                low, high = interval(name, value, error, subsets=subsets)
                ends = {"low": low, "high": high, "least_error": least}
                estimate = replace(estimate, **ends, degrees=subsets - 1)
                if deviations := jackknife_deviations(of_subsets, self.samples):
                    estimate = replace(estimate, deviations=(deviations,))
            figures[name] = estimate
        if self.subsets:
            figures |= two_sample_test(self.held_out, x.features, seed=self.seed)
        return figures

    def _values(self, x: Features, members: Tensor) -> dict[str, list[float]]:
        """Every figure but the two-sample test's, for each subset `[s n]` of the samples."""
        fake, figures = x.features, {}
        if self.mixture is None or self.subsets:
            distances = [frechet_distance(self.held_out, fake[m]) for m in members]
            subsets = len(members)
            kid, shares = in_turn(
                [
                    ((1, subsets), lambda: self._kernel_distance(fake, members)),
                    ((len(SHARES), subsets), lambda: self._shares(fake, members)),
                ],
                self.accelerator,
            )
            figures = {"frechet_distance": distances, "kid": kid[0].tolist()}
            figures |= dict(zip(SHARES, shares.tolist(), strict=True))
        if self.classes and (label := x.label) is not None:
            figures["class_reverse_kl"] = [
                reverse_kl(count_classes(label[m], self.classes)) for m in members
            ]
        if self.training is not None:
            copied = memorisation(self._nearest(fake)[0], self._held_out_distance)
            figures["memorisation"] = [float(copied[m].mean()) for m in members]
        if self.mixture is not None:
            rows = [mode_coverage(fake[m], self.mixture) for m in members]
            # The least mode's width is too skewed for an interval.
            names = [name for name in rows[0] if not self.subsets or name != "mode_std_min"]
            figures |= {name: [row[name] for row in rows] for name in names}
            if self.mixture.dimension <= 2:
                figures["sliced_wasserstein"] = [
                    sliced_wasserstein(self.held_out[: int(m.sum())], fake[m]) for m in members
                ]
        return figures

    def _kernel_distance(self, fake: Tensor, members: Tensor) -> Tensor:
        return kernel_distance(self.held_out, fake, members, real_kernel=self._kernel)[None]

    def _shares(self, fake: Tensor, members: Tensor) -> Tensor:
        shares = prdc(self.held_out, fake, members, radii=self._radii, neighbours=NEIGHBOURS)
        return torch.stack([shares[name] for name in SHARES])


def build_evaluator(
    data: Data,
    *,
    samples: int | None = None,
    features: FeatureFunction | None = None,
    seed: int = 0,
    subsets: int = SUBSETS,
    intervals: bool = True,
    accelerator: Any = None,
) -> Evaluator:
    """Prepare an evaluator.

    Args:
        data: a source, or training and held-out examples: images `[n c h w]` in [-1, 1], or points
            `[n d]`. Samples of a source of latents are decoded, and compared with its images.
        samples: to evaluate; 10 000 unless given, but no more than there are training examples,
            because the floor needs as many real ones.
        features: of a batch of examples on the CPU, `[b ...] -> [b d]`; the shipped network for the
            shape or, for points, their coordinates, if not given.
        seed: of the floors, the subsets and the classifier.
        subsets: random ones of the samples, see `jackknife_subsets`.
        intervals: without, what can be worked out again and again while training: the figures
            themselves, of points only those about modes, no two-sample test, no memorisation.

    Raises:
        ValueError: intervals of fewer than two subsets.
        InputError: images that no shipped network knows, without features; too few samples or
            examples; a pair of different shapes, or of images that are not in [-1, 1].
    """
    if intervals and subsets < 2:
        raise ValueError(
            f"intervals need at least 2 subsets of the samples, got {subsets}: give more, or "
            "intervals=False"
        )
    if samples is not None and samples < 1:
        raise InputError(
            f"expected a number of samples of at least 1, got {samples}: leave it out to evaluate "
            "as many as the data allows"
        )
    latent_shape, decode = None, getattr(data, "decode", None)
    if isinstance(data, ImageSource) and data.images is not None:
        latent_shape, data = data.shape, data.images
    mixture = None if isinstance(data, tuple) else data.mixture
    count = samples or (IMAGES if mixture is None or intervals else POINTS)
    held_out, label, train, draws = _examples(data, count, seed, intervals)
    shape, least = tuple(held_out.shape[1:]), FEWEST if intervals else NEIGHBOURS + 1
    network = feature_network(shape)
    if features is None and network is None and len(shape) != 1:
        raise Unmeasurable(
            f"no network is shipped for examples {list(shape)}: pass features, a function of a "
            "batch of them [b ...] that returns [b d]"
        )
    count = len(draws[0]) if train is None else min(count, len(train))
    if min(count, len(held_out)) < least:
        kind = Unmeasurable if samples is None or samples >= least else InputError
        raise kind(
            f"{count} samples beside {len(held_out)} held-out examples are too few to measure: "
            f"at least {least} of each are needed"
        )
    finite = mixture is None or intervals
    if finite and (sentence := duration_warning(count, len(held_out))):
        warnings.warn(sentence, stacklevel=2)
    extractor = FeatureExtractor(shape=shape, function=features, network=network, finite=finite)
    real = extracted(extractor, held_out, accelerator)
    classes, training = 0, None
    if network is not None and real.label is not None and label is not None:
        recognised = float((real.label == label).float().mean()) >= RECOGNISED
        classes = int(network.config["classes"]) if recognised else 0
    perfect = [extracted(extractor, draw, accelerator) for draw in draws]
    if train is not None:
        training = extracted(extractor, train, accelerator)
        chosen = torch.randperm(len(train), generator=rng_for("floor", seed))[:count]
        perfect = [training.take(chosen)]
    if latent_shape is not None:
        extractor = replace(extractor, shape=latent_shape, decode=decode)
    evaluator = Evaluator(
        samples=count,
        extractor=extractor,
        held_out=real.features,
        training=training.features if training is not None and intervals else None,
        training_examples=train,
        classes=classes,
        mixture=mixture,
        subsets=subsets if intervals else 0,
        seed=seed,
        warnings=sample_size_warnings(
            count,
            real.features,
            requested=samples,
            searched=0 if train is None else len(train),
            training=0 if train is None or isinstance(data, tuple) else data.size or 0,
        ),
        accelerator=accelerator,
    )
    rows = [evaluator._estimates(draw, 0) for draw in perfect]
    floors = {name: fmean(row[name].value for row in rows) for name in rows[0]}
    # Training examples are their own nearest ones; what was never trained on gets one half.
    evaluator.floors.update(floors | ({"memorisation": 0.5} if "memorisation" in floors else {}))
    return evaluator


def _examples(
    data: Data, samples: int, seed: int, intervals: bool
) -> tuple[Tensor, Tensor | None, Tensor | None, list[Tensor]]:
    """Held-out examples; their labels, if any; training examples, if nearest ones are looked for
    among them; and otherwise some sets of `samples` of them, for the floors."""
    if isinstance(data, tuple):
        train, held_out = data
        for x in data:
            _check_examples(x)
        one, other = list(train.shape[1:]), list(held_out.shape[1:])
        if one != other:
            raise InputError(
                f"training and held-out examples must have one shape, got {one} and {other}"
            )
        return held_out, None, train, []
    if data.mixture is not None and not intervals:
        rng = torch.Generator(data.mixture.means.device).manual_seed(seed)
        sets = [data.mixture.sample(samples, rng)[0] for _ in range(1 + TRAINING_DRAWS)]
        return sets[0], None, None, sets[1:]
    count = samples if data.size is None else max(samples, IMAGES)
    held_out, label = data.reference("held_out", count, seed)
    if data.size is not None and intervals:
        return held_out, label, data.reference("train", min(data.size, TRAINING), seed)[0], []
    seeds = range(seed, seed + (DRAWS if data.size is None else 1))
    return held_out, label, None, [data.reference("train", samples, each)[0] for each in seeds]


def _check_examples(x: Tensor) -> None:
    """Refuse bytes, and images in [0, 1] or [0, 255]: clipped, they would all look alike."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or len(x) == 0:
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise InputError(
            f"expected examples as floating-point tensors, not empty, got {kind}: bytes become "
            "images in [-1, 1] by x / 127.5 - 1"
        )
    low, high = float(x.min()), float(x.max())
    if x.ndim == 4 and not (-1.01 <= low < 0 < high <= 1.01):
        raise InputError(
            f"expected images in [-1, 1], got values from {low:.4g} to {high:.4g}: rescale them"
        )
