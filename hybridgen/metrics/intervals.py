"""How uncertain a figure of a set of samples is: its spread over random subsets of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from scipy.stats import norm
from scipy.stats import t as student
from torch import Tensor

from hybridgen.maths.rng import rng_for
from hybridgen.metrics.registry import metric_of


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its uncertainty.

    Attributes:
        value: as measured.
        low, high: the ends of its 95 % interval; both equal the value where nothing is uncertain.
        floor: what as many real samples get: training examples in the place of generated ones.
        ideal: what perfect samples get in the limit, where the density is known.
        standard_error: over trainings, of a mean over them; else `None`.
        deviations: of the figure over the parts of its samples and, of a mean, in a second row over
            its trainings, scaled so that a row's standard deviation is its standard error; empty
            where they are not known.
        least_error: the least standard error that so few samples allow.
        degrees: of freedom of Student's t behind the interval; `None` for a normal one.
    """

    value: float
    low: float
    high: float
    floor: float | None = None
    ideal: float | None = None
    standard_error: float | None = None
    deviations: tuple[tuple[float, ...], ...] = ()
    least_error: float = 0.0
    degrees: int | None = None


Z = float(norm.ppf(0.975))
"""Standard errors from a value to either end of its 95 % interval, where they are known."""
SUBSETS = 32
LEFT_OUT = 8
"""Of so many samples a subset lacks one. Halves would do for means, but not for coverage: of places
that few samples hit, half of the samples hit half, and their number moves half as much."""


def jackknife_subsets(count: int, *, subsets: int = SUBSETS, seed: int = 0) -> Tensor:
    """Random subsets of 7/8 of `count` samples, bool `[subsets count]`; nobody's state changes.

    Drawn without replacement: bootstrap samples hold some twice, which nearest neighbours would
    take for copies.

    Raises:
        ValueError: a set too small to leave anything out, or fewer than two subsets.
    """
    if count < 2 or subsets < 2:
        raise ValueError(f"need at least 2 samples and 2 subsets, got {count=}, {subsets=}")
    members = torch.zeros(subsets, count, dtype=torch.bool)
    for number, member in enumerate(members):
        order = torch.randperm(count, generator=rng_for("part", seed, number))
        member[order[: _size(count)]] = True
    return members


def jackknife_error(values: Sequence[float], count: int) -> float:
    """The standard error of a figure of `count` samples, by the delete-d jackknife.

    `sqrt(m / (n - m))` times the standard deviation of its values over subsets of m of n samples.
    It is about the draw of samples alone: whatever they are compared with stays as it is. Of
    smooth figures it is exact on average. It is too large for those that are near the least they
    can be (by 1.46 for a squared distance of means at its floor) and for those that count places
    of which nearly all are hit. Figures that are skewed as well, such as a Frechet distance at its
    floor, leave their intervals one time in ten instead of in twenty.
    Source: Shao & Wu 1989, Annals of Statistics 17, section 2, with d = n/8.

    Args:
        values: of the figure, for each of `jackknife_subsets(count)`.

    Returns:
        Infinity where a value is not finite.
    """
    deviations = jackknife_deviations(values, count)
    return float(np.std(deviations, ddof=1)) if deviations else math.inf


def jackknife_deviations(values: Sequence[float], count: int) -> tuple[float, ...]:
    """The values less their mean, scaled so that their standard deviation is `jackknife_error`.

    Returns:
        Nothing where there is none, or a value is not finite.
    """
    if not values or not all(map(math.isfinite, values)):
        return ()
    mean, factor = fmean(values), math.sqrt(_size(count) / (count - _size(count)))
    return tuple(factor * (value - mean) for value in values)


def mean_of(name: str, values: Sequence[float]) -> Estimate:
    """The mean of a figure called `name` over two trainings or more, with its deviations over them:
    means over the same seeds are compared in pairs. Infinite if a value is not finite."""
    mean, count = fmean(values), len(values)
    if not math.isfinite(mean):
        return Estimate(value=math.inf, low=-math.inf, high=math.inf)
    deviations = tuple((value - mean) / math.sqrt(count) for value in values)
    error = float(np.std(deviations, ddof=1))
    low, high = interval(name, mean, error, subsets=count)
    return Estimate(
        value=mean,
        low=low,
        high=high,
        standard_error=error,
        deviations=(deviations,),
        degrees=count - 1,
    )


def paired_errors(a: Estimate, b: Estimate) -> list[tuple[float, int]]:
    """The standard errors of `a - b`, and the degrees of freedom of each: over the parts of their
    samples, and over trainings where both are means.

    The two rise and fall together where sample number i of both began with the same noise, so the
    difference is taken part by part: the delete-d jackknife of the difference. Without that the
    root of the sum of squares would be several times too large for a small change of a sampler.

    Returns:
        Nothing where deviations of either are not known.
    """
    rows = list(zip(a.deviations, b.deviations, strict=False))
    least = max(a.least_error, b.least_error)
    if len(a.deviations) != len(b.deviations) or any(len(x) != len(y) for x, y in rows):
        return []
    differences = [[x - y for x, y in zip(*row, strict=True)] for row in rows]
    return [(max(float(np.std(row, ddof=1)), least), len(row) - 1) for row in differences]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, adjusted: if all below 0.05 count, the probability that any of
    them is a false alarm is at most 0.05, however the tests depend on each other.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, pages 65 to 70.
    """
    adjusted, greatest = [1.0] * len(p_values), 0.0
    for number, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        greatest = max(greatest, min(1.0, (len(p_values) - number) * p_values[place]))
        adjusted[place] = greatest
    return adjusted


def _size(count: int) -> int:
    return count - max(1, count // LEFT_OUT)


def interval(
    name: str, value: float, error: float, *, subsets: int = SUBSETS
) -> tuple[float, float]:
    """The 95 % interval `value +- t error`, cut where the figure called `name` cannot go.

    `t` is Student's quantile for `subsets - 1` degrees of freedom.

    Returns:
        The ends; as far out as the figure goes where value or error is not finite.
    """
    lowest, highest = metric_of(name).range
    if not (math.isfinite(value) and math.isfinite(error)):
        return lowest, highest
    reach = float(student.ppf(0.975, subsets - 1)) * error
    return max(value - reach, lowest), min(value + reach, highest)
