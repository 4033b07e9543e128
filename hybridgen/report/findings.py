"""What a comparison found, in sentences that its numbers support, and no further.

"Better" and "worse" are said only of figures whose difference exceeds their uncertainty.
"""

import math
from collections.abc import Sequence

from hybridgen.evaluation.results import Comparison, Row
from hybridgen.metrics.registry import direction, metric_of
from hybridgen.report import text as words
from hybridgen.report.changes import changes
from hybridgen.report.phrases import figure, quoted, ranked, samples, seconds, time, times
from hybridgen.report.ranking import finite_rows, verdict


def headline(comparison: Comparison) -> list[str]:
    """The answer first, then what it is limited to, further findings, and what intervals mean.

    The answer sets a single pass beside guided diffusion, else it is about the best row; then come
    the best, the cheapest, and what each change did to its baseline. What the rows cannot answer is
    left out. Without a finite row there is one sentence, else there are three or more.
    """
    rows = finite_rows(comparison.rows, comparison.quality)
    if not rows:
        return [f"No row has a finite {metric_of(comparison.quality).label}."]
    found = [_question(comparison, rows), _best(comparison, rows), _cheapest(comparison, rows)]
    first, *others = filter(None, [*found, *changes(comparison, rows)])
    return [first, _scope(comparison), *others, _intervals(comparison)]


def _question(comparison: Comparison, rows: Sequence[Row]) -> str:
    """The best single pass beside the best guided diffusion."""
    metric, two = comparison.quality, _two_sides(comparison, rows)
    if two is None:
        return ""
    single, guided = two
    result = verdict(guided.figures[metric], single.figures[metric], metric)
    opening = f"Guided diffusion is {result} than a single pass"
    if result == "tie":
        opening = (
            "Guided diffusion and a single pass cannot be told apart at "
            f"{samples(comparison)} samples"
        )
    return (
        f"{opening} ({metric_of(metric).label} {figure(guided, metric)} for {quoted(guided.name)} "
        f"against {figure(single, metric)} for {quoted(single.name)}{_floor(single, metric)}). A "
        f"sample takes {times(guided, single)} ({time(guided)} against {time(single)})."
    )


def _best(comparison: Comparison, rows: Sequence[Row]) -> str:
    metric = comparison.quality
    best, two = ranked(rows, metric)[0], _two_sides(comparison, rows)
    way = direction(metric).split()[0]
    extreme = {"higher": "highest", "lower": "lowest"}.get(way, "best")
    first = (
        f"The {extreme} {metric_of(metric).label} is that of {quoted(best.name)} "
        f"({figure(best, metric)}{'' if two else _floor(best, metric)}). "
        f"A sample takes {time(best)}."
    )
    if len(rows) == 1:
        return f"{first} There is no other row with such a figure to compare it with."
    level = [
        row
        for row in rows
        if row is not best and verdict(row.figures[metric], best.figures[metric], metric) == "tie"
    ]
    if not level:
        return f"{first} It is better than every other row beyond the uncertainty."
    others = quoted(level[0].name) if len(level) == 1 else f"{len(level)} other rows"
    second = f"It cannot be told apart from {others} at {samples(comparison)} samples."
    if cheaper := [row for row in level if _faster(row, best)]:
        least = min(cheaper, key=seconds)
        one = "That one takes less time" if len(level) == 1 else "The cheapest of them is "
        second += f" {one}{'' if len(level) == 1 else quoted(least.name)} ({time(least)} a sample)."
    return f"{first} {second}"


def _cheapest(comparison: Comparison, rows: Sequence[Row]) -> str:
    """Left out where it is the single pass of the first sentence."""
    metric, two = comparison.quality, _two_sides(comparison, rows)
    best, least = ranked(rows, metric)[0], min(rows, key=seconds)
    if len(rows) == 1 or (two is not None and least is two[0]):
        return ""
    if least is best:
        return f"{quoted(best.name)} also takes the least time a sample."
    result = verdict(least.figures[metric], best.figures[metric], metric)
    outcome = (
        "worse than the best beyond the uncertainty"
        if result == "worse"
        else f"not to be told apart from the best at {samples(comparison)} samples"
    )
    return (
        f"The cheapest is {quoted(least.name)} ({time(least)} a sample). Its "
        f"{metric_of(metric).label} ({figure(least, metric)}) is {outcome}. The best takes "
        f"{times(best, least)}."
    )


def _scope(comparison: Comparison) -> str:
    """What was compared, and how long it was trained."""
    name = comparison.data.get("name") or comparison.data.get("data")
    known = {model.name: model.facts.get("seconds", math.nan) for model in comparison.models}
    models = dict.fromkeys(row.models[0] for row in comparison.rows if row.models)
    took = [known.get(model, math.nan) for model in models]
    trained = ""
    if took and all(math.isfinite(time) and time > 0 for time in took):
        trained = f", for {_span(min(took), max(took))}"
    return (
        f"This holds for {f'{name} and ' if name else ''}for models that were trained once "
        f"each{trained}. Longer training or other seeds may change it."
    )


def _span(low: float, high: float) -> str:
    unit, name = (60, "minutes") if low >= 120 else (1, "seconds")
    ends = [f"{words.number(end / unit, 2 if end < 100 * unit else 3)}" for end in (low, high)]
    return f"{' to '.join(dict.fromkeys(ends))} {name}"


def _intervals(comparison: Comparison) -> str:
    figures = [row.figures.get(comparison.quality) for row in comparison.rows]
    floor = any(figure is not None and figure.floor is not None for figure in figures)
    return (
        f"In square brackets are 95 % intervals over the {samples(comparison)} samples of a row. "
        "They do not say how much another training would differ. Which row is best was chosen by "
        "these same samples."
    ) + (" The floor is what as many real examples get." if floor else "")


def _two_sides(comparison: Comparison, rows: Sequence[Row]) -> tuple[Row, Row] | None:
    """The best row that is a single pass without a discriminator, and the best that is guided."""
    single, guided = [], []
    for row in ranked(rows, comparison.quality):
        calls = row.cost.calls
        if calls is not None and calls.denoiser > 0 and calls.discriminator_backward > 0:
            guided.append(row)
        elif (
            calls is not None
            and calls.calls == calls.generator == 1
            and not calls.discriminator_forward
        ):
            single.append(row)
    return (single[0], guided[0]) if single and guided else None


def _floor(row: Row, metric: str) -> str:
    floor = row.figures[metric].floor
    return "" if floor is None else f", floor {words.number(floor)}"


def _faster(row: Row, other: Row) -> bool:
    return verdict(row.cost.seconds, other.cost.seconds, "seconds") == "better"
