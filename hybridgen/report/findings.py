"""What a comparison found, in sentences that its numbers support, and no further.

"Better" and "worse" are said only of figures whose difference exceeds their uncertainty.
"""

import math
from collections.abc import Callable, Sequence

from hybridgen.evaluation.results import Comparison, Row, metrics_of
from hybridgen.metrics.registry import metric_of
from hybridgen.report import text
from hybridgen.report.ranking import (
    TIE,
    calls_of,
    changes,
    compared,
    finite_rows,
    ranked,
    row_outcomes,
)

Outcome = Callable[[Row, Row], str]

UNEQUAL = 1.25
"""Trainings whose seconds differ by more than this factor are mentioned."""


def headline(comparison: Comparison) -> list[str]:
    """The answer first, then what it is limited to, further findings, and what intervals mean.

    The answer sets a single pass beside guided diffusion, else it is about the best row; then come
    the best and the cheapest. What the rows cannot answer is left out. Without a finite row there
    is one sentence, else there are three or more. The page makes bold what is in quotation marks.
    """
    rows = ranked(finite_rows(comparison.rows, comparison.quality), comparison.quality)
    if not rows:
        return [f"No row has a finite {metric_of(comparison.quality).label}."]
    calls = [(row, calls_of(row)) for row in rows]
    single = [r for r, c in calls if c.calls == c.generator == 1 and not c.discriminator_forward]
    guided = [r for r, c in calls if c.denoiser > 0 and c.discriminator_backward > 0]
    outcome = compared(rows, comparison.quality)
    findings = [_best(comparison, rows, outcome)]
    if single and guided:
        change = next((c for c in changes(rows, comparison.quality) if c[0] is guided[0]), None)
        findings.insert(0, _question(comparison, single[0], guided[0], change, outcome))
    least = min(rows, key=lambda row: row.cost.seconds.value)
    if len(rows) > 1 and (len(findings) == 1 or least is not single[0]):
        findings.append(_cheapest(rows[0], least, comparison.quality, outcome))
    return [findings[0], _scope(comparison), *findings[1:], _intervals(comparison)]


def sample_counts(comparison: Comparison) -> str:
    """A sentence on how many were compared, for metrics that depend on it; empty if unknown."""
    shares = [name for name in ("recall", "coverage") if name in metrics_of(comparison)]
    held_out = comparison.data.get("held-out examples", "")
    if not shares or not held_out.isdecimal():
        return ""
    sentence = (
        f"{text.grouped(comparison.samples)} samples against {text.grouped(held_out)} held-out "
        f"examples: {' and '.join(shares)} depend{'s' * (len(shares) == 1)} on these numbers."
    )
    if comparison.samples < int(held_out) and "coverage" in shares:
        sentence += " With so few samples coverage cannot reach 1: compare it with its floor."
    return sentence


def unequal_trainings(comparison: Comparison) -> str:
    """A sentence if the seconds behind methods differ; empty if not, or if they are not known."""
    seconds = _training_seconds(comparison)
    behind = {r.models: sum(seconds[m] for m in set(r.models)) for r in comparison.rows if r.models}
    times = sorted((time, models) for models, time in behind.items() if math.isfinite(time))
    if len(times) < 2 or times[-1][0] <= UNEQUAL * times[0][0]:
        return ""
    ends = (times[0], times[-1])
    parts = [f"{text.seconds(t)} behind what takes {' and '.join(models)}" for t, models in ends]
    return (
        f"Training was not equal: {', '.join(parts)}. Differences between such methods may be "
        "differences in training."
    )


def times_as_long(row: Row, base: Row) -> str:
    """How the seconds of two rows compare, as far as their timing can tell."""
    if row_outcomes([(row, base)], "seconds") == [TIE]:
        return "about as long"
    return f"{text.number(row.cost.seconds.value / base.cost.seconds.value, 2)} times as long"


def _question(
    comparison: Comparison,
    single: Row,
    guided: Row,
    change: tuple[Row, Row, str] | None,
    outcome: Outcome,
) -> str:
    """The best single pass beside the best guided diffusion, and that beside the same unguided."""
    metric = comparison.quality
    result = outcome(guided, single)
    opening = f"Guided diffusion is {result} than a single pass"
    if result == TIE:
        opening = f"Guided diffusion and a single pass {_level(comparison)}"
    share = "no comparable unguided row says what the guide's part in it is"
    if change is not None:
        _, base, effect = change
        figure = text.with_interval(base.figures[metric], "[]")
        share = f"unguided at equal calls it is {figure}, "
        share += f"than which guided is {effect}" if effect != TIE else f"and the two {TIE}"
    return (
        f"{opening}: {metric_of(metric).label} {_named(guided, metric)} against "
        f"{_named(single, metric, floor=True)}; {share}. A sample takes "
        f"{times_as_long(guided, single)} ({_time(guided)} against {_time(single)})."
    )


def _best(comparison: Comparison, rows: Sequence[Row], outcome: Outcome) -> str:
    metric, best = comparison.quality, rows[0]
    way = {"higher": "highest", "lower": "lowest"}.get(str(metric_of(metric).better), "best")
    figure = f"{metric_of(metric).label} is {_named(best, metric, floor=True)}"
    first = f"The {way} {figure}. A sample takes {_time(best)}."
    level = [row for row in rows[1:] if outcome(row, best) == TIE]
    if len(rows) == 1:
        return f"{first} There is no other row with such a figure to compare it with."
    it = f"It{_note(best)}"
    if not level:
        return f"{first} {it} is better than every other row beyond the uncertainty."
    others = f"{len(level)} other rows" if len(level) > 1 else _called(level[0])
    failed = [row for row in level if row.validation_note]
    if len(level) > 1 and failed:
        others += f" ({len(failed)} of which rest on what failed its validation)"
    return f"{first} {it} and {others} {_level(comparison)}."


def _cheapest(best: Row, least: Row, metric: str, outcome: Outcome) -> str:
    if least is best:
        return f"{_called(best)} also takes the least time a sample."
    worse = outcome(least, best) == "worse"
    beside = "worse than" if worse else "not to be told apart from"
    return (
        f"The cheapest takes {_time(least)} a sample: {_named(least, metric)}, {beside} the "
        f"best{_note(best)}, which takes {times_as_long(best, least)}."
    )


def _scope(comparison: Comparison) -> str:
    """What was compared, how often and how long it was trained."""
    name = comparison.data.get("name")
    seconds = _training_seconds(comparison)
    trained = [seconds[model] for model in {row.models[0] for row in comparison.rows}]
    duration = ""
    if all(map(math.isfinite, trained)):
        unit, unit_name = (60, "minutes") if min(trained) >= 120 else (1, "seconds")
        duration = f", for {_ends([time / unit for time in trained])} {unit_name}"
    often = _ends([row.trainings for row in comparison.rows])
    times = "once" if often == "1" else f"{often} times"
    return (
        f"This holds for {f'{name} and for ' if name else ''}models that were trained {times} "
        f"each{duration}. Longer training or other seeds may change it."
    )


def _intervals(comparison: Comparison) -> str:
    several = any(row.trainings > 1 for row in comparison.rows) * (
        " Of a row that was trained several times they are over its trainings; its cost and "
        "pictures are those of the first."
    )
    return (
        f"In square brackets are 95 % intervals over the {text.grouped(comparison.samples)} "
        f"samples of a row. They do not say how much another training would differ.{several} "
        "Rows are called better or worse by the differences of all pairs of them, with Holm's "
        "correction, or by those of rows and what they are a change of; rows that began with the "
        "same noise rise and fall together, so their intervals may overlap. The floor is what as "
        "many real examples get."
    )


def _training_seconds(comparison: Comparison) -> dict[str, float]:
    """Of every model that a row takes; NaN where they are not known."""
    seconds = {model.name: model.facts.get("seconds", 0.0) for model in comparison.models}
    names = [name for row in comparison.rows for name in row.models]
    return {name: seconds.get(name) or math.nan for name in names}


def _ends(values: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(text.number(end, 2) for end in (min(values), max(values))))


def _level(comparison: Comparison) -> str:
    return f"{TIE} at {text.grouped(comparison.samples)} samples"


def _named(row: Row, metric: str, *, floor: bool = False) -> str:
    figure = row.figures[metric]
    level = f", floor {text.number(figure.floor)}" if floor and figure.floor is not None else ""
    return f"{text.with_interval(figure, '[]')} for {_called(row)}{level}"


def _called(row: Row) -> str:
    return f"\u201c{row.name}\u201d{_note(row)}"


def _note(row: Row) -> str:
    return f" ({row.validation_note})" * bool(row.validation_note)


def _time(row: Row) -> str:
    return text.seconds(row.cost.seconds.value)
