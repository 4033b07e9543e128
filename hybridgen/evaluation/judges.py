"""A judge: what a source's samples are worth, each figure beside the one that perfection gets."""

from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

import torch
from torch import Tensor

from hybridgen.data.images import to_float
from hybridgen.data.source import Source
from hybridgen.errors import RunError
from hybridgen.evaluation.classes import class_reverse_kl
from hybridgen.evaluation.distances import (
    frechet_distance,
    kernel_distance,
    sliced_wasserstein,
)
from hybridgen.evaluation.features import LeNet, extract, feature_network
from hybridgen.evaluation.modes import mode_coverage
from hybridgen.evaluation.pictures import to_bytes
from hybridgen.evaluation.prdc import prdc
from hybridgen.maths.mixtures import GaussianMixture

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
