"""How uncertain a figure of a set of samples is: its spread over random parts of the set."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
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
        truth: what perfect samples get in the limit, where the density is known.
    """

    value: float
    low: float
    high: float
    floor: float | None = None
    ideal: float | None = None


PARTS = 32
LEFT_OUT = 8
"""Of so many samples a part lacks one. Halves would do for means, but not for coverage: of places
that few samples hit, half of the samples hit half, and their number moves half as much."""


def random_parts(count: int, *, parts: int = PARTS, seed: int = 0) -> list[Tensor]:
    """Random subsets of 7/8 of `count` indices, drawn without replacement; nobody's state changes.

    Raises:
        ValueError: a set too small to leave anything out, or fewer than two parts.
    """
    if count < 2 or parts < 2:
        raise ValueError(f"need at least 2 samples and 2 parts, got {count=}, {parts=}")
    size = part_size(count)
    return [
        torch.randperm(count, generator=rng_for("part", seed, number))[:size].sort().values
        for number in range(parts)
    ]


def part_size(count: int) -> int:
    """Samples in a part."""
    return count - max(1, count // LEFT_OUT)


def part_errors(
    figures: Callable[[Tensor], Mapping[str, float]],
    count: int,
    *,
    parts: int = PARTS,
    seed: int = 0,
) -> dict[str, float]:
    """The standard error of each figure of `count` samples, by the delete-d jackknife.

    Parts hold no sample twice, as bootstrap samples do, which nearest neighbours would take for
    copies. The error is about the draw of samples alone: whatever `figures` compares them with
    stays as it is. Of smooth figures it is exact on average. It is too large for those that are
    near the least they can be (by 1.46 for a squared distance of means at its floor) and for
    those that count places of which nearly all are hit. Figures that are skewed as well, such as a
    Frechet distance at its floor, leave their intervals one time in ten instead of in twenty.
    Source: Shao & Wu 1989, Annals of Statistics 17, section 2, with d = n/8.

    Args:
        figures: of the samples at these indices `[m]`.

    Returns:
        figure -> standard error; infinite where a part's figure is not finite.
    """
    rows = [figures(index) for index in random_parts(count, parts=parts, seed=seed)]
    return {name: spread([row[name] for row in rows], count) for name in rows[0]}


def spread(values: Sequence[float], count: int) -> float:
    """`sqrt(m / (n - m))` times the standard deviation over parts, of m of n samples each."""
    if not all(math.isfinite(value) for value in values):
        return math.inf
    size = part_size(count)
    deviation = float(torch.tensor(values, dtype=torch.float64).std())
    return math.sqrt(size / (count - size)) * deviation


def interval(
    name: str, value: float, error: float, *, parts: int = PARTS, least: float = 0.0
) -> tuple[float, float]:
    """The 95 % interval `value +- t error`, cut where the figure called `name` cannot go.

    `t` is Student's quantile for `parts - 1` degrees of freedom.

    Args:
        least: an error that the figure has at least; for a share of n that came out as 0 or 1,
            where parts do not differ, `1.5 / n` gives the rule of three.

    Returns:
        The ends; as far out as the figure goes where value or error is not finite.
    """
    lowest, highest = metric_of(name).range
    if not (math.isfinite(value) and math.isfinite(error)):
        return lowest, highest
    reach = float(student.ppf(0.975, parts - 1)) * max(error, least)
    return max(value - reach, lowest), min(value + reach, highest)
