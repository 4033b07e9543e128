"""What figures are read beside: floors, ideal values, and what so few samples cannot tell."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

import torch
from torch import Tensor

from hybridgen.maths.mixtures import GaussianMixture, reverse_kl
from hybridgen.metrics.modes import HIGH_QUALITY
from hybridgen.metrics.neighbours import expected_coverage
from hybridgen.metrics.two_sample import detectable_accuracy

NEIGHBOURS = 5
"""k of precision, recall, density and coverage."""
FEW = 1_000
"""Examples below which a two-sample test is a coarse one, and held-out data move every figure."""

Draw = TypeVar("Draw")


def floors(
    figures: Callable[[Draw], Mapping[str, float]], draws: Sequence[Draw]
) -> dict[str, float]:
    """The mean figures of sets of real examples in the place of generated ones.

    Of memorisation it is what examples get that were never trained on, one half: training examples
    are their own nearest ones.
    """
    rows = [figures(draw) for draw in draws]
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
