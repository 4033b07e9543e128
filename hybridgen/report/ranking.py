"""Which of two figures is better, whether their uncertainty lets one say so, and which row stands
beside which."""

import math
from collections.abc import Sequence

from hybridgen.evaluation.results import Row
from hybridgen.metrics.intervals import Estimate
from hybridgen.metrics.registry import metric_of
from hybridgen.protocols import Cost

TIE = "cannot be told apart"


def loss_value(estimate: Estimate, metric: str) -> Estimate:
    """A figure turned so that less is better: the figure itself, its negative, or its distance from
    what perfect samples get.

    A figure that is not finite is infinitely bad, whichever way is better. An interval that is not
    finite has no end, so nothing is told apart from it.
    """
    value, low, high = estimate.value, estimate.low, estimate.high
    if not math.isfinite(value):
        return Estimate(value=math.inf, low=math.inf, high=math.inf)
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
    return Estimate(value=value, low=low, high=high)


def outcome(a: Estimate, b: Estimate, metric: str) -> str | None:
    """ "better", "worse" or `TIE`: what `a` is beside `b`; `None` unless both are finite.

    They are told apart if `|a - b| > sqrt(h_a^2 + h_b^2)`, where h is the half of each interval
    that faces the other: the 95 % interval of the difference of two independent estimates then
    leaves zero out.
    Source: Zou & Donner 2008, Statistics in Medicine 27, equation 4.
    """
    first, second = loss_value(a, metric), loss_value(b, metric)
    if not (math.isfinite(first.value) and math.isfinite(second.value)):
        return None
    better, worse = sorted((first, second), key=lambda figure: figure.value)
    halves = better.high - better.value, worse.value - worse.low
    if worse.value - better.value <= math.hypot(*halves):
        return TIE
    return "better" if better is first else "worse"


def row_outcome(row: Row, other: Row, metric: str) -> str:
    """The same of two rows whose figures are finite; "seconds" are those of a sample."""
    a, b = (r.cost.seconds if metric == "seconds" else r.figures[metric] for r in (row, other))
    return outcome(a, b, metric) or TIE


def finite_rows(rows: Sequence[Row], metric: str) -> list[Row]:
    """Rows with a finite figure and a time that can be compared."""
    timed = [row for row in rows if 0 < row.cost.seconds.value < math.inf]
    return [r for r in timed if metric in r.figures and math.isfinite(r.figures[metric].value)]


def ranked(rows: Sequence[Row], metric: str) -> list[Row]:
    """Rows that have the metric, the best first; of equal ones the fastest."""
    return sorted((row for row in rows if metric in row.figures), key=lambda r: _place(r, metric))


def dominated(rows: Sequence[Row], metric: str) -> tuple[bool, ...]:
    """Of each row, whether another is at least as good and as fast, and one of the two more so.

    Values are compared as measured, whatever their intervals. A row without a finite figure or a
    finite time is dominated.
    """
    places = {id(row): _place(row, metric) for row in finite_rows(rows, metric)}

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
    return best_first[0] if all(first.high < other.low for other in others) else None


def baseline_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row that `row` is a change of, at the same denoiser and generator calls.

    Refinement takes more calls by its nature, so there it is the row whose budget is refined: the
    one whose words are all in the row's setting. `None` unless exactly one row fits.
    """
    if (calls := row.cost.calls) is None:
        return None
    bases = [r for r in rows if r.method == row.baseline and r.cost.calls is not None]
    fits = [r for r in bases if _same_walk(calls_of(r), calls)]
    if len(fits) != 1:
        words = {"", *row.setting.split(", ")}
        fits = fits or [r for r in bases if _cheaper(calls_of(r), calls)]
        fits = [r for r in fits if words.issuperset(r.setting.split(", "))]
    return fits[0] if len(fits) == 1 and fits[0] is not row else None


def change_of(row: Row, base: Row) -> str:
    """What was done to `base`, by the calls that came on top: "guidance" asks a discriminator for
    gradients while sampling, "refinement" asks it which samples to keep, and "training" costs
    nothing when sampling."""
    calls, before = calls_of(row), calls_of(base)
    if calls.discriminator_backward > before.discriminator_backward:
        return "guidance"
    more = calls.discriminator_forward > before.discriminator_forward
    return "refinement" if more else "training"


def _place(row: Row, metric: str) -> tuple[float, float]:
    return loss_value(row.figures[metric], metric).value, row.cost.seconds.value


def calls_of(row: Row) -> Cost:
    """Of networks; none of a row whose sampler does not say."""
    return row.cost.calls or Cost()


def _same_walk(a: Cost, b: Cost) -> bool:
    return math.isclose(a.denoiser, b.denoiser) and math.isclose(a.generator, b.generator)


def _cheaper(base: Cost, cost: Cost) -> bool:
    """In every call that refinement adds to."""
    fewer = base.discriminator_forward < cost.discriminator_forward
    return fewer and base.calls <= cost.calls
