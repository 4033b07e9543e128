"""The tables: quality, cost and trainings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybridgen.evaluation.results import Comparison, Row, TrainingSummary, metrics_of
from hybridgen.metrics.intervals import Estimate
from hybridgen.metrics.registry import (
    CHANCES,
    TWO_SAMPLE,
    UNRANKED,
    direction,
    metric_of,
)
from hybridgen.report import text as words
from hybridgen.report.palette import Look
from hybridgen.report.ranking import best_apart


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What stands in a table.

    Attributes:
        small: below the text.
        key: by which the column is sorted; empty comes last.
    """

    text: str
    small: str = ""
    key: str = ""
    best: bool = False
    look: Look | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns by name and hint; rows that begin with their header; fixed rows come first."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Cell, ...], ...]
    fixed: tuple[tuple[Cell, ...], ...] = ()


def quality_table(comparison: Comparison, looked: Mapping[str, Look]) -> Table:
    """Every figure with its interval, over what real and perfect samples get.

    Those of the two-sample test are left to its own table, but for the comparison's quality.
    """
    left = set(TWO_SAMPLE) - {comparison.quality}
    return _figures(comparison, looked, [n for n in metrics_of(comparison) if n not in left])


def two_sample_table(comparison: Comparison, looked: Mapping[str, Look]) -> Table:
    """The same for what a classifier finds that tells samples from real examples."""
    return _figures(comparison, looked, [n for n in metrics_of(comparison) if n in TWO_SAMPLE])


def _figures(comparison: Comparison, looked: Mapping[str, Look], names: Sequence[str]) -> Table:
    rows = comparison.rows
    ranked = [name for name in names if name not in UNRANKED]
    best = {name: best_apart(rows, name) for name in ranked}
    fixed = [
        (Cell(text=title), *(_level(rows, name, which) for name in names))
        for which, title in (("floor", "real samples (floor)"), ("ideal", "perfect samples"))
    ]
    return Table(
        columns=(
            ("method", ""),
            *((metric_of(name).label, direction(name)) for name in names),
        ),
        rows=tuple(
            (
                Cell(text=row.method, small=row.setting, key=row.name, look=looked[row.kind]),
                *(
                    _figure(name, row.figures.get(name), best=best.get(name) is row)
                    for name in names
                ),
            )
            for row in rows
        ),
        fixed=tuple(cells for cells in fixed if any(cell.key for cell in cells[1:])),
    )


def cost_table(rows: Sequence[Row], looked: Mapping[str, Look]) -> Table:
    """What one sample costs."""
    times = [row.cost.seconds.value for row in rows]
    least = min((t for t in times if math.isfinite(t) and t > 0), default=math.nan)
    return Table(
        columns=(
            ("method", ""),
            ("denoiser calls", ""),
            ("generator calls", ""),
            ("discriminator forward", ""),
            ("discriminator backward", ""),
            ("FLOPs", ""),
            ("seconds", ""),
            ("times the cheapest", ""),
            ("peak memory", ""),
        ),
        rows=tuple(_cost(row, looked[row.kind], least) for row in rows),
    )


def trainings_table(models: Sequence[TrainingSummary]) -> Table:
    """What each run had."""
    names = list(dict.fromkeys(name for model in models for name in model.facts))
    return Table(
        columns=(("run", ""), *((name.replace("_", " "), "") for name in names)),
        rows=tuple(
            (
                Cell(text=model.name, key=model.name),
                *(_number(model.facts.get(name)) for name in names),
            )
            for model in models
        ),
    )


def _figure(name: str, estimate: Estimate | None, *, best: bool) -> Cell:
    if estimate is None:
        return Cell(text="")
    key = f"{estimate.value:.9g}" if math.isfinite(estimate.value) else ""
    if name in CHANCES:
        return Cell(text=words.chance(estimate.value), key=key)
    text, small = words.value_of(estimate), words.interval_of(estimate)
    return Cell(text=text, small=small, key=key, best=best)


def _level(rows: Sequence[Row], name: str, which: str) -> Cell:
    levels = [getattr(row.figures[name], which) for row in rows if name in row.figures]
    there = [level for level in levels if level is not None and not math.isnan(level)]
    if not there:
        return Cell(text="")
    low, high = (
        (words.chance if name in CHANCES else words.number)(end) for end in (min(there), max(there))
    )
    return Cell(text=low if low == high else f"{low} to {high}", key=low)


def _cost(row: Row, look: Look, least: float) -> tuple[Cell, ...]:
    cost, calls = row.cost, row.cost.calls
    named = ("denoiser", "generator", "discriminator_forward", "discriminator_backward")
    counted = [_number(getattr(calls, name)) if calls else Cell(text="?") for name in named]
    time = cost.seconds
    ends = (
        "" if time.low == time.high else f"{words.seconds(time.low)} to {words.seconds(time.high)}"
    )
    return (
        Cell(text=row.method, small=row.setting, key=row.name, look=look),
        *counted,
        Cell(text=words.scaled(cost.flops), key=f"{cost.flops:.9g}"),
        Cell(text=words.seconds(time.value), small=ends, key=f"{time.value:.9g}"),
        Cell(text=words.number(time.value / least, 2 if time.value < 99.5 * least else 3)),
        Cell(
            text=words.memory(cost.peak_bytes),
            small=f"batch of {cost.batch}",
            key=str(cost.peak_bytes),
        ),
    )


def _number(value: float | None) -> Cell:
    if value is None:
        return Cell(text="")
    whole = math.isfinite(value) and float(value).is_integer()
    text = words.count(int(value)) if whole else words.number(value)
    return Cell(text=text, key=f"{value:.9g}")
