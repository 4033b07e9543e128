"""What samples are measured against: reference statistics, floors, ideal values, warnings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import torch
from torch import Tensor

from hybridgen.maths.mixtures import GaussianMixture, reverse_kl
from hybridgen.metrics.distances import (
    frechet_distance,
    mean_kernel,
    sliced_wasserstein,
    subset_kernel_distance,
)
from hybridgen.metrics.features import Features, class_reverse_kl
from hybridgen.metrics.intervals import Estimate
from hybridgen.metrics.modes import HIGH_QUALITY, mode_coverage
from hybridgen.metrics.neighbours import (
    expected_coverage,
    memorisation,
    nearest,
    neighbour_radii,
    subset_prdc,
)
from hybridgen.metrics.registry import METRICS
from hybridgen.metrics.two_sample import detectable_accuracy, two_sample_test

NEIGHBOURS = 5
"""k of precision, recall, density and coverage."""
FEW = 1_000
"""Examples below which a two-sample test is a coarse one, and held-out data move every figure."""

MODES = tuple(name for name, metric in METRICS.items() if metric.group == "modes")
"""Figures of mode coverage with intervals: the least mode's width is too skewed for one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceStatistics:
    """What samples are compared with, and what follows from held-out data alone.

    Attributes:
        held_out: features `[n d]`.
        training: features `[t d]` among which nearest ones are looked for, if there are any.
        classes: how many the network tells apart; 0 where they are not the data's.
        mixture: the density of points, if known.
        modes_only: of points, leave out all but what their modes and distance say.
    """

    held_out: Tensor
    training: Tensor | None
    classes: int
    mixture: GaussianMixture | None
    modes_only: bool

    @cached_property
    def radii(self) -> Tensor:
        """See `neighbour_radii`, `[n]`."""
        return neighbour_radii(self.held_out, neighbours=NEIGHBOURS)

    @cached_property
    def kernel(self) -> float:
        """See `mean_kernel`."""
        return mean_kernel(self.held_out)

    @cached_property
    def distance(self) -> Tensor:
        """From held-out to the nearest training examples, `[n]`."""
        return self.nearest(self.held_out)[0]

    def nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Distance of features `[b d]` to the nearest training examples, and their index, `[b]`."""
        if self.training is None:
            raise ValueError("training examples that are drawn without end have no nearest one")
        return nearest(features, self.training)

    def figures(self, x: Features, subsets: Sequence[Tensor]) -> dict[str, list[float]]:
        """Every figure but the two-sample test's, for each subset of the samples.

        Args:
            subsets: indices of samples.

        Returns:
            metric -> a value for each subset.
        """
        fake, figures = x.features, {}
        if not self.modes_only:
            members = torch.zeros(len(subsets), len(fake), dtype=torch.bool)
            for member, index in zip(members, subsets, strict=True):
                member[index] = True
            distances = [frechet_distance(self.held_out, fake[i]) for i in subsets]
            kid = subset_kernel_distance(self.held_out, self.kernel, fake, members)
            shares = subset_prdc(self.held_out, self.radii, fake, members, neighbours=NEIGHBOURS)
            figures = {"frechet_distance": distances, "kid": kid.tolist()}
            figures |= {name: share.tolist() for name, share in shares.items()}
        if self.classes and (label := x.label) is not None:
            figures["class_reverse_kl"] = [
                class_reverse_kl(label[i], self.classes) for i in subsets
            ]
        if self.training is not None:
            copied = memorisation(self.nearest(fake)[0], self.distance)
            figures["memorisation"] = [float(copied[i].mean()) for i in subsets]
        if self.mixture is not None:
            rows = [mode_coverage(fake[i], self.mixture) for i in subsets]
            names = rows[0] if self.modes_only else MODES
            figures |= {name: [row[name] for row in rows] for name in names}
            if self.mixture.dimension <= 2:
                figures["sliced_wasserstein"] = [
                    sliced_wasserstein(self.held_out[: len(i)], fake[i]) for i in subsets
                ]
        return figures

    def values(self, x: Features, seed: int | None) -> dict[str, float]:
        """Plain figures of all samples, with those of the two-sample test if it has a seed."""
        figures = self.figures(x, [torch.arange(len(x.features))])
        tests = {} if seed is None else self.two_sample(x, seed)
        values = {name: value for name, (value,) in figures.items()}
        return values | {name: estimate.value for name, estimate in tests.items()}

    def two_sample(self, x: Features, seed: int) -> dict[str, Estimate]:
        """The two-sample test; its own intervals, and none for its p-value."""
        test = two_sample_test(self.held_out, x.features, seed=seed)
        return {
            "c2st_accuracy": test.accuracy,
            "c2st_p": Estimate(value=test.p, low=test.p, high=test.p),
            "tv_bound": test.tv_bound,
            "jsd_bound": test.jsd_bound,
        }


def floors(
    reference: ReferenceStatistics, draws: Sequence[Features], seed: int | None
) -> dict[str, float]:
    """The mean figures of sets of real examples in the place of generated ones.

    Of memorisation it is what examples get that were never trained on, one half: training examples
    are their own nearest ones.

    Args:
        seed: of the two-sample test; without one there is none.
    """
    rows = [reference.values(draw, seed) for draw in draws]
    means = {name: fmean(row[name] for row in rows) for name in rows[0]}
    return means | ({"memorisation": 0.5} if "memorisation" in means else {})


def ideal_values(mixture: GaussianMixture, real: int, samples: int) -> dict[str, float]:
    """What perfect samples of well separated modes get without chance.

    High-quality points are a Gaussian cut off at r = 3 standard deviations: `P(d/2, r^2/2)` of all,
    of variance `P(d/2 + 1, r^2/2) / P(d/2, r^2/2)` a coordinate, P the regularised lower incomplete
    gamma function. Coverage and density hold for these numbers of real points and samples; all
    else is the limit of many.
    """
    shape = torch.tensor([mixture.dimension / 2, mixture.dimension / 2 + 1], dtype=torch.float64)
    within, second = torch.special.gammainc(shape, torch.tensor(HIGH_QUALITY**2 / 2)).tolist()
    zero = ("frechet_distance", "kid", "sliced_wasserstein", "tv_bound", "jsd_bound")
    return {
        "modes": float(mixture.components),
        "high_quality": within,
        "reverse_kl": reverse_kl(mixture.weights),
        "mode_std": math.sqrt(second / within),
        "density": 1.0,
        "coverage": expected_coverage(real, samples, neighbours=NEIGHBOURS),
        "c2st_accuracy": 0.5,
        **dict.fromkeys(zero, 0.0),
    }


def sample_size_warnings(
    samples: int,
    held_out: Tensor,
    *,
    requested: int | None,
    searched: int | None,
    training: int | None,
) -> tuple[str, ...]:
    """What figures of `samples` samples beside held-out features `[n d]` cannot tell.

    Args:
        requested: samples, if a number was given.
        searched: training examples among which nearest ones are looked for.
        training: training examples in all, if they are not drawn without end.
    """
    count, width = held_out.shape
    warnings = []
    if requested is not None and samples < requested:
        warnings.append(
            f"{requested} samples were asked for, but each sampler is measured by {samples}: there "
            "are no more training examples to take the floor from."
        )
    if min(samples, count) <= width:
        warnings.append(
            f"The Frechet distance needs more examples than its {width} features, better many "
            f"times as many; it has {samples} samples and {count} held-out examples and says "
            "little here."
        )
    tested = 2 * (min(samples, count) - min(samples, count) // 2)
    if tested < FEW:
        warnings.append(
            f"The two-sample test has {tested} examples to test on: it finds (nine times in ten, "
            f"at 5 %) only what can be told apart with an accuracy of "
            f"{detectable_accuracy(tested):.3f} or more."
        )
    if count < FEW:
        warnings.append(
            f"There are {count} held-out examples: which they are moves every figure, of all "
            "methods together, by more than the intervals say, so compare methods with each other "
            "and with the floor."
        )
    if searched is not None and training is not None and searched < training:
        warnings.append(
            f"Nearest training examples are looked for among {searched} of {training}: copies of "
            "others are not found."
        )
    return tuple(warnings)
