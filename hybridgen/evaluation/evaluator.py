"""A evaluator: prepared once for a data set, laid against the samples of any number of samplers."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Protocol

import torch
from torch import Tensor

from hybridgen.data.images import to_float
from hybridgen.data.source import Source
from hybridgen.errors import InputError, RunError
from hybridgen.evaluation.plots import to_bytes
from hybridgen.maths.mixtures import GaussianMixture, reverse_kl
from hybridgen.maths.rng import rng_for
from hybridgen.metrics.distances import frechet_distance, kernel_distance, sliced_wasserstein
from hybridgen.metrics.features import (
    LeNet,
    class_reverse_kl,
    count_classes,
    extract,
    feature_network,
)
from hybridgen.metrics.intervals import PARTS, Estimate, interval, random_parts, spread
from hybridgen.metrics.modes import HIGH_QUALITY, mode_coverage
from hybridgen.metrics.neighbours import (
    closeness,
    expected_coverage,
    mean_kernel,
    nearest,
    neighbour_radii,
    prdc,
    subset_kernel_distance,
    subset_prdc,
)
from hybridgen.metrics.registry import METRICS
from hybridgen.metrics.two_sample import FEWEST, detectable_accuracy, two_sample_test

NEIGHBOURS = 5
POINTS, IMAGES = 2_500, 10_000
"""Samples a judge asks for unless told otherwise; fewer where the data has fewer."""
RECOGNISED = 0.9
"""Held-out accuracy above which a network's idea of the classes is taken for the data's."""


class Judge(Protocol):
    """Maps `samples` samples to figures; `floors` holds what perfect ones get, named `floor_...`.

    Everything happens on the CPU, whatever device the samples are on, and no random state changes:
    the same samples, the same figures.
    """

    @property
    def samples(self) -> int: ...

    @property
    def floors(self) -> dict[str, float]: ...

    def __call__(self, x: Tensor) -> dict[str, float]: ...


@dataclass(frozen=True, eq=False)
class PointJudge:
    """Mode coverage of points, and their distance to draws of the mixture they should come from.

    Attributes:
        reference: as many draws `[samples d]`, for the distance.
    """

    mixture: GaussianMixture
    reference: Tensor
    samples: int
    floors: dict[str, float]

    def __call__(self, x: Tensor) -> dict[str, float]:
        """Figures of points `[samples d]`, see `mode_coverage` and `sliced_wasserstein`."""
        _check_number(x, self.samples)
        return _point_figures(self.mixture, self.reference, x)


@dataclass(frozen=True, eq=False)
class ImageJudge:
    """Features of images against those of held-out images.

    Attributes:
        network: what computes the features.
        reference: features `[n 64]` of the held-out images.
        samples: images a judgement takes.
        classes: whether the network knows the data's classes, so that counting them means anything.
        floors: figures of as many training images.
        seed: of the subsets of the kernel distance.
    """

    network: LeNet
    reference: Tensor
    samples: int
    classes: bool
    floors: dict[str, float]
    seed: int

    def __call__(self, x: Tensor) -> dict[str, float]:
        """Figures of images `[samples 1 h w]`, taken as they would be saved: in 256 grey values.

        Raises:
            RunError: a pixel is not finite.
        """
        _check_number(x, self.samples)
        return _image_figures(self.network, self.reference, x, self.classes, self.seed)


def judge_for(source: Source, *, samples: int | None = None, seed: int = 0) -> Judge | None:
    """The judge of a source: of modes where the density is known, else of features.

    `judge.samples` is what it wants to see: `samples`, but no more images than the data has for
    training, because the floor needs as many real ones.

    Args:
        samples: 2 500 points or 10 000 images unless given.
        seed: of the floors and of the subsets of the kernel distance.

    Returns:
        `None` if no shipped network fits the images, or too few images are there to compare.
    """
    if samples is not None and samples <= NEIGHBOURS:
        raise ValueError(f"judging needs more than {NEIGHBOURS} samples, got {samples=}")
    if source.mixture is not None:
        return point_judge(source.mixture, samples=samples or POINTS, seed=seed)
    network = feature_network(source.shape)
    if network is None:
        return None
    x, _ = source.reference("train", samples or IMAGES, seed)
    held_out, label = source.reference("held_out", IMAGES, seed)
    if min(len(x), len(held_out)) <= NEIGHBOURS:
        return None
    reference, predicted = extract(network, held_out)
    known = knows_classes(predicted, label)
    figures = _image_figures(network, reference, x, known, seed)
    floors = {f"floor_{name}": figure for name, figure in figures.items()}
    return ImageJudge(network, reference, len(x), known, floors, seed)


def knows_classes(predicted: Tensor | None, label: Tensor | None) -> bool:
    """Whether a network's idea `[n]` of held-out examples agrees with the data's, if it has one."""
    if predicted is None or label is None:
        return False
    return float((predicted == label).float().mean()) >= RECOGNISED


def point_judge(
    mixture: GaussianMixture, *, samples: int = POINTS, seed: int = 0, repeats: int = 32
) -> PointJudge:
    """A judge whose floors are the mean over `repeats` sets drawn from the mixture itself."""
    if samples < 1 or repeats < 1:
        raise ValueError(f"need samples >= 1 and repeats >= 1, got {samples=}, {repeats=}")
    generator = torch.Generator(mixture.means.device).manual_seed(seed)
    reference, _ = mixture.sample(samples, generator)
    perfect = [
        _point_figures(mixture, reference, mixture.sample(samples, generator)[0])
        for _ in range(repeats)
    ]
    floors = {f"floor_{name}": fmean(row[name] for row in perfect) for name in perfect[0]}
    return PointJudge(mixture, reference, samples, floors)


def _point_figures(mixture: GaussianMixture, reference: Tensor, x: Tensor) -> dict[str, float]:
    figures = mode_coverage(x.cpu(), mixture)
    if mixture.dimension <= 2:
        figures["sliced_wasserstein"] = sliced_wasserstein(reference, x)
    return figures


def _image_figures(
    network: LeNet, reference: Tensor, x: Tensor, classes: bool, seed: int
) -> dict[str, float]:
    if not bool(torch.isfinite(x).all()):
        raise RunError(
            "cannot judge images with pixels that are not finite; training has diverged."
        )
    features, predicted = extract(network, to_float(to_bytes(x)))
    figures = {
        "frechet_distance": frechet_distance(reference, features),
        "kid": kernel_distance(reference, features, seed=seed),
        **prdc(reference, features, neighbours=NEIGHBOURS),
    }
    if classes:
        figures["class_reverse_kl"] = class_reverse_kl(predicted, network.config["classes"])
    return figures


def _check_number(x: Tensor, samples: int) -> None:
    if len(x) != samples:
        raise ValueError(f"this judge's floors hold for {samples} samples, got {len(x)}")


Features = Callable[[Tensor], Tensor]
BATCH = 500
DRAWS = 4
"""Sets of a mixture's own points that its floors are the mean of."""
TRAINING = 100_000
"""Training examples among which nearest ones are looked for, at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """Samples as they are compared.

    Attributes:
        features: `[b d]`.
        label: `[b]`, the class that the network sees in each, or `None`.
    """

    features: Tensor
    label: Tensor | None

    def take(self, rows: Tensor) -> "Seen":
        """Some of them."""
        return Seen(
            features=self.features[rows], label=None if self.label is None else self.label[rows]
        )


@dataclass(frozen=True, kw_only=True)
class Eye:
    """How examples of one shape become features, on the CPU, a batch at a time.

    Images are seen as they would be saved, in 256 grey values, whoever made them.

    Attributes:
        shape: of one example.
        features: `[b ...] -> [b d]`; `None` where `classes` or the coordinates give them.
        network: whose classes are the data's, if there is one.
    """

    shape: tuple[int, ...]
    features: Features | None
    network: LeNet | None

    @torch.no_grad()
    def see(self, x: Tensor) -> Seen:
        """Features of `[b ...]`.

        Raises:
            ValueError: examples of another shape.
            RunError: a number that is not finite.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"expected examples {list(self.shape)}, got {list(x.shape[1:])}")
        features, labels = [], []
        look = self.features
        for part in x.detach().split(BATCH):
            if not bool(torch.isfinite(part).all()):
                raise RunError(
                    "cannot measure samples that are not finite: the sampler or its training has "
                    "diverged."
                )
            part = to_float(to_bytes(part)) if part.ndim == 4 else part.cpu()
            found = part
            if self.network is not None:
                found, label = extract(self.network, part)
                labels.append(label)
            if look is not None:
                found = look(part).detach().cpu()
            _check(found, len(part))
            features.append(found)
        return Seen(features=torch.cat(features), label=torch.cat(labels) if labels else None)


def examples(
    data: Source | tuple[Tensor, Tensor], samples: int, seed: int
) -> tuple[Tensor, Tensor | None, Tensor | None, list[Tensor]]:
    """What a evaluator needs of the data.

    Returns:
        Held-out examples; their labels, if there are any; training examples; and, if those are
        drawn without end, some sets of `samples` of them in their place.

    Raises:
        InputError: training and held-out examples of different shapes, or images that are not in
            [-1, 1].
    """
    if isinstance(data, tuple):
        train, held_out = data
        for examples in data:
            _check_examples(examples)
        if train.shape[1:] != held_out.shape[1:]:
            raise InputError(
                "training and held-out examples must have one shape, got "
                f"{list(train.shape[1:])} and {list(held_out.shape[1:])}"
            )
        return held_out, None, train, []
    if data.size is None:
        held_out, label = data.reference("held_out", samples, seed)
        draws = [data.reference("train", samples, seed + number)[0] for number in range(DRAWS)]
        return held_out, label, None, draws
    held_out, label = data.reference("held_out", max(samples, IMAGES), seed)
    return held_out, label, data.reference("train", min(data.size, TRAINING), seed)[0], []


def unseen(data: Source | tuple[Tensor, Tensor]) -> tuple[str, ...]:
    """A sentence if nearest training examples are looked for among a part of them only."""
    size = None if isinstance(data, tuple) else data.size
    if size is None or size <= TRAINING:
        return ()
    return (
        f"Nearest training examples are looked for among {TRAINING} of {size}: copies of others "
        "are not found.",
    )


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


def _check(features: Tensor, count: int) -> None:
    if features.ndim != 2 or len(features) != count:
        raise InputError(
            f"the features of {count} examples must be [{count} d], got {list(features.shape)}: "
            "pass features, a function of a batch of images"
        )


MODES = tuple(name for name, metric in METRICS.items() if metric.group == "modes")


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Held-out examples and training examples as features, and what follows from them alone.

    Attributes:
        held_out: `[n d]`, what samples are compared with.
        radii: `[n]`, see `neighbour_radii`.
        kernel: the mean kernel among held-out examples, see `mean_kernel`.
        classes: how many the network tells apart; 0 where they are not the data's.
        training: `[t d]`, and `distance` `[n]` from held-out examples to it; `None` if endless.
        mixture: the density of points, if known.
    """

    held_out: Tensor
    radii: Tensor
    kernel: float
    classes: int
    training: Tensor | None
    distance: Tensor | None
    mixture: GaussianMixture | None

    def figures(self, seen: Seen, subsets: Sequence[Tensor]) -> dict[str, list[float]]:
        """Every figure but the two-sample test's, for each subset of the samples.

        Args:
            subsets: indices of samples.

        Returns:
            metric -> a value for each subset.
        """
        fake = seen.features
        members = torch.zeros(len(subsets), len(fake), dtype=torch.bool)
        for member, index in zip(members, subsets, strict=True):
            member[index] = True
        found = {
            "frechet_distance": [frechet_distance(self.held_out, fake[i]) for i in subsets],
            "kid": subset_kernel_distance(self.held_out, self.kernel, fake, members).tolist(),
        }
        shares = subset_prdc(self.held_out, self.radii, fake, members, neighbours=NEIGHBOURS)
        found.update((name, values.tolist()) for name, values in shares.items())
        if self.classes and seen.label is not None:
            label = seen.label
            found["class_reverse_kl"] = [class_reverse_kl(label[i], self.classes) for i in subsets]
        if self.training is not None and self.distance is not None:
            close = closeness(nearest(fake, self.training)[0], self.distance)
            found["memorisation"] = [float(close[i].mean()) for i in subsets]
        if self.mixture is not None:
            rows = [mode_coverage(fake[i], self.mixture) for i in subsets]
            found.update((name, [row[name] for row in rows]) for name in MODES)
            if self.mixture.dimension <= 2:
                found["sliced_wasserstein"] = [
                    sliced_wasserstein(self.held_out[: len(i)], fake[i]) for i in subsets
                ]
        return found

    def two_sample(self, seen: Seen, seed: int) -> dict[str, Estimate]:
        """The two-sample test; its own intervals, and none for its p-value."""
        test = two_sample_test(self.held_out, seen.features, seed=seed)
        return {
            "c2st_accuracy": test.accuracy,
            "c2st_p": Estimate(value=test.p, low=test.p, high=test.p),
            "tv_bound": test.tv_bound,
            "jsd_bound": test.jsd_bound,
        }


def reference_of(
    held_out: Tensor, training: Tensor | None, classes: int, mixture: GaussianMixture | None
) -> Reference:
    """Work out what does not depend on samples; features `[n d]` and `[t d]`."""
    return Reference(
        held_out=held_out,
        radii=neighbour_radii(held_out, neighbours=NEIGHBOURS),
        kernel=mean_kernel(held_out),
        classes=classes,
        training=training,
        distance=None if training is None else nearest(held_out, training)[0],
        mixture=mixture,
    )


FEW = 1_000
"""Test examples below which a two-sample test is a coarse one."""


def floors(reference: Reference, draws: Sequence[Seen], seed: int) -> dict[str, float]:
    """The mean figures of sets of real examples in the place of generated ones.

    Of memorisation it is what examples get that were never trained on, one half: training examples
    are their own nearest ones.
    """
    rows = []
    for seen in draws:
        whole = reference.figures(seen, [torch.arange(len(seen.features))])
        told = reference.two_sample(seen, seed)
        rows.append(
            {name: value for name, (value,) in whole.items()}
            | {name: estimate.value for name, estimate in told.items()}
        )
    found = {name: fmean(row[name] for row in rows) for name in rows[0]}
    return found | ({"memorisation": 0.5} if "memorisation" in found else {})


def ideal_values(mixture: GaussianMixture, real: int, samples: int) -> dict[str, float]:
    """What perfect samples of well separated modes get without chance.

    High-quality points are a Gaussian cut off at r = 3 standard deviations: `P(d/2, r^2/2)` of all,
    of variance `P(d/2 + 1, r^2/2) / P(d/2, r^2/2)` a coordinate, P the regularised lower incomplete
    gamma function. Coverage and density hold for these numbers of real points and samples; all
    else is the limit of many.
    """
    shape = torch.tensor([mixture.dimension / 2, mixture.dimension / 2 + 1], dtype=torch.float64)
    within, second = torch.special.gammainc(shape, torch.tensor(HIGH_QUALITY**2 / 2)).tolist()
    return {
        "modes": float(mixture.components),
        "high_quality": within,
        "reverse_kl": reverse_kl(mixture.weights),
        "mode_std": math.sqrt(second / within),
        "density": 1.0,
        "coverage": expected_coverage(real, samples, neighbours=NEIGHBOURS),
        "c2st_accuracy": 0.5,
        **dict.fromkeys(
            ("frechet_distance", "kid", "sliced_wasserstein", "tv_bound", "jsd_bound"), 0.0
        ),
    }


def sample_size_warnings(samples: int, held_out: Tensor, wanted: int | None) -> tuple[str, ...]:
    """What a evaluator of so many samples and these held-out features `[n d]` cannot tell."""
    count, width = held_out.shape
    said = []
    if wanted is not None and samples < wanted:
        said.append(
            f"{wanted} samples were asked for, but each sampler is measured by {samples}: there "
            "are no more training examples to take the floor from."
        )
    if min(samples, count) <= width:
        said.append(
            f"The Frechet distance needs more examples than its {width} features, better many "
            f"times as many; it has {samples} samples and {count} held-out examples and says "
            "little here."
        )
    tested = 2 * (min(samples, count) - min(samples, count) // 2)
    if tested < FEW:
        said.append(
            f"The two-sample test has {tested} examples to test on: it finds (nine times in ten, "
            f"at 5 %) only what can be told apart with an accuracy of "
            f"{detectable_accuracy(tested):.3f} or more."
        )
    if count < FEW:
        said.append(
            f"There are {count} held-out examples: which they are moves every figure, of all "
            "methods together, by more than the intervals say, so compare methods with each other "
            "and with the floor."
        )
    return tuple(said)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluator:
    """Maps `samples` samples to figures with 95 % intervals, each beside its floor.

    Everything happens on the CPU and no random state changes: the same samples, the same figures.
    The intervals are about the draw of samples; held-out examples stay the same for all samplers.

    Attributes:
        samples: how many it takes, the same number from every sampler.
        held_out: examples that samples are compared with.
        train: training examples `[t ...]`; `None` where they are drawn without end.
        features: what images are compared by, in a word.
        warnings: a sentence each.
        floors: figures of as many real samples; of memorisation, what new examples get.
        ideal_values: figures of perfect samples in the limit, where the density is known.
        eye: how it sees.
        reference: what it compares with.
        parts: of the samples, for the intervals.
        seed: of the parts and of the classifier.
    """

    samples: int
    held_out: int
    train: Tensor | None
    features: str
    warnings: tuple[str, ...]
    floors: Mapping[str, float]
    ideal_values: Mapping[str, float]
    eye: Eye
    reference: Reference
    parts: int
    seed: int

    def __call__(self, x: Tensor) -> dict[str, Estimate]:
        """Every figure of samples `[samples ...]`.

        Raises:
            ValueError: another number of samples, or another shape.
            RunError: a sample is not finite.
        """
        if len(x) != self.samples:
            raise ValueError(
                f"this evaluator's floors hold for {self.samples} samples, got {len(x)}"
            )
        seen = self.eye.see(x)
        parts = random_parts(len(x), parts=self.parts, seed=self.seed)
        found = self.reference.figures(seen, [torch.arange(len(x)), *parts])
        estimates = {
            name: self._estimate(name, value, spread(rest, len(x)))
            for name, (value, *rest) in found.items()
        }
        estimates |= self.reference.two_sample(seen, self.seed)
        return {
            name: replace(estimate, floor=self.floors.get(name), ideal=self.ideal_values.get(name))
            for name, estimate in estimates.items()
        }

    def histogram(self, x: Tensor) -> tuple[int, ...]:
        """How many of `[b ...]` the network takes for each class; empty where it has none."""
        label = self.eye.see(x).label
        if label is None or not self.reference.classes:
            return ()
        return tuple(count_classes(label, self.reference.classes).tolist())

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distance of features of `[b ...]` to their nearest in `train`, and its index, `[b]`.

        Raises:
            ValueError: training examples are drawn without end.
        """
        if self.reference.training is None:
            raise ValueError("training examples that are drawn without end have no nearest one")
        return nearest(self.eye.see(x).features, self.reference.training)

    def distance_to_held_out(self, x: Tensor) -> Tensor:
        """Distance of features of `[b ...]` to the nearest held-out example, `[b]`."""
        return nearest(self.eye.see(x).features, self.reference.held_out)[0]

    @cached_property
    def key(self) -> dict[str, str | int]:
        """What its figures depend on but the samples, to know again what was measured."""
        known = hashlib.sha256()
        for x in (self.reference.held_out, self.reference.training):
            known.update(b"" if x is None else x.contiguous().numpy().tobytes())
        settings = {"samples": self.samples, "parts": self.parts, "seed": self.seed}
        return {**settings, "classes": self.reference.classes, "compared": known.hexdigest()}

    def _estimate(self, name: str, value: float, error: float) -> Estimate:
        shares = dict.fromkeys(("precision", "high_quality", "memorisation"), self.samples)
        shares |= dict.fromkeys(("recall", "coverage"), self.held_out)
        least = 1.5 / shares[name] if name in shares else 0.0
        low, high = interval(name, value, error, parts=self.parts, least=least)
        return Estimate(value=value, low=low, high=high)


def build_evaluator(
    data: Source | tuple[Tensor, Tensor],
    *,
    samples: int | None = None,
    features: Features | None = None,
    seed: int = 0,
    parts: int = PARTS,
) -> Evaluator:
    """Prepare a evaluator.

    Args:
        data: a source, or training and held-out examples: images `[n c h w]` in [-1, 1], or points
            `[n d]`.
        samples: to ask for; 10 000 unless given, but no more than there are training examples,
            because the floor needs as many real ones.
        features: of a batch of examples on the CPU, `[b ...] -> [b d]`; the shipped network for the
            shape or, for points, their coordinates, if not given.
        seed: of the floors, the parts and the classifier.
        parts: see `part_errors`.

    Raises:
        InputError: images that no shipped network fits, without features; too few examples.
    """
    held_out, label, train, draws = examples(data, samples or IMAGES, seed)
    mixture = None if isinstance(data, tuple) else data.mixture
    shape = tuple(held_out.shape[1:])
    network = feature_network(shape)
    if features is None and network is None and len(shape) != 1:
        raise InputError(
            f"no network is shipped for examples {list(shape)}: pass features, a function of a "
            "batch of them [b ...] that returns [b d]"
        )
    count = samples or IMAGES
    count = count if train is None else min(count, len(train))
    if min(count, len(held_out)) < FEWEST:
        raise InputError(
            f"{count} samples beside {len(held_out)} held-out examples are too few to measure: "
            f"at least {FEWEST} of each are needed"
        )
    eye = Eye(shape=shape, features=features, network=network)
    real = eye.see(held_out)
    known = network is not None and knows_classes(real.label, label)
    classes = int(network.config["classes"]) if network is not None and known else 0
    training = None if train is None else eye.see(train)
    reference = reference_of(
        real.features, None if training is None else training.features, classes, mixture
    )
    perfect = [eye.see(draw) for draw in draws]
    if training is not None:
        rows = torch.randperm(len(training.features), generator=rng_for("floor", seed))[:count]
        perfect = [training.take(rows)]
    named = "coordinates" if len(shape) == 1 else "lenet"
    return Evaluator(
        samples=count,
        held_out=len(held_out),
        train=train,
        features=named if features is None else getattr(features, "__name__", "features"),
        warnings=sample_size_warnings(count, real.features, samples) + unseen(data),
        floors=floors(reference, perfect, seed),
        ideal_values={} if mixture is None else ideal_values(mixture, len(held_out), count),
        eye=eye,
        reference=reference,
        parts=parts,
        seed=seed,
    )
