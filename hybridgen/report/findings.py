"""What a comparison found, in sentences that its numbers support, and no further.

"Better" and "worse" are said only of figures whose difference exceeds their uncertainty.
"""

import math
import re
from collections.abc import Sequence

from hybridgen.evaluation.results import Comparison, Row, metrics_of
from hybridgen.metrics.registry import metric_of
from hybridgen.report import text
from hybridgen.report.ranking import finite_rows, outcome, ranked

UNEQUAL = 1.25
"""Trainings whose seconds differ by more than this factor are mentioned."""


def headline(comparison: Comparison) -> list[str]:
    """The answer first, then what it is limited to, further findings, and what intervals mean.

    The answer sets a single pass beside guided diffusion, else it is about the best row; then come
    the best and the cheapest. What the rows cannot answer is left out. Without a finite row there
    is one sentence, else there are three or more.
    """
    rows = ranked(finite_rows(comparison.rows, comparison.quality), comparison.quality)
    if not rows:
        return [f"No row has a finite {metric_of(comparison.quality).label}."]
    sides = _single_and_guided(rows)
    sentences = [_best(comparison, rows, floor=sides is None), _cheapest(comparison, rows, sides)]
    if sides is not None:
        sentences.insert(0, _question(comparison, *sides))
    first, *others = filter(None, sentences)
    return [first, _scope(comparison), *others, _intervals(comparison)]


def sample_counts(comparison: Comparison) -> str:
    """A sentence on how many were compared, for metrics that depend on it; empty if unknown."""
    shares = [name for name in ("recall", "coverage") if name in metrics_of(comparison)]
    digits = re.sub(r"[\s,\u202f\u00a0]", "", comparison.data.get("held-out examples", ""))
    if not shares or not (digits.isascii() and digits.isdigit()):
        return ""
    held_out, samples = int(digits), comparison.samples
    sentence = (
        f"{text.count(samples)} samples against {text.count(held_out)} held-out examples: "
        f"{' and '.join(shares)} depend{'s' * (len(shares) == 1)} on these numbers."
    )
    if samples < held_out and "coverage" in shares:
        sentence += (
            " With fewer samples than held-out examples coverage cannot reach 1: compare it with "
            "its floor."
        )
    return sentence


def unequal_trainings(comparison: Comparison) -> str:
    """A sentence if the seconds behind methods differ; empty if not, or if they are not known."""
    seconds = {model.name: model.facts.get("seconds", math.nan) for model in comparison.models}
    behind: dict[tuple[str, ...], float] = {}
    for row in comparison.rows:
        parts = [seconds.get(name, math.nan) for name in dict.fromkeys(row.models)]
        if parts and all(math.isfinite(part) and part > 0 for part in parts):
            behind[row.models] = sum(parts)
    if len(behind) < 2:
        return ""
    (short, least), *_, (long, most) = sorted(behind.items(), key=lambda item: item[1])
    if most <= UNEQUAL * least:
        return ""
    little = f"{text.seconds(least)} behind what takes {text.listed(short)}"
    much = f"{text.seconds(most)} behind what takes {text.listed(long)}"
    return (
        f"Training was not equal: {little}, {much}. Differences between such methods may be "
        "differences in training."
    )


def times_as_long(row: Row, base: Row) -> str:
    """How the seconds of two rows compare, as far as their timing can tell."""
    a, b = row.cost.seconds, base.cost.seconds
    if outcome(a, b, "seconds") in ("tie", None):
        return "about as long"
    return f"{text.ratio(a.value / b.value)} as long"


def _question(comparison: Comparison, single: Row, guided: Row) -> str:
    """The best single pass beside the best guided diffusion."""
    metric = comparison.quality
    result = outcome(guided.figures[metric], single.figures[metric], metric)
    opening = f"Guided diffusion is {result} than a single pass"
    if result == "tie":
        opening = (
            "Guided diffusion and a single pass cannot be told apart at "
            f"{text.count(comparison.samples)} samples"
        )
    return (
        f"{opening} ({metric_of(metric).label} {_figure(guided, metric)} for "
        f"{text.quoted(guided.name)} against {_figure(single, metric)} for "
        f"{text.quoted(single.name)}{_floor(single, metric)}). A sample takes "
        f"{times_as_long(guided, single)} ({_time(guided)} against {_time(single)})."
    )


def _best(comparison: Comparison, rows: Sequence[Row], *, floor: bool) -> str:
    metric, best = comparison.quality, rows[0]
    way = metric_of(metric).direction.split()[0]
    extreme = {"higher": "highest", "lower": "lowest"}.get(way, "best")
    first = (
        f"The {extreme} {metric_of(metric).label} is that of {text.quoted(best.name)} "
        f"({_figure(best, metric)}{_floor(best, metric) if floor else ''}). "
        f"A sample takes {_time(best)}."
    )
    if len(rows) == 1:
        return f"{first} There is no other row with such a figure to compare it with."
    level = [
        row
        for row in rows[1:]
        if outcome(row.figures[metric], best.figures[metric], metric) == "tie"
    ]
    if not level:
        return f"{first} It is better than every other row beyond the uncertainty."
    others = text.quoted(level[0].name) if len(level) == 1 else f"{len(level)} other rows"
    second = f"It cannot be told apart from {others} at {text.count(comparison.samples)} samples."
    faster = [
        row for row in level if outcome(row.cost.seconds, best.cost.seconds, "seconds") == "better"
    ]
    if faster:
        least = min(faster, key=_seconds)
        cheaper = f"The cheapest of them is {text.quoted(least.name)}"
        second += f" {'That one takes less time' if len(level) == 1 else cheaper}"
        second += f" ({_time(least)} a sample)."
    return f"{first} {second}"


def _cheapest(comparison: Comparison, rows: Sequence[Row], sides: tuple[Row, Row] | None) -> str:
    """Left out where it is the single pass of the first sentence."""
    metric, best, least = comparison.quality, rows[0], min(rows, key=_seconds)
    if len(rows) == 1 or (sides is not None and least is sides[0]):
        return ""
    if least is best:
        return f"{text.quoted(best.name)} also takes the least time a sample."
    result = (
        "worse than the best beyond the uncertainty"
        if outcome(least.figures[metric], best.figures[metric], metric) == "worse"
        else f"not to be told apart from the best at {text.count(comparison.samples)} samples"
    )
    return (
        f"The cheapest is {text.quoted(least.name)} ({_time(least)} a sample). Its "
        f"{metric_of(metric).label} ({_figure(least, metric)}) is {result}. The best takes "
        f"{times_as_long(best, least)}."
    )


def _scope(comparison: Comparison) -> str:
    """What was compared, how often and how long it was trained."""
    name = comparison.data.get("name") or comparison.data.get("data")
    seconds = {model.name: model.facts.get("seconds", math.nan) for model in comparison.models}
    models = dict.fromkeys(row.models[0] for row in comparison.rows if row.models)
    trained = [seconds.get(model, math.nan) for model in models]
    duration = ""
    if trained and all(math.isfinite(time) and time > 0 for time in trained):
        unit, unit_name = (60, "minutes") if min(trained) >= 120 else (1, "seconds")
        ends = (min(trained) / unit, max(trained) / unit)
        duration = f", for {_span(ends)} {unit_name}"
    often = [row.trainings for row in comparison.rows]
    times = "once" if max(often) == 1 else f"{_span((min(often), max(often)))} times"
    return (
        f"This holds for {f'{name} and ' if name else ''}for models that were trained {times} "
        f"each{duration}. Longer training or other seeds may change it."
    )


def _span(ends: tuple[float, float]) -> str:
    return " to ".join(dict.fromkeys(text.number(end, 2 if end < 100 else 3) for end in ends))


def _intervals(comparison: Comparison) -> str:
    repeated = any(row.trainings > 1 for row in comparison.rows)
    figures = [row.figures.get(comparison.quality) for row in comparison.rows]
    floor = any(figure is not None and figure.floor is not None for figure in figures)
    samples = f"the {text.count(comparison.samples)} samples of a row"
    once = "They do not say how much another training would differ."
    if repeated:
        samples = f"the trainings of a row, or over {samples} that was trained once"
        once = "The latter do not say how much another training would differ."
    return (
        f"In square brackets are 95 % intervals over {samples}. {once} Which row is best was "
        "chosen by these same samples."
    ) + (" The floor is what as many real examples get." if floor else "")


def _single_and_guided(rows: Sequence[Row]) -> tuple[Row, Row] | None:
    """The first row that is a single pass without a discriminator, and the first guided one."""
    single, guided = None, None
    for row in rows:
        calls = row.cost.calls
        if calls is None:
            continue
        if calls.denoiser > 0 and calls.discriminator_backward > 0:
            guided = guided or row
        elif calls.calls == calls.generator == 1 and not calls.discriminator_forward:
            single = single or row
    return None if single is None or guided is None else (single, guided)


def _figure(row: Row, metric: str) -> str:
    return text.with_interval(row.figures[metric], "[]")


def _floor(row: Row, metric: str) -> str:
    floor = row.figures[metric].floor
    return "" if floor is None else f", floor {text.number(floor)}"


def _seconds(row: Row) -> float:
    return row.cost.seconds.value


def _time(row: Row) -> str:
    return text.seconds(_seconds(row))
