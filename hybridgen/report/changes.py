"""What guidance, refinement and training with a discriminator did, in sentences."""

from collections.abc import Sequence

from hybridgen.evaluation.results import Comparison, Row
from hybridgen.metrics.registry import metric_of
from hybridgen.report import text as words
from hybridgen.report.pairs import Pair, pairs
from hybridgen.report.phrases import against, budgets, figure, quoted, times
from hybridgen.report.ranking import badness, verdict

OUTCOMES = {
    "better": "is better than",
    "worse": "is worse than",
    "tie": "cannot be told apart from",
}


def changes(comparison: Comparison, rows: Sequence[Row]) -> list[str]:
    """An item for each kind of change of each model: the outcome everywhere, and one pair."""
    groups: dict[tuple[str, str, str], list[Pair]] = {}
    found = pairs(rows)
    for change in ("guidance", "refinement", "training"):
        for pair in found:
            if pair.change == change:
                key = (change, pair.row.kind, pair.base.method)
                groups.setdefault(key, []).append(pair)
    return [_changed(comparison.quality, own) for own in groups.values()]


def _changed(metric: str, own: Sequence[Pair]) -> str:
    opening, other = _sides(own)
    results = [verdict(p.row.figures[metric], p.base.figures[metric], metric) for p in own]
    outcomes = [
        f"{what} {other}" + _where([p.row for p in own], _of(own, results, key))
        for key, what in OUTCOMES.items()
        if key in results
    ]
    said = f"{opening} {words.listed(outcomes)}"
    shown = _shown(own, metric)
    row, base = shown.row, shown.base
    cost = f"A sample takes {times(row, base)}."
    if len(own) == 1:
        return f"{said} ({against(row, base, metric)}). {cost}"
    best = "At the fewest calls" if own[0].change == "training" else "At its best"
    label = metric_of(metric).label
    return (
        f"{said}. {best}, {quoted(row.name)} has {label} {figure(row, metric)} (against "
        f"{figure(base, metric)} for {quoted(base.name)}). {cost}"
    )


def _sides(own: Sequence[Pair]) -> tuple[str, str]:
    """What was changed, and the name of what it is set beside."""
    pair, names = own[0], list(dict.fromkeys(p.row.method for p in own))
    base = quoted(pair.base.method)
    if pair.change == "guidance":
        return f"Guided by a discriminator, {base}", "unguided"
    if pair.change == "refinement":
        return f"Refined by a discriminator, {base}", "unrefined"
    trained = pair.row.kind.startswith("hybrid") and not pair.base.kind.startswith("hybrid")
    told = len(names) == 1 and (not trained or "discriminator" in names[0])
    opening = "" if told else "Trained with a discriminator, " if trained else "Sampled otherwise, "
    return opening + (quoted(names[0]) if len(names) == 1 else "the model"), base


def _of(own: Sequence[Pair], results: Sequence[str | None], outcome: str) -> list[Row]:
    return [pair.row for pair, result in zip(own, results, strict=True) if result == outcome]


def _where(rows: Sequence[Row], those: Sequence[Row]) -> str:
    """The budgets of `those` rows, with their methods if `rows` are of more than one."""
    exact = len(those) < len(rows)
    if len({row.method for row in rows}) == 1:
        at = budgets(those, exact=exact)
        return f" {at}" if at else ""
    named = [
        " ".join(
            filter(
                None, (quoted(m), budgets([row for row in those if row.method == m], exact=exact))
            )
        )
        for m in dict.fromkeys(row.method for row in those)
    ]
    return f" as {words.listed(named)}"


def _shown(own: Sequence[Pair], metric: str) -> Pair:
    """Of changes in training the one at the fewest calls, else the one with the best figure."""
    if own[0].change == "training":
        return min(own, key=lambda p: p.row.cost.calls.calls if p.row.cost.calls else 0.0)
    return min(own, key=lambda p: badness(p.row.figures[metric], metric).value)
