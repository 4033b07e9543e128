"""The evaluator: prepared once for a data set, it maps anybody's samples to figures."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from hybridgen.data.source import Source
from hybridgen.errors import InputError
from hybridgen.evaluation.baselines import (
    NEIGHBOURS,
    ReferenceStatistics,
    floors,
    ideal_values,
    sample_size_warnings,
)
from hybridgen.maths.rng import rng_for
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
    jackknife_error,
    jackknife_subsets,
)
from hybridgen.metrics.neighbours import nearest
from hybridgen.metrics.two_sample import FEWEST

Data = Source | tuple[Tensor, Tensor]

POINTS, IMAGES = 2_500, 10_000
"""Default numbers of samples: of points while training, and of everything else."""
RECOGNISED = 0.9
"""Held-out accuracy above which a network's classes are taken for the data's."""
DRAWS, TRAINING_DRAWS = 4, 32
"""Sets of a mixture's own points that its floors are the mean of; more where figures are few."""
TRAINING = 100_000
"""Training examples among which nearest ones are looked for, at most."""


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
        held_out: examples that samples are compared with.
        training_examples: `[t ...]`; `None` where they are drawn without end.
        features: what images are compared by, in a word.
        warnings: a sentence each.
        floors: figures of as many real samples; of memorisation, what new examples get.
        ideal: figures of perfect samples in the limit, where the density is known.
        extractor: of features.
        reference: what it compares with.
        subsets: of the samples, for the intervals; without them (0) there is no two-sample test
            and no memorisation either, and an interval's ends are its value.
        seed: of the subsets and of the classifier.
        collected: features of the updates so far.
    """

    samples: int
    held_out: int
    training_examples: Tensor | None
    features: str
    warnings: tuple[str, ...]
    floors: Mapping[str, float]
    ideal: Mapping[str, float]
    extractor: FeatureExtractor
    reference: ReferenceStatistics
    subsets: int
    seed: int
    collected: CollectedFeatures = field(default_factory=CollectedFeatures)

    def __call__(self, x: Tensor) -> dict[str, Estimate]:
        """Every figure of the samples `[samples ...]`, whatever was collected.

        Raises:
            ValueError: another number of samples, or another shape.
            RunError: a sample is not finite.
        """
        return self._figures(self.extractor.extract(x))

    def update(self, x: Tensor) -> None:
        """Collect a batch of samples `[b ...]`; see `__call__`."""
        self.collected.update(self.extractor.extract(x))

    def compute(self) -> dict[str, Estimate]:
        """Every figure of the samples of all updates on all processes; see `__call__`."""
        features, label = self.collected.compute()
        return self._figures(Features(features=features, label=label))

    def reset(self) -> None:
        """Forget all updates."""
        self.collected.reset()

    def values(self, x: Tensor) -> dict[str, float]:
        """Plain figures of the samples `[samples ...]`, and the floors, named `floor_...`."""
        figures = {name: estimate.value for name, estimate in self(x).items()}
        return figures | {f"floor_{name}": floor for name, floor in self.floors.items()}

    def histogram(self, x: Tensor) -> tuple[int, ...]:
        """How many of `[b ...]` the network takes for each class; empty where it has none."""
        label = self.extractor.extract(x).label
        if label is None or not self.reference.classes:
            return ()
        return tuple(count_classes(label, self.reference.classes).tolist())

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distance of features of `[b ...]` to the nearest training examples, and their index.

        Raises:
            ValueError: training examples are drawn without end.
        """
        return self.reference.nearest(self.extractor.extract(x).features)

    def distance_to_held_out(self, x: Tensor) -> Tensor:
        """Distance of features of `[b ...]` to the nearest held-out example, `[b]`."""
        return nearest(self.extractor.extract(x).features, self.reference.held_out)[0]

    @cached_property
    def key(self) -> dict[str, str | int]:
        """What its figures depend on but the samples, to recognise a measurement by."""
        content = hashlib.sha256()
        for x in (self.reference.held_out, self.reference.training):
            content.update(b"" if x is None else x.contiguous().numpy().tobytes())
        settings = {"samples": self.samples, "subsets": self.subsets, "seed": self.seed}
        return {**settings, "classes": self.reference.classes, "compared": content.hexdigest()}

    def _figures(self, x: Features) -> dict[str, Estimate]:
        count = len(x.features)
        if count != self.samples:
            raise ValueError(
                f"this evaluator's floors hold for {self.samples} samples, got {count}"
            )
        subsets = [torch.arange(count)]
        if self.subsets:
            subsets += jackknife_subsets(count, subsets=self.subsets, seed=self.seed)
        estimates = {
            name: self._estimate(name, *values)
            for name, values in self.reference.figures(x, subsets).items()
        }
        if self.subsets:
            estimates |= self.reference.two_sample(x, self.seed)
        return {
            name: replace(estimate, floor=self.floors.get(name), ideal=self.ideal.get(name))
            for name, estimate in estimates.items()
        }

    def _estimate(self, name: str, value: float, *of_subsets: float) -> Estimate:
        if not of_subsets:
            return Estimate(value=value, low=value, high=value)
        shares = dict.fromkeys(("precision", "high_quality", "memorisation"), self.samples)
        shares |= dict.fromkeys(("recall", "coverage"), self.held_out)
        least = 1.5 / shares[name] if name in shares else 0.0
        error = jackknife_error(of_subsets, self.samples)
        low, high = interval(name, value, error, subsets=self.subsets, least=least)
        return Estimate(value=value, low=low, high=high)


def build_evaluator(
    data: Data,
    *,
    samples: int | None = None,
    features: FeatureFunction | None = None,
    seed: int = 0,
    subsets: int = SUBSETS,
    intervals: bool = True,
) -> Evaluator:
    """Prepare an evaluator.

    Args:
        data: a source, or training and held-out examples: images `[n c h w]` in [-1, 1], or points
            `[n d]`.
        samples: to evaluate; 10 000 unless given, but no more than there are training examples,
            because the floor needs as many real ones.
        features: of a batch of examples on the CPU, `[b ...] -> [b d]`; the shipped network for the
            shape or, for points, their coordinates, if not given.
        seed: of the floors, the subsets and the classifier.
        subsets: random ones of the samples, see `jackknife_subsets`.
        intervals: without, what can be worked out again and again while training: the figures
            themselves, of points only those about modes, no two-sample test, no memorisation.

    Raises:
        InputError: images that no shipped network knows, without features; too few examples.
    """
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
    extractor = FeatureExtractor(shape=shape, function=features, network=network)
    real = extractor.extract(held_out)
    recognised = (
        real.label is not None
        and label is not None
        and float((real.label == label).float().mean()) >= RECOGNISED
    )
    training = None if train is None else extractor.extract(train)
    if training is None:
        perfect = [extractor.extract(draw) for draw in draws]
    else:
        chosen = torch.randperm(len(training.features), generator=rng_for("floor", seed))[:count]
        perfect = [training.take(chosen)]
    reference = ReferenceStatistics(
        held_out=real.features,
        training=training.features if training is not None and intervals else None,
        classes=int(network.config["classes"]) if network is not None and recognised else 0,
        mixture=mixture,
        modes_only=mixture is not None and not intervals,
    )
    coordinates = "coordinates" if len(shape) == 1 else "lenet"
    return Evaluator(
        samples=count,
        held_out=len(held_out),
        training_examples=train,
        features=coordinates if features is None else getattr(features, "__name__", "features"),
        warnings=sample_size_warnings(
            count,
            real.features,
            requested=samples,
            searched=None if train is None else len(train),
            training=None if isinstance(data, tuple) else data.size,
        ),
        floors=floors(reference, perfect, seed if intervals else None),
        ideal={} if mixture is None else ideal_values(mixture, len(held_out), count),
        extractor=extractor,
        reference=reference,
        subsets=subsets if intervals else 0,
        seed=seed,
    )


def _examples(
    data: Data, samples: int, seed: int, intervals: bool
) -> tuple[Tensor, Tensor | None, Tensor | None, list[Tensor]]:
    """What an evaluator needs of the data.

    Returns:
        Held-out examples; their labels, if there are any; training examples, if nearest ones are
        looked for among them; and otherwise some sets of `samples` of them, for the floors.

    Raises:
        InputError: training and held-out examples of different shapes, or images that are not in
            [-1, 1].
    """
    if isinstance(data, tuple):
        train, held_out = data
        for x in data:
            _check_examples(x)
        if train.shape[1:] != held_out.shape[1:]:
            raise InputError(
                "training and held-out examples must have one shape, got "
                f"{list(train.shape[1:])} and {list(held_out.shape[1:])}"
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
