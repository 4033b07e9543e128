"""What figures are read beside: the ideal values of a known density, and what few samples hide."""

import math

import torch
from torch import Tensor

from hybridgen.maths.mixtures import GaussianMixture, reverse_kl
from hybridgen.metrics.modes import HIGH_QUALITY
from hybridgen.metrics.neighbours import expected_coverage
from hybridgen.metrics.registry import NEIGHBOURS
from hybridgen.metrics.two_sample import detectable_accuracy

FEW = 1_000
"""Examples below which a two-sample test is a coarse one, and held-out data move every figure."""


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


HEAVY = 10.0
"""Kurtosis above which tails are heavy: 3 of a Gaussian, 9 of an exponential distribution."""


def tail_warning(features: Tensor, whose: str) -> str:
    """A sentence if a few of `[n d]` are so far from the others that intervals cannot be trusted.

    By the kurtosis of the distance from the mean, `E r^4 / (E r^2)^2`: where moments of order 4 are
    infinite a sample of n may show n. Of Student's t with 2 degrees of freedom, 95 % intervals of
    the Frechet distance held the truth in 13 to 35 %.
    """
    square = (features.double() - features.double().mean(dim=0)).square().sum(dim=1)
    kurtosis = float(square.square().mean() / square.mean().square())
    if not kurtosis > HEAVY:
        return ""
    return (
        f"{whose} have heavy tails (kurtosis {kurtosis:.3g}, of a Gaussian 3 or less): a few of "
        "them move the Frechet distance by more than its interval says."
    )


PAIRS_A_SECOND = 2e7
"""Compared by one core for all figures of pairs together, as it was measured on features of 64
numbers; in two dimensions it is twice as fast."""


def duration_warning(samples: int, held_out: int) -> str:
    """A sentence if comparing every pair takes more than an hour of one core, for each sampler."""
    hours = samples * (samples + 2 * held_out) / PAIRS_A_SECOND / 3600
    if hours < 1:
        return ""
    return (
        f"{samples} samples, each compared with every other and with {held_out} held-out examples, "
        f"take about {hours:.3g} hours of one core for each sampler and each floor; ask for fewer"
    )


def sample_size_warnings(
    samples: int, held_out: Tensor, *, requested: int | None, searched: int, training: int
) -> tuple[str, ...]:
    """What figures of `samples` samples beside held-out features `[n d]` cannot tell.

    Args:
        requested: samples, if a number was given.
        searched: training examples among which nearest ones are looked for.
        training: all there are.
    """
    count, width = held_out.shape
    tested = 2 * (min(samples, count) - min(samples, count) // 2)
    sentences = {
        f"{requested} samples were asked for, but each sampler is measured by {samples}: there are "
        "no more training examples to take the floor from.": samples < (requested or 0),
        f"The Frechet distance needs more examples than its {width} features, better many times as "
        f"many; it has {samples} samples and {count} held-out examples and says little "
        "here.": min(samples, count) <= width,
        f"The two-sample test has {tested} examples to test on: it finds (nine times in ten, at "
        f"5 %) only what can be told apart with an accuracy of {detectable_accuracy(tested):.3f} "
        "or more.": tested < FEW,
        f"There are {count} held-out examples: which they are moves every figure, of all methods "
        "together, by more than the intervals say, so compare methods with each other and with "
        "the floor.": count < FEW,
        f"Nearest training examples are looked for among {searched} of {training}: copies of "
        "others are not found.": searched < training,
    }
    tails = filter(None, [tail_warning(held_out, "Held-out examples")])
    return (*(sentence for sentence, holds in sentences.items() if holds), *tails)
