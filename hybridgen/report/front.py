"""The Pareto front: what quality costs in seconds a sample."""

from collections.abc import Mapping, Sequence
from functools import partial

from hybridgen.evaluation.results import Row
from hybridgen.metrics.registry import metric_of
from hybridgen.report import text as words
from hybridgen.report.axes import axis
from hybridgen.report.charts import floors, heights, labels, line, point, y_title
from hybridgen.report.labels import Label, around
from hybridgen.report.palette import Look
from hybridgen.report.ranking import badness, dominated, finite_rows
from hybridgen.report.shapes import Chart, Point


def front_chart(rows: Sequence[Row], metric: str, looked: Mapping[str, Look]) -> Chart | None:
    """Quality against seconds; `None` if no row has both."""
    shown = finite_rows(rows, metric)
    if not shown:
        return None
    faded = dict(zip(map(id, rows), dominated(rows, metric), strict=True))
    times = [row.cost.seconds for row in shown]
    ends = [end for time in times for end in (time.low, time.value, time.high) if end > 0]
    x = axis(ends, partial(words.seconds, padded=False), log=True)
    y = heights(shown, metric)
    points = {
        id(row): point(row, metric, x, y, row.cost.seconds, looked[row.kind], faded[id(row)])
        for row in shown
    }
    in_order = sorted(shown, key=lambda row: row.cost.seconds.value)
    methods = {row.method: [r for r in in_order if r.method == row.method] for row in shown}
    lines = [line([points[id(r)] for r in own]) for own in methods.values() if len(own) > 1]
    references = floors(rows, metric, y)
    front = [row for row in in_order if not faded[id(row)]]
    label = metric_of(metric).label
    return Chart(
        metric=metric,
        title=f"{label} against seconds a sample",
        summary=(
            f"{label} against seconds a sample for {len(shown)} rows. Not beaten in both: "
            + "; ".join(row.name for row in front)
        ),
        x_title=f"seconds a sample, {_batches(shown)}",
        y_title=y_title(metric),
        x_ticks=x.ticks,
        y_ticks=y.ticks,
        points=tuple(points[id(row)] for row in sorted(shown, key=lambda r: not faded[id(r)])),
        lines=tuple(lines),
        references=tuple(references),
        labels=labels(
            _names(front, methods, metric, points), list(points.values()), lines, references
        ),
        stairs=_stairs([points[id(row)] for row in front]),
        notes=_left_out(rows, shown, metric),
    )


def _names(
    front: Sequence[Row],
    methods: Mapping[str, Sequence[Row]],
    metric: str,
    points: Mapping[int, Point],
) -> list[list[Label]]:
    """Rows of the front by their names, other methods at their best row."""

    def at(row: Row, text: str, style: str) -> list[Label]:
        place = points[id(row)]
        return around(place.x, place.y, text, style)

    wanted = [
        at(row, row.name, "front") + at(row, row.setting or row.method, "front") for row in front
    ]
    for method, rows in methods.items():
        if not any(row in front for row in rows):
            best = min(rows, key=lambda row: badness(row.figures[metric], metric).value)
            wanted.append(at(best, method, "faded"))
    return wanted


def _stairs(front: Sequence[Point]) -> str:
    """What the best is at each price, as a path in a square of 100 by 100."""
    if len(front) < 2:
        return ""
    first, *others = front
    steps = "".join(f"H{p.x:.2f}V{p.y:.2f}" for p in others)
    return f"M{first.x:.2f} {first.y:.2f}{steps}H100"


def _batches(rows: Sequence[Row]) -> str:
    sizes = sorted({row.cost.batch for row in rows})
    return f"batch{'es of' * (len(sizes) > 1)} {words.listed([words.count(n) for n in sizes])}"


def _left_out(rows: Sequence[Row], shown: Sequence[Row], metric: str) -> tuple[str, ...]:
    there = {id(row) for row in shown}
    lost = [row.name for row in rows if metric in row.figures and id(row) not in there]
    return (f"Not drawn, because a figure is not finite: {', '.join(lost)}.",) if lost else ()
