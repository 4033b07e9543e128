"""What a comparison found, in sentences that its numbers support, and no further.

"Better" and "worse" are said only of figures whose difference exceeds their uncertainty.
"""

from collections.abc import Sequence

from hybridgen.evaluation.comparison import Comparison, Row
from hybridgen.evaluation.page import words
from hybridgen.evaluation.page.metrics import direction, metric_of
from hybridgen.evaluation.page.pairs import Change, Pair, pairs
from hybridgen.evaluation.page.ranking import badness, finite_rows, verdict

CHANGES: dict[Change, str] = {
    "guidance": "Guidance by a critic, at equal denoiser calls",
    "refinement": "Refinement by a critic",
    "training": "Training with the discriminator, at equal calls of the sampler",
}


def headline(comparison: Comparison) -> list[str]:
    """A single pass beside guided diffusion, the best, the cheapest, what each change did to its
    baseline, and last what limits all that; what the rows cannot answer is left out."""
    rows = finite_rows(comparison.rows, comparison.quality)
    if not rows:
        return [f"No row has a finite {metric_of(comparison.quality).label}."]
    said = [_question(comparison, rows), _best(comparison, rows), _cheapest(comparison, rows)]
    found = pairs(rows)
    for change in CHANGES:
        kinds = dict.fromkeys(pair.row.kind for pair in found if pair.change == change)
        own = [[p for p in found if p.change == change and p.row.kind == kind] for kind in kinds]
        said.append(" ".join(filter(None, (_changed(comparison, those) for those in own))))
    return [sentence for sentence in [*said, _limits(comparison)] if sentence]


def _question(comparison: Comparison, rows: Sequence[Row]) -> str:
    """The best single pass beside the best guided diffusion."""
    metric, two = comparison.quality, _two_sides(comparison, rows)
    if two is None:
        return ""
    single, guided = two
    result = verdict(guided.figures[metric], single.figures[metric], metric)
    walk, leap = f"Guided diffusion ({_quoted(guided)})", f"a single pass ({_quoted(single)})"
    if result == "tie":
        opening = f"{walk} and {leap} cannot be told apart at {_samples(comparison)} samples"
    else:
        opening = f"{walk} is {result} than {leap}"
    return (
        f"{opening}: {metric_of(metric).label} {words.with_interval(guided.figures[metric])} "
        f"against {words.with_interval(single.figures[metric])}{_floor(single, metric)}, at "
        f"{_times(guided, single)} ({_time(guided)} against {_time(single)} a sample)."
    )


def _best(comparison: Comparison, rows: Sequence[Row]) -> str:
    metric = comparison.quality
    best, two = _ranked(rows, metric)[0], _two_sides(comparison, rows)
    label, figure = metric_of(metric).label, best.figures[metric]
    way = direction(metric).split()[0]
    extreme = {"higher": "highest", "lower": "lowest"}.get(way, "best")
    first = f"The {extreme} {label} is that of {_quoted(best)}"
    if two is None or best not in two:
        first += f": {words.with_interval(figure)}{_floor(best, metric)}, at {_time(best)} a sample"
    if len(rows) == 1:
        return f"{first}. There is no other row to compare it with."
    level = [
        row
        for row in rows
        if row is not best and verdict(row.figures[metric], figure, metric) == "tie"
    ]
    if not level:
        return f"{first}. It is better than every other row beyond the uncertainty."
    others = "one other row" if len(level) == 1 else f"{len(level)} other rows"
    second = f"It cannot be told apart from {others} at {_samples(comparison)} samples"
    cheaper = [row for row in level if _faster(row, best)]
    if cheaper:
        least = min(cheaper, key=_seconds)
        second += f", the cheapest of which is {_quoted(least)} at {_time(least)}"
    return f"{first}. {second}."


def _cheapest(comparison: Comparison, rows: Sequence[Row]) -> str:
    """Left out where it is the single pass of the first sentence."""
    metric, two = comparison.quality, _two_sides(comparison, rows)
    best, least = _ranked(rows, metric)[0], min(rows, key=_seconds)
    if len(rows) == 1 or (two is not None and least is two[0]):
        return ""
    if least is best:
        return f"{_quoted(best)} also takes the least time a sample."
    result = verdict(least.figures[metric], best.figures[metric], metric)
    outcome = (
        "worse beyond the uncertainty"
        if result == "worse"
        else f"not to be told apart from the best at {_samples(comparison)} samples"
    )
    return (
        f"The cheapest is {_quoted(least)}, {_time(least)} a sample: {metric_of(metric).label} "
        f"{words.with_interval(least.figures[metric])}, {outcome}; the best takes "
        f"{_times(best, least)}."
    )


def _changed(comparison: Comparison, own: Sequence[Pair]) -> str:
    """What one change did: how often, and one pair in figures."""
    metric = comparison.quality
    results = [verdict(p.row.figures[metric], p.base.figures[metric], metric) for p in own]
    if not own:
        return ""
    change, shown = own[0].change, _shown(own, metric)
    row, base = shown.row, shown.base
    figures = (
        f"{_quoted(row)} has {metric_of(metric).label} {words.with_interval(row.figures[metric])} "
        f"against {words.with_interval(base.figures[metric])} for {_quoted(base)}, at "
        f"{_times(row, base)}"
    )
    level = f"not told apart at {_samples(comparison)} samples"
    outcomes = {"better": "better", "worse": "worse", "tie": level}
    if len(own) == 1:
        return f"{CHANGES[change]}: {outcomes[str(results[0])]}. {figures}."
    counted = [
        f"{what} in {'all' if results.count(key) == len(own) > 2 else results.count(key)}"
        for key, what in outcomes.items()
        if key in results
    ]
    result = results[own.index(shown)]
    told = "" if len(counted) == 1 else f": {'not told apart' if result == 'tie' else result}"
    chosen = "At the fewest calls" if change == "training" else "At its best"
    return (
        f"{CHANGES[change]}, {len(own)} comparisons: {words.listed(counted)}. "
        f"{chosen}, {figures}{told}."
    )


def _shown(own: Sequence[Pair], metric: str) -> Pair:
    """Of changes in training the one at the fewest calls, else the one with the best figure."""
    if own[0].change == "training":
        return min(own, key=lambda p: p.row.expense.calls.calls if p.row.expense.calls else 0.0)
    return min(own, key=lambda p: badness(p.row.figures[metric], metric).value)


def _limits(comparison: Comparison) -> str:
    figures = [row.figures.get(comparison.quality) for row in comparison.rows]
    floor = any(figure is not None and figure.floor is not None for figure in figures)
    return (
        f"One training each: the 95 % intervals are over the {_samples(comparison)} samples of a "
        "row and do not say how much another training would differ. Which row is best was chosen "
        "by these same samples."
    ) + (" The floor is what as many real examples get." if floor else "")


def _two_sides(comparison: Comparison, rows: Sequence[Row]) -> tuple[Row, Row] | None:
    """The best row that is a single pass without a critic, and the best that is guided."""
    single, guided = [], []
    for row in _ranked(rows, comparison.quality):
        calls = row.expense.calls
        if calls is not None and calls.denoiser > 0 and calls.critic_backward > 0:
            guided.append(row)
        elif calls is not None and calls.calls == calls.generator == 1 and not calls.critic_forward:
            single.append(row)
    return (single[0], guided[0]) if single and guided else None


def _ranked(rows: Sequence[Row], metric: str) -> list[Row]:
    return sorted(rows, key=lambda row: (badness(row.figures[metric], metric).value, _seconds(row)))


def _floor(row: Row, metric: str) -> str:
    floor = row.figures[metric].floor
    return "" if floor is None else f", floor {words.number(floor)}"


def _times(row: Row, base: Row) -> str:
    """How the seconds of two rows compare, as far as their timing can tell."""
    if verdict(row.expense.seconds, base.expense.seconds, "seconds") in ("tie", None):
        return "about the same seconds"
    return f"{words.ratio(_seconds(row) / _seconds(base))} the seconds"


def _faster(row: Row, other: Row) -> bool:
    return verdict(row.expense.seconds, other.expense.seconds, "seconds") == "better"


def _samples(comparison: Comparison) -> str:
    return words.count(comparison.samples)


def _quoted(row: Row) -> str:
    return f"\u201c{row.name}\u201d"


def _seconds(row: Row) -> float:
    return row.expense.seconds.value


def _time(row: Row) -> str:
    return words.seconds(_seconds(row))
