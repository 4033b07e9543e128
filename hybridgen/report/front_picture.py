"""The picture of a comparison: quality against the time that a sample takes, and samples."""

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image

from hybridgen.evaluation.results import Comparison, Row
from hybridgen.report.palette import colour_of
from hybridgen.report.ranking import badness

MARKS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


def draw_front(comparison: Comparison, path: Path) -> None:
    """Each method's budgets as a line of points with 95 % intervals, a colour for each kind.

    Below, samples of the best row of each kind, beside real ones. Rows whose figure is not finite
    are left out.
    """
    metric = comparison.quality
    rows = [row for row in comparison.rows if math.isfinite(row.figures[metric].value)]
    best = [_best([row for row in rows if row.kind == kind], metric) for kind in _kinds(rows)]
    shown = [("real", comparison.real_picture), *((row.name, row.picture) for row in best)]
    shown = [(name, picture) for name, picture in shown if picture]
    figure = Figure(figsize=(9.6, 6.4 if shown else 4.4), layout="constrained")
    if shown:
        grid = figure.add_gridspec(2, len(shown), height_ratios=(2.4, 1))
        _plot(figure.add_subplot(grid[0, :]), rows, comparison)
        for column, (name, picture) in enumerate(shown):
            _show(figure.add_subplot(grid[1, column]), name, picture)
    else:
        _plot(figure.subplots(), rows, comparison)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=150)


def named(metric: str, features: str) -> str:
    """A metric as a reader knows it; a Frechet distance by its features (`FD-lenet`)."""
    if metric == "frechet_distance":
        return f"FD-{features}" if features else "Frechet distance"
    return metric.replace("_", " ")


def _plot(axes: Axes, rows: Sequence[Row], comparison: Comparison) -> None:
    metric, kinds = comparison.quality, [row.kind for row in comparison.rows]
    for number, method in enumerate(dict.fromkeys(row.method for row in rows)):
        own = sorted((r for r in rows if r.method == method), key=lambda r: r.cost.seconds.value)
        axes.errorbar(
            [1e3 * row.cost.seconds.value for row in own],
            [row.figures[metric].value for row in own],
            yerr=_reach(own, metric),
            color=colour_of(own[0].kind, kinds),
            marker=MARKS[number % len(MARKS)],
            markersize=5.5,
            linewidth=1.2,
            elinewidth=0.9,
            capsize=2.5,
            label=method,
        )
    floors = [f for row in rows if (f := row.figures[metric].floor) is not None]
    if floors:
        axes.axhline(floors[0], color="#777777", linestyle="--", linewidth=1, label="real samples")
    values = [row.figures[metric].value for row in rows]
    if values and min(values) > 0 and max(values) > 8 * min(values):
        axes.set_yscale("log")
    axes.set_xscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(_halves))
    axes.set_xlabel(f"milliseconds a sample ({_batch(rows)})", fontsize=9)
    axes.set_ylabel(named(metric, comparison.features), fontsize=9)
    axes.set_title(comparison.title, fontsize=10, loc="left")
    axes.tick_params(which="both", labelsize=8)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _show(axes: Axes, name: str, picture: bytes) -> None:
    with Image.open(BytesIO(picture)) as image:
        axes.imshow(np.asarray(image.convert("RGB")), interpolation="lanczos")
    axes.set_title(fill(name, 20), fontsize=6.5, loc="left")
    axes.set_axis_off()


def _kinds(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.kind for row in rows))


def _best(rows: Sequence[Row], metric: str) -> Row:
    return min(rows, key=lambda row: badness(row.figures[metric], metric).value)


def _halves(value: float, position: int | None = None) -> str:
    """Minor ticks at 2 and 5 times a power of ten."""
    leading = value / 10 ** math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:g}" if round(leading, 6) in (2, 5) else ""


def _reach(rows: Sequence[Row], metric: str) -> list[list[float]]:
    """How far intervals reach below and above."""
    found = [row.figures[metric] for row in rows]
    ends = [(f.value - f.low, f.high - f.value) for f in found]
    return [[max(0.0, e[side]) if math.isfinite(e[side]) else 0.0 for e in ends] for side in (0, 1)]


def _batch(rows: Sequence[Row]) -> str:
    sizes = sorted({row.cost.batch for row in rows})
    return "batches of " + ", ".join(map(str, sizes))
