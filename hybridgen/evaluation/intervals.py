"""How uncertain a figure of a set of samples is: its spread over random halves of the set."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from scipy.stats import t as student
from torch import Tensor

from hybridgen.maths.draws import rng_for

HALVES = 32
FRACTIONS = frozenset(
    {"precision", "recall", "coverage", "high_quality", "memorisation", "c2st_accuracy", "c2st_p"}
)
"""Figures that cannot leave [0, 1]."""
SIGNED = frozenset({"kid", "tv_bound", "jsd_bound"})
"""Figures that chance takes below 0; all others cannot be negative."""


def half_samples(count: int, *, halves: int = HALVES, seed: int = 0) -> list[Tensor]:
    """Random subsets of half of `count` indices, drawn without replacement; nobody's state changes.

    Raises:
        ValueError: a set that cannot be halved, or fewer than two halves.
    """
    if count < 2 or halves < 2:
        raise ValueError(f"need at least 2 samples and 2 halves, got {count=}, {halves=}")
    return [
        torch.randperm(count, generator=rng_for("half", seed, number))[: count // 2].sort().values
        for number in range(halves)
    ]


def half_sample_errors(
    figures: Callable[[Tensor], Mapping[str, float]],
    count: int,
    *,
    halves: int = HALVES,
    seed: int = 0,
) -> dict[str, float]:
    """The standard error of each figure of `count` samples, by the delete-half jackknife.

    Halves hold no sample twice, as bootstrap samples do, which nearest neighbours would take for
    copies. The error is about the draw of samples alone: whatever `figures` compares them with
    stays as it is. Of smooth figures it is exact on average. It is too large for those that are
    near the least they can be (by sqrt(3) for a squared distance of means at its floor) and for
    those that count what nothing has hit.
    Source: Shao & Wu 1989, Annals of Statistics 17, section 2, with d = n/2.

    Args:
        figures: of the samples at these indices `[m]`.

    Returns:
        figure -> standard error; infinite where a half's figure is not finite.
    """
    rows = [figures(index) for index in half_samples(count, halves=halves, seed=seed)]
    return {name: spread([row[name] for row in rows], count) for name in rows[0]}


def spread(values: Sequence[float], count: int) -> float:
    """`sqrt(h / (n - h))` times the standard deviation over subsets of h = n // 2 of n samples."""
    if not all(math.isfinite(value) for value in values):
        return math.inf
    half = count // 2
    deviation = float(torch.tensor(values, dtype=torch.float64).std())
    return math.sqrt(half / (count - half)) * deviation


def interval(
    name: str, value: float, error: float, *, halves: int = HALVES, least: float = 0.0
) -> tuple[float, float]:
    """The 95 % interval `value +- t error`, cut where the figure called `name` cannot go.

    `t` is Student's quantile for `halves - 1` degrees of freedom.

    Args:
        least: an error that the figure has at least; for a share of n that came out as 0 or 1,
            where halves do not differ, `1.5 / n` gives the rule of three.

    Returns:
        The ends; as far out as the figure goes where value or error is not finite.
    """
    lowest = -math.inf if name in SIGNED else 0.0
    highest = 1.0 if name in FRACTIONS else math.inf
    if not (math.isfinite(value) and math.isfinite(error)):
        return lowest, highest
    reach = float(student.ppf(0.975, halves - 1)) * max(error, least)
    return max(value - reach, lowest), min(value + reach, highest)
