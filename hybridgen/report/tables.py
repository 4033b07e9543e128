"""The tables: quality, what a discriminator did, cost and trainings; on a page and in Markdown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

from hybridgen.errors import escaped
from hybridgen.evaluation.results import Comparison, Row, TrainingSummary, metrics_of
from hybridgen.metrics.registry import metric_of
from hybridgen.protocols import Cost
from hybridgen.report import ranking, text
from hybridgen.report.findings import times_as_long
from hybridgen.report.svg import Key, keys


class Cell(NamedTuple):
    """A text, by what its column is sorted (empty comes last), what stands below it, whether it is
    bold, and the key of the method that a row is about."""

    text: str
    order: str = ""
    small: str = ""
    best: bool = False
    key: Key | None = None


class Table(NamedTuple):
    """Columns, name -> hint; rows that begin with their header; fixed rows come first."""

    columns: Mapping[str, str]
    rows: list[list[Cell]]
    fixed: Sequence[list[Cell]] = ()


def quality_table(comparison: Comparison) -> Table:
    """Every metric with its interval, over what real and perfect samples get.

    Those of the two-sample test are left to its own table, but for the comparison's quality.
    """
    names, quality = metrics_of(comparison), comparison.quality
    kept = [n for n in names if not metric_of(n).two_sample or n == quality]
    return _metrics_table(comparison, kept)


def two_sample_table(comparison: Comparison) -> Table:
    """The metrics of a classifier that tells samples from real examples."""
    names = metrics_of(comparison)
    return _metrics_table(comparison, [n for n in names if metric_of(n).two_sample])


def changes_table(comparison: Comparison) -> Table:
    """What a discriminator did: rows beside the one that they are a change of."""
    metric, signs, lines = comparison.quality, keys(comparison.rows), []
    rows = ranking.finite_rows(comparison.rows, metric)
    for row, base, result in ranking.changes(rows, metric):
        change = ranking.change_of(row, base)
        without, ratio = _figure(base, metric), row.cost.seconds.value / base.cost.seconds.value
        without = without._replace(small="; ".join(filter(None, (without.small, base.name))))
        outcome = Cell(result, result, row.validation_note)
        figures = [Cell(change, change), _figure(row, metric), without, outcome]
        lines.append([_name(row, signs), *figures, _cell(times_as_long(row, base), ratio)])
    entry = metric_of(metric)
    columns = {"method": "", "change": "", entry.label: entry.direction, "without": ""}
    return Table(columns | {"outcome": "", "a sample takes": ""}, lines)


def cost_table(comparison: Comparison) -> Table:
    """What one sample costs."""
    times = [row.cost.seconds.value for row in comparison.rows]
    least = min((t for t in times if 0 < t < math.inf), default=math.nan)
    signs, rows = keys(comparison.rows), []
    for row in comparison.rows:
        cost, time = row.cost, row.cost.seconds
        calls = asdict(ranking.calls_of(row)).values()
        counts = [Cell("?") if cost.calls is None else _number(value) for value in calls]
        flops = _cell(text.in_units(cost.flops, text.THOUSANDS), cost.flops)
        duration = _cell(text.seconds(time.value), time.value, small=text.span(time))
        memory = f"{text.in_units(cost.peak_bytes, text.BYTES)} / {cost.batch}"
        rest = [_number(time.value / least, 2), _cell(memory, cost.peak_bytes)]
        rows.append([_name(row, signs), *counts, flops, duration, *rest])
    networks = [f"{name.replace('_', ' ')} calls" for name in asdict(Cost())]
    columns = dict.fromkeys(("method", *networks, "FLOPs", "seconds", "times the cheapest"), "")
    return Table(columns | {"peak memory": "of a batch / its samples"}, rows)


def trainings_table(models: Sequence[TrainingSummary]) -> Table:
    """What each run had."""
    names = list(dict.fromkeys(name for model in models for name in model.facts))
    rows = [[Cell(m.name, m.name), *(_number(m.facts.get(n)) for n in names)] for m in models]
    return Table({"run": ""} | {name.replace("_", " "): "" for name in names}, rows)


def markdown(comparison: Comparison) -> str:
    """A line for each row, after what real and perfect samples get; ends with a line break.

    Intervals are 95 %; bold is the best figure where it is told apart from every other.
    Memory is the peak of a batch, over the number of samples in it.
    """
    names = [n for n in metrics_of(comparison) if metric_of(n).main or n == comparison.quality]
    quality, cost = _metrics_table(comparison, names), cost_table(comparison)
    titles = [escaped(title) for title in (*quality.columns, *list(cost.columns)[1:])]
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    for cells in quality.fixed:
        lines.append([*map(_marked, cells), *[""] * (len(titles) - len(cells))])
    for row, figures, costs in zip(comparison.rows, quality.rows, cost.rows, strict=True):
        costs = [escaped(cell.text) for cell in costs[1:]]
        note = f" ({row.validation_note})" * bool(row.validation_note)
        lines.append([escaped(row.name + note), *map(_marked, figures[1:]), *costs])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def markdown_of(table: Table) -> str:
    """Any table, a line for each row, with what stands below a figure behind it."""
    titles = [escaped(title) for title in table.columns]
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    lines += [[*map(_marked, cells)] for cells in (*table.fixed, *table.rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _metrics_table(comparison: Comparison, names: Sequence[str]) -> Table:
    rows, signs = comparison.rows, keys(comparison.rows)
    best = {n: ranking.clear_winner(rows, n) for n in names if metric_of(n).better is not None}
    levels = {"real samples (floor)": "floor", "perfect samples": "ideal"}
    fixed = [[Cell(t), *(_level(rows, n, level) for n in names)] for t, level in levels.items()]
    return Table(
        {"method": ""} | {metric_of(name).label: metric_of(name).direction for name in names},
        [[_name(row, signs), *(_figure(row, n, best.get(n)) for n in names)] for row in rows],
        [cells for cells in fixed if any(cell.text for cell in cells[1:])],
    )


def _name(row: Row, signs: Mapping[str, Key]) -> Cell:
    small = "; ".join(filter(None, (row.setting, row.validation_note)))
    return Cell(row.method, row.name, small, key=signs[row.method])


def _figure(row: Row, name: str, best: Row | None = None) -> Cell:
    if (estimate := row.figures.get(name)) is None:
        return Cell("")
    if metric_of(name).p_value:
        return _cell(text.p_value(estimate.value), estimate.value)
    cell = _cell(text.value_of(estimate), estimate.value, small=text.interval_of(estimate))
    return cell._replace(best=best is row)


def _level(rows: Sequence[Row], name: str, level: str) -> Cell:
    levels = [getattr(row.figures[name], level) for row in rows if name in row.figures]
    levels = [value for value in levels if value is not None and not math.isnan(value)]
    write = text.p_value if metric_of(name).p_value else text.number
    ends = dict.fromkeys(map(write, (min(levels), max(levels)) if levels else ()))
    return Cell(" to ".join(ends))


def _number(value: float | None, digits: int = 3) -> Cell:
    if value is None:
        return Cell("")
    whole = float(value).is_integer()
    return _cell(text.grouped(int(value)) if whole else text.number(value, digits), value)


def _cell(words: str, value: float, small: str = "") -> Cell:
    return Cell(words, f"{value:.9g}" if math.isfinite(value) else "", small)


def _marked(cell: Cell) -> str:
    words = escaped(f"{cell.text} ({cell.small})" if cell.small else cell.text)
    return f"**{words}**" if cell.best else words
