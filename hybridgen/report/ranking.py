"""Which of two figures is better, and whether their uncertainty lets one say so."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hybridgen.evaluation.results import Row
from hybridgen.metrics.intervals import Estimate
from hybridgen.metrics.registry import HIGHER_IS_BETTER, NEAREST_IS_BEST

ValidationResult = Literal["better", "worse", "tie"]


@dataclass(frozen=True, kw_only=True)
class Badness:
    """A figure turned so that less is better: the value, and how far its interval reaches."""

    value: float
    below: float
    above: float


def badness(estimate: Estimate, metric: str) -> Badness:
    """The figure itself, its negative, or its distance from what perfect samples get.

    A figure that is not finite is infinitely bad, whichever way is better. An interval that is not
    finite has no end, so nothing is told apart from it.
    """
    value, low, high = estimate.value, estimate.low, estimate.high
    if not math.isfinite(value):
        return Badness(value=math.inf, below=0.0, above=0.0)
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = -math.inf, math.inf
    low, high = min(low, value), max(high, value)
    if metric in HIGHER_IS_BETTER:
        value, low, high = -value, -high, -low
    elif metric in NEAREST_IS_BEST:
        best = NEAREST_IS_BEST[metric]
        ends = abs(low - best), abs(high - best)
        inside = low <= best <= high
        value, low, high = abs(value - best), 0.0 if inside else min(ends), max(ends)
    return Badness(value=value, below=value - low, above=high - value)


def verdict(a: Estimate, b: Estimate, metric: str) -> ValidationResult | None:
    """What `a` is beside `b`; `None` unless both are finite.

    They are told apart if `|a - b| > sqrt(h_a^2 + h_b^2)`, where h is the half of each interval
    that faces the other: the 95 % interval of the difference of two independent estimates then
    leaves zero out.
    Source: Zou & Donner 2008, Statistics in Medicine 27, equation 4.
    """
    first, second = badness(a, metric), badness(b, metric)
    if not (math.isfinite(first.value) and math.isfinite(second.value)):
        return None
    better, worse = sorted((first, second), key=lambda x: x.value)
    if worse.value - better.value <= math.hypot(better.above, worse.below):
        return "tie"
    return "better" if better is first else "worse"


def finite_rows(rows: Sequence[Row], metric: str) -> list[Row]:
    """Those with a finite figure and a time that can be compared."""
    return [
        row
        for row in rows
        if metric in row.figures
        and math.isfinite(row.figures[metric].value)
        and math.isfinite(row.cost.seconds.value)
        and row.cost.seconds.value > 0
    ]


def dominated(rows: Sequence[Row], metric: str) -> tuple[bool, ...]:
    """Of each row, whether another is at least as good and as fast, and one of the two more so.

    Values are compared as measured, whatever their intervals. A row without a finite figure or a
    finite time is dominated.
    """
    there = {id(row) for row in finite_rows(rows, metric)}
    places = {
        id(row): (badness(row.figures[metric], metric).value, row.cost.seconds.value)
        for row in rows
        if id(row) in there
    }

    def beaten(place: tuple[float, float]) -> bool:
        return any(p != place and p[0] <= place[0] and p[1] <= place[1] for p in places.values())

    return tuple(id(row) not in places or beaten(places[id(row)]) for row in rows)


def best_apart(rows: Sequence[Row], metric: str) -> Row | None:
    """The best row, if its interval ends before that of every other one begins.

    `None` also if there is nothing beside it.
    """
    ranked = sorted(
        finite_rows(rows, metric), key=lambda r: badness(r.figures[metric], metric).value
    )
    if len(ranked) < 2:
        return None
    first, *others = (badness(row.figures[metric], metric) for row in ranked)
    end = first.value + first.above
    return ranked[0] if all(end < other.value - other.below for other in others) else None
