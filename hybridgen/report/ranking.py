"""Which of two figures is better, whether their uncertainty lets one say so, and which row stands
beside which."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hybridgen.evaluation.results import Row
from hybridgen.metrics.intervals import Estimate
from hybridgen.metrics.registry import metric_of

Outcome = Literal["better", "worse", "tie"]
Change = Literal["guidance", "refinement", "training"]
"""Guidance asks a discriminator for gradients while sampling, refinement asks it which samples to
keep, and training costs nothing when sampling."""


@dataclass(frozen=True, kw_only=True)
class LossValue:
    """A figure turned so that less is better: the value, and how far its interval reaches."""

    value: float
    below: float
    above: float


def loss_value(estimate: Estimate, metric: str) -> LossValue:
    """The figure itself, its negative, or its distance from what perfect samples get.

    A figure that is not finite is infinitely bad, whichever way is better. An interval that is not
    finite has no end, so nothing is told apart from it.
    """
    value, low, high = estimate.value, estimate.low, estimate.high
    if not math.isfinite(value):
        return LossValue(value=math.inf, below=0.0, above=0.0)
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = -math.inf, math.inf
    low, high = min(low, value), max(high, value)
    better = metric_of(metric).better
    if better == "higher":
        value, low, high = -value, -high, -low
    elif isinstance(better, float):
        ends = abs(low - better), abs(high - better)
        inside = low <= better <= high
        value, low, high = abs(value - better), 0.0 if inside else min(ends), max(ends)
    return LossValue(value=value, below=value - low, above=high - value)


def outcome(a: Estimate, b: Estimate, metric: str) -> Outcome | None:
    """What `a` is beside `b`; `None` unless both are finite.

    They are told apart if `|a - b| > sqrt(h_a^2 + h_b^2)`, where h is the half of each interval
    that faces the other: the 95 % interval of the difference of two independent estimates then
    leaves zero out.
    Source: Zou & Donner 2008, Statistics in Medicine 27, equation 4.
    """
    first, second = loss_value(a, metric), loss_value(b, metric)
    if not (math.isfinite(first.value) and math.isfinite(second.value)):
        return None
    better, worse = sorted((first, second), key=lambda x: x.value)
    if worse.value - better.value <= math.hypot(better.above, worse.below):
        return "tie"
    return "better" if better is first else "worse"


def finite_rows(rows: Sequence[Row], metric: str) -> list[Row]:
    """Rows with a finite figure and a time that can be compared."""
    return [
        row
        for row in rows
        if metric in row.figures
        and math.isfinite(row.figures[metric].value)
        and math.isfinite(row.cost.seconds.value)
        and row.cost.seconds.value > 0
    ]


def ranked(rows: Sequence[Row], metric: str) -> list[Row]:
    """Rows that have the metric, the best first; of equal ones the fastest."""
    return sorted(
        (row for row in rows if metric in row.figures),
        key=lambda row: (loss_value(row.figures[metric], metric).value, row.cost.seconds.value),
    )


def dominated(rows: Sequence[Row], metric: str) -> tuple[bool, ...]:
    """Of each row, whether another is at least as good and as fast, and one of the two more so.

    Values are compared as measured, whatever their intervals. A row without a finite figure or a
    finite time is dominated.
    """
    places = {
        id(row): (loss_value(row.figures[metric], metric).value, row.cost.seconds.value)
        for row in finite_rows(rows, metric)
    }

    def beaten(place: tuple[float, float]) -> bool:
        return any(p != place and p[0] <= place[0] and p[1] <= place[1] for p in places.values())

    return tuple(id(row) not in places or beaten(places[id(row)]) for row in rows)


def clear_winner(rows: Sequence[Row], metric: str) -> Row | None:
    """The best row, if its interval ends before that of every other one begins.

    `None` also if there is nothing beside it.
    """
    best_first = ranked(finite_rows(rows, metric), metric)
    if len(best_first) < 2:
        return None
    first, *others = (loss_value(row.figures[metric], metric) for row in best_first)
    end = first.value + first.above
    return best_first[0] if all(end < other.value - other.below for other in others) else None


def baseline_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row that `row` is a change of, at the same denoiser and generator calls.

    Refinement takes more calls by its nature, so there it is the row whose budget is refined: the
    one whose words are all in the row's setting. `None` unless exactly one row fits.
    """
    calls = row.cost.calls
    if calls is None:
        return None
    costs = {
        id(other): (other, other.cost.calls)
        for other in rows
        if other.method == row.baseline and other.cost.calls is not None
    }
    fits = [
        other
        for other, cost in costs.values()
        if math.isclose(cost.denoiser, calls.denoiser)
        and math.isclose(cost.generator, calls.generator)
    ]
    if not fits and calls.discriminator_forward > 0:
        fits = [
            other
            for other, cost in costs.values()
            if cost.calls <= calls.calls
            and cost.discriminator_forward < calls.discriminator_forward
            and _within(other, row)
        ]
    if len(fits) > 1:
        fits = [other for other in fits if _within(other, row)]
    return fits[0] if len(fits) == 1 and fits[0] is not row else None


def change_of(row: Row, base: Row) -> Change:
    """What was done to `base`, by the calls that came on top."""
    if row.cost.calls is None or base.cost.calls is None:
        return "training"
    if row.cost.calls.discriminator_backward > base.cost.calls.discriminator_backward:
        return "guidance"
    more = row.cost.calls.discriminator_forward > base.cost.calls.discriminator_forward
    return "refinement" if more else "training"


def _within(base: Row, row: Row) -> bool:
    return set(base.setting.split(", ")) - {""} <= set(row.setting.split(", "))
