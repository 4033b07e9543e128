"""Which of two figures is better, whether their uncertainty lets one say so, and which row stands
beside which."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

from scipy.special import stdtr, stdtrit

from hybridgen.evaluation.results import Row
from hybridgen.metrics.intervals import Estimate, holm, paired_errors
from hybridgen.metrics.registry import metric_of
from hybridgen.protocols import Cost

TIE = "cannot be told apart"
LEVEL = 0.05
"""Of the tests by which two figures are told apart: all of a family together."""


def loss_value(estimate: Estimate, metric: str) -> Estimate:
    """A figure turned so that less is better: the figure itself, its negative, or its distance from
    what perfect samples get.

    A figure that is not finite is infinitely bad, whichever way is better. An interval that is not
    finite has no end, so nothing is told apart from it.
    """
    value, low, high = estimate.value, estimate.low, estimate.high
    if not math.isfinite(value):
        return Estimate(value=math.inf, low=math.inf, high=math.inf)
    deviations = estimate.deviations
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high, deviations = -math.inf, math.inf, ()
    low, high, sign = min(low, value), max(high, value), 1
    better = metric_of(metric).better
    if better == "higher":
        value, low, high, sign = -value, -high, -low, -1
    elif isinstance(better, float):
        ends, sign = (abs(low - better), abs(high - better)), 1 if value > better else -1
        if low <= better <= high:  # where the distance has a kink, deviations are not its own
            ends, deviations = (0.0, *ends), ()
        value, low, high = abs(value - better), min(ends), max(ends)
    deviations = tuple(tuple(sign * each for each in row) for row in deviations)
    return replace(estimate, value=value, low=low, high=high, deviations=deviations)


def outcome(a: Estimate, b: Estimate, metric: str, *, chance: float | None = None) -> str | None:
    """ "better", "worse" or `TIE`: what `a` is beside `b`; `None` unless both are finite.

    Args:
        chance: the p-value of their difference; `p_value` of the two alone if not given.
    """
    first, second = (loss_value(each, metric).value for each in (a, b))
    if not (math.isfinite(first) and math.isfinite(second)):
        return None
    if (p_value(a, b, metric) if chance is None else chance) >= LEVEL:
        return TIE
    return "better" if first < second else "worse"


def p_value(a: Estimate, b: Estimate, metric: str, *, paired: bool = False) -> float:
    """How likely figures as far apart would be if nothing but chance parted them; two-sided.

    By Student's t: of `|a - b|` over its standard error part by part, see `paired_errors`, the
    least certain of those over parts and over trainings; or, not paired, of
    `|a - b| / sqrt(h_a^2 + h_b^2)` in units of the quantile of 97.5 %, where h is the half of each
    95 % interval that faces the other, so that it is below 0.05 where the interval of the
    difference of two independent estimates leaves zero out.
    Source: Zou & Donner 2008, Statistics in Medicine 27, equation 4.
    """
    better, worse = sorted((loss_value(x, metric) for x in (a, b)), key=lambda figure: figure.value)
    apart = worse.value - better.value
    if not apart > 0 or not math.isfinite(apart):
        return 1.0
    errors = paired_errors(better, worse) if paired else []
    if not errors:
        halves = better.high - better.value, worse.value - worse.low
        least = min((x.degrees for x in (better, worse) if x.degrees), default=math.inf)
        errors = [(math.hypot(*halves) / float(stdtrit(least, 1 - LEVEL / 2)), least)]
    return max(2 * float(stdtr(n, -apart / e if e else -math.inf)) for e, n in errors)


def row_outcomes(pairs: Sequence[tuple[Row, Row]], metric: str) -> list[str]:
    """What the first row of each pair is beside the second; "seconds" are those of a sample.

    All pairs are one family: by Holm's method the chance that any of them is told apart wrongly is
    at most 5 %. Rows that began with the same noise are paired, means over several trainings if
    these are the same too.
    """

    def figure(row: Row) -> Estimate:
        return row.cost.seconds if metric == "seconds" else row.figures[metric]

    chances = [p_value(figure(a), figure(b), metric, paired=_paired(a, b)) for a, b in pairs]
    tested = zip(pairs, holm(chances), strict=True)
    return [outcome(figure(a), figure(b), metric, chance=p) or TIE for (a, b), p in tested]


def compared(rows: Sequence[Row], metric: str) -> Callable[[Row, Row], str]:
    """The outcome of any two of the rows, all pairs being one family: the figures themselves may
    choose which of them are spoken of."""
    pairs, table = list(combinations(rows, 2)), {}
    turned = {"better": "worse", "worse": "better", TIE: TIE}
    for (row, other), result in zip(pairs, row_outcomes(pairs, metric), strict=True):
        table[id(row), id(other)], table[id(other), id(row)] = result, turned[result]
    return lambda row, other: table[id(row), id(other)]


def changes(rows: Sequence[Row], metric: str) -> list[tuple[Row, Row, str]]:
    """Each row, the one that it is a change of (see `baseline_of`), and the outcome.

    These pairs are one family: settings name them before there are figures.
    """
    bases = [(row, baseline_of(row, rows)) for row in rows]
    pairs = [(row, base) for row, base in bases if base is not None]
    results = row_outcomes(pairs, metric)
    return [(row, base, result) for (row, base), result in zip(pairs, results, strict=True)]


def _paired(row: Row, other: Row) -> bool:
    same = row.noise_shape is not None and row.noise_shape == other.noise_shape
    trainings = row.trainings == other.trainings
    return same and trainings and (row.trainings == 1 or row.models[:1] == other.models[:1])


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
    """The best row, if it is told apart from every other one; see `compared`.

    `None` also if there is nothing beside it.
    """
    best_first = ranked(finite_rows(rows, metric), metric)
    if len(best_first) < 2:
        return None
    first, *others = best_first
    outcome_of = compared(best_first, metric)
    return first if all(outcome_of(first, other) == "better" for other in others) else None


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
