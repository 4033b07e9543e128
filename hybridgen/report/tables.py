"""The tables: quality, what a discriminator did, cost and trainings; on a page and in Markdown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hybridgen.evaluation.results import Comparison, Row, TrainingSummary, metrics_of
from hybridgen.metrics.registry import metric_of
from hybridgen.report import text
from hybridgen.report.findings import times_as_long
from hybridgen.report.ranking import baseline_of, change_of, clear_winner, finite_rows, outcome
from hybridgen.report.styles import Style, styles
from hybridgen.report.text import NETWORKS

OUTCOMES = {"better": "better", "worse": "worse", "tie": "cannot be told apart"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What stands in a table.

    Attributes:
        small: below the text.
        key: by which the column is sorted; empty comes last.
        best: whether it is bold.
        style: of the method that a row is about.
    """

    text: str
    small: str = ""
    key: str = ""
    best: bool = False
    style: Style | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns by name and hint; rows that begin with their header; fixed rows come first."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Cell, ...], ...]
    fixed: tuple[tuple[Cell, ...], ...] = ()


def quality_table(comparison: Comparison) -> Table:
    """Every metric with its interval, over what real and perfect samples get.

    Those of the two-sample test are left to its own table, but for the comparison's quality.
    """
    names = metrics_of(comparison)
    kept = [n for n in names if metric_of(n).group != "two-sample" or n == comparison.quality]
    return _metrics_table(comparison, kept)


def two_sample_table(comparison: Comparison) -> Table:
    """The metrics of a classifier that tells samples from real examples."""
    names = metrics_of(comparison)
    return _metrics_table(comparison, [n for n in names if metric_of(n).group == "two-sample"])


def changes_table(comparison: Comparison) -> Table:
    """What a discriminator did: rows beside the one that they are a change of."""
    metric, styled = comparison.quality, styles(comparison.rows)
    lines = []
    for row in (rows := finite_rows(comparison.rows, metric)):
        if (base := baseline_of(row, rows)) is None:
            continue
        result = outcome(row.figures[metric], base.figures[metric], metric)
        ratio = row.cost.seconds.value / base.cost.seconds.value
        lines.append(
            (
                _name(row, styled),
                Cell(text=change_of(row, base), key=change_of(row, base)),
                _figure(row, metric),
                _figure(base, metric, note=base.name),
                Cell(text=OUTCOMES[result or "tie"], key=OUTCOMES[result or "tie"]),
                Cell(text=times_as_long(row, base), key=f"{ratio:.9g}"),
            )
        )
    entry = metric_of(metric)
    columns = (("method", ""), ("change", ""), (entry.label, entry.direction), ("without", ""))
    return Table(columns=(*columns, ("outcome", ""), ("a sample takes", "")), rows=tuple(lines))


def cost_table(comparison: Comparison) -> Table:
    """What one sample costs."""
    times = [row.cost.seconds.value for row in comparison.rows]
    least = min((t for t in times if math.isfinite(t) and t > 0), default=math.nan)
    styled = styles(comparison.rows)
    names = [name.replace("_", " ") for name in NETWORKS]
    return Table(
        columns=(
            *(("method", ""), (f"{names[0]} calls", ""), (f"{names[1]} calls", "")),
            *((names[2], ""), (names[3], ""), ("FLOPs", ""), ("seconds", "")),
            *(("times the cheapest", ""), ("peak memory", "of a batch / its samples")),
        ),
        rows=tuple(
            (
                _name(row, styled),
                *(_calls(row, name) for name in NETWORKS),
                _plain(text.with_prefix(row.cost.flops), row.cost.flops),
                _seconds(row),
                _number(row.cost.seconds.value / least, 2),
                _memory(row),
            )
            for row in comparison.rows
        ),
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


def markdown(comparison: Comparison) -> str:
    """A line for each row, after what real and perfect samples get; ends with a line break.

    Intervals are 95 %; bold is the best figure where its interval is apart from every other.
    Memory is the peak of a batch, over the number of samples in it.
    """
    names = [n for n in metrics_of(comparison) if metric_of(n).main or n == comparison.quality]
    quality, cost = _metrics_table(comparison, names), cost_table(comparison)
    kept = [i for i, (name, _) in enumerate(cost.columns) if i and name != "times the cheapest"]
    titles = [*(name for name, _ in quality.columns), *(cost.columns[i][0] for i in kept)]
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    lines += [[*(cell.text for cell in cells), *[""] * len(kept)] for cells in quality.fixed]
    for row, figures, costs in zip(comparison.rows, quality.rows, cost.rows, strict=True):
        cells = [f"{cell.text} ({cell.small})" if cell.small else cell.text for cell in figures[1:]]
        bold = [f"**{t}**" if c.best else t for t, c in zip(cells, figures[1:], strict=True)]
        lines.append([row.name, *bold, *(costs[i].text for i in kept)])
    return "".join(f"| {' | '.join(map(_escaped, cells))} |\n" for cells in lines)


def _metrics_table(comparison: Comparison, names: Sequence[str]) -> Table:
    rows, styled = comparison.rows, styles(comparison.rows)
    best = {n: clear_winner(rows, n) for n in names if metric_of(n).better is not None}
    fixed = [
        (Cell(text=title), *(_level(rows, name, level) for name in names))
        for level, title in (("floor", "real samples (floor)"), ("ideal", "perfect samples"))
    ]
    return Table(
        columns=(("method", ""), *((metric_of(n).label, metric_of(n).direction) for n in names)),
        rows=tuple(
            (_name(row, styled), *(_figure(row, n, best=best.get(n) is row) for n in names))
            for row in rows
        ),
        fixed=tuple(cells for cells in fixed if any(cell.key for cell in cells[1:])),
    )


def _name(row: Row, styled: dict[str, Style]) -> Cell:
    return Cell(text=row.method, small=row.setting, key=row.name, style=styled[row.method])


def _figure(row: Row, name: str, *, best: bool = False, note: str = "") -> Cell:
    if (estimate := row.figures.get(name)) is None:
        return Cell(text="")
    key = f"{estimate.value:.9g}" if math.isfinite(estimate.value) else ""
    if metric_of(name).p_value:
        return Cell(text=text.p_value(estimate.value), small=note, key=key)
    small = "; ".join(filter(None, (text.interval_of(estimate), note)))
    return Cell(text=text.value_of(estimate), small=small, key=key, best=best)


def _level(rows: Sequence[Row], name: str, level: str) -> Cell:
    levels = [getattr(row.figures[name], level) for row in rows if name in row.figures]
    levels = [value for value in levels if value is not None and not math.isnan(value)]
    if not levels:
        return Cell(text="")
    write = text.p_value if metric_of(name).p_value else text.number
    ends = dict.fromkeys(write(end) for end in (min(levels), max(levels)))
    return Cell(text=" to ".join(ends), key="level")


def _calls(row: Row, name: str) -> Cell:
    return Cell(text="?") if row.cost.calls is None else _number(getattr(row.cost.calls, name))


def _seconds(row: Row) -> Cell:
    time = row.cost.seconds
    ends = dict.fromkeys(text.seconds(end) for end in (time.low, time.high))
    small = " to ".join(ends) if time.low != time.high else ""
    return Cell(text=text.seconds(time.value), small=small, key=f"{time.value:.9g}")


def _memory(row: Row) -> Cell:
    return _plain(f"{text.memory(row.cost.peak_bytes)} / {row.cost.batch}", row.cost.peak_bytes)


def _number(value: float | None, digits: int = 3) -> Cell:
    if value is None:
        return Cell(text="")
    if digits == 3 and math.isfinite(value) and float(value).is_integer():
        return _plain(text.count(int(value)), value)
    return _plain(text.number(value, digits if abs(value) < 99.5 else 3), value)


def _plain(words: str, value: float) -> Cell:
    return Cell(text=words, key=f"{value:.9g}")


def _escaped(words: str) -> str:
    clean = words.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(clean.split())
