"""What both large pictures are put together from: marks, lines and names at their places."""

import math
from collections.abc import Sequence

from hybridgen.evaluation.results import Row
from hybridgen.metrics.intervals import Estimate
from hybridgen.metrics.registry import NEAREST_IS_BEST, direction, metric_of
from hybridgen.report import text as words
from hybridgen.report.axes import Axis, axis
from hybridgen.report.labels import Box, Label, along, place
from hybridgen.report.palette import Look
from hybridgen.report.shapes import Line, Point, Reference

SIZES = {"narrow": 288.0, "wide": 610.0, "broad": 1000.0}
"""Least width in pixels of the plot at each width of the page; the names fit that."""
HEIGHT = 380.0


def facts_of(row: Row, metric: str) -> tuple[str, ...]:
    """What hovering over a row tells."""
    cost = row.cost
    said = [
        row.name,
        f"{metric_of(metric).label} {words.with_interval(row.figures[metric])}",
        f"{_seconds(cost.seconds)} a sample",
    ]
    if cost.calls is not None:
        counted = (
            (cost.calls.generator, "generator"),
            (cost.calls.denoiser, "denoiser"),
            (cost.calls.discriminator_forward, "discriminator forward"),
            (cost.calls.discriminator_backward, "discriminator backward"),
        )
        calls = [f"{words.number(n)} {name}" for n, name in counted if n]
        said.append("calls: " + (", ".join(calls) or "none"))
    return tuple(said)


def point(row: Row, metric: str, x: Axis, y: Axis, at: Estimate, look: Look, faded: bool) -> Point:
    """A row where `at` says along x and its figure along y."""
    figure = row.figures[metric]
    return Point(
        x=x.at(at.value),
        y=y.at(figure.value),
        x_ends=(x.at(_end(at.low, at)), x.at(_end(at.high, at))),
        y_ends=(y.at(_end(figure.low, figure)), y.at(_end(figure.high, figure))),
        look=look,
        faded=faded,
        facts=facts_of(row, metric),
    )


def line(points: Sequence[Point]) -> Line:
    """Through points in their order."""
    places = tuple((p.x, p.y) for p in points)
    steps = " ".join(f"{x:.2f} {y:.2f}" for x, y in places)
    return Line(path=f"M{steps}", look=points[0].look, places=places)


def floors(rows: Sequence[Row], metric: str, y: Axis) -> list[Reference]:
    """What real samples get, and what perfect ones would."""
    found = [row.figures[metric] for row in rows if metric in row.figures]
    levels = {
        "floor": next((e.floor for e in found if _finite(e.floor)), None),
        "ideal": next((e.ideal for e in found if _finite(e.ideal)), None),
    }
    if levels["ideal"] is None:
        levels["ideal"] = NEAREST_IS_BEST.get(metric)
    texts = {"floor": "real samples (floor)", "ideal": "perfect samples"}
    return [
        Reference(
            y=y.at(level),
            ends=(y.at(level), y.at(level)),
            style=style,
            texts=(f"{texts[style]} {words.number(level)}",),
        )
        for style, level in levels.items()
        if level is not None and (level > 0 or not y.log)
    ]


def heights(rows: Sequence[Row], metric: str) -> Axis:
    """The axis of a figure, upwards, so that all of its intervals and levels are seen.

    It is logarithmic for figures of which less is better if all are positive and more than a factor
    of 8 apart; levels at zero are then left out, and intervals that reach there are cut.
    """
    found = [row.figures[metric] for row in rows]
    values = [e.value for e in found]
    log = direction(metric).startswith("lower") and 0 < 8 * min(values) < max(values)
    ends = [end for e in found for end in (e.low, e.high)]
    levels = [level for e in found for level in (e.floor, e.ideal) if level is not None]
    if metric in NEAREST_IS_BEST:
        levels.append(NEAREST_IS_BEST[metric])
    if log:
        ends = [end for end in ends if end > min(values) / 3]
    return axis([*values, *ends, *levels], words.number, log=log, flipped=True)


def y_title(metric: str) -> str:
    """Name and direction."""
    way = direction(metric)
    return metric_of(metric).label + (f" ({way})" if way else "")


def labels(
    wanted: Sequence[Sequence[Label]],
    points: Sequence[Point],
    lines: Sequence[Line],
    references: Sequence[Reference],
) -> dict[str, tuple[Label, ...]]:
    """Texts at each size of the page, those of the references first."""
    written = [along(r.y, r.texts, r.style) for r in references]
    found = {}
    for size, width in SIZES.items():
        marks = [_around(p.x, p.y, 6, width) for p in points]
        soft = [_around(x, y, 2, width) for li in lines for x, y in _along(li, width)]
        soft += [_around(x, r.y, 3, width) for r in references for x in range(0, 101, 2)]
        soft += [_around(p.x, y, 2, width) for p in points for y in _between(*p.y_ends)]
        found[size] = tuple(place([*written, *wanted], marks, soft, width, HEIGHT))
    return found


def _around(x: float, y: float, reach: float, width: float) -> Box:
    left, top = x / 100 * width, y / 100 * HEIGHT
    return Box(left - reach, top - reach, left + reach, top + reach)


def _along(drawn: Line, width: float) -> list[tuple[float, float]]:
    found = []
    for (x0, y0), (x1, y1) in zip(drawn.places, drawn.places[1:], strict=False):
        steps = max(2, int(math.hypot((x1 - x0) * width, (y1 - y0) * HEIGHT) / 800))
        found += [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(steps)]
    return found


def _between(top: float, bottom: float) -> list[float]:
    return [top + (bottom - top) * i / 8 for i in range(9)]


def _end(value: float, estimate: Estimate) -> float:
    return estimate.value if math.isnan(value) else value


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _seconds(estimate: Estimate) -> str:
    if estimate.low == estimate.high:
        return words.seconds(estimate.value)
    low, high = words.seconds(estimate.low), words.seconds(estimate.high)
    return f"{words.seconds(estimate.value)} ({low} to {high})"
