"""Quality against denoiser calls, a line for each method."""

from collections.abc import Mapping, Sequence

from hybridgen.evaluation.results import Row
from hybridgen.metrics.intervals import Estimate
from hybridgen.metrics.registry import metric_of
from hybridgen.report import text as words
from hybridgen.report.axes import Axis, axis
from hybridgen.report.charts import floors, heights, labels, line, point, y_title
from hybridgen.report.labels import around
from hybridgen.report.palette import Look
from hybridgen.report.ranking import badness, finite_rows
from hybridgen.report.shapes import Chart, Point, Reference


def calls_of(row: Row) -> float:
    """Denoiser calls a sample; 0 for a sampler that makes or counts none."""
    return row.cost.calls.denoiser if row.cost.calls is not None else 0.0


def calls_chart(rows: Sequence[Row], metric: str, looked: Mapping[str, Look]) -> Chart | None:
    """Rows that call a denoiser over how often; the best row of every other method as a line.

    `None` unless some method has two budgets to draw.
    """
    shown = finite_rows(rows, metric)
    walks = [row for row in shown if calls_of(row) > 0]
    if len({calls_of(row) for row in walks}) < 2:
        return None
    passes = _best_of_each([row for row in shown if calls_of(row) == 0], metric)
    budgets = sorted({calls_of(row) for row in walks})
    x = axis(budgets, words.number, log=True, at=budgets, apart=9.0)
    y = heights([*walks, *passes], metric)
    points = {
        id(row): point(row, metric, x, y, _exact(row), looked[row.kind], False) for row in walks
    }
    methods: dict[str, list[Point]] = {row.method: [] for row in walks}
    for row in _one_at_each(walks, metric):
        methods[row.method].append(points[id(row)])
    lines = [line(own) for own in methods.values()]
    references = [*floors(rows, metric, y), *(_across(r, metric, y, looked) for r in passes)]
    wanted = [
        [
            choice
            for at in (own[0], own[-1], *own[1:-1])
            for choice in around(at.x, at.y, method, f"kind-{at.look.colour}")
        ]
        for method, own in methods.items()
    ]
    label = metric_of(metric).label
    return Chart(
        metric=metric,
        title=f"{label} against denoiser calls",
        summary=f"{label} against denoiser calls a sample: {', '.join(methods)}",
        x_title="denoiser calls a sample",
        y_title=y_title(metric),
        x_ticks=x.ticks,
        y_ticks=y.ticks,
        points=tuple(points.values()),
        lines=tuple(one for one in lines if len(one.places) > 1),
        references=tuple(references),
        labels=labels(wanted, list(points.values()), lines, references),
    )


def _exact(row: Row) -> Estimate:
    calls = calls_of(row)
    return Estimate(value=calls, low=calls, high=calls)


def _best_of_each(rows: Sequence[Row], metric: str) -> list[Row]:
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: badness(row.figures[metric], metric).value):
        best.setdefault(row.method, row)
    return [row for row in rows if best[row.method] is row]


def _one_at_each(rows: Sequence[Row], metric: str) -> list[Row]:
    """In the order of calls; of rows of one method at the same calls the best."""
    best: dict[tuple[str, float], Row] = {}
    for row in sorted(rows, key=lambda row: badness(row.figures[metric], metric).value):
        best.setdefault((row.method, calls_of(row)), row)
    return sorted(best.values(), key=calls_of)


def _across(row: Row, metric: str, y: Axis, looked: Mapping[str, Look]) -> Reference:
    figure = row.figures[metric]
    return Reference(
        y=y.at(figure.value),
        ends=(y.at(figure.low), y.at(figure.high)),
        style=f"kind-{looked[row.kind].colour}",
        texts=(f"{row.name} {words.value_of(figure)}", row.name, row.method),
    )
