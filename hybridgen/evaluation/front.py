"""The picture of a comparison: quality against the time that a sample takes."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hybridgen.evaluation.comparison import Comparison, Row
from hybridgen.evaluation.curves import COLOURS

MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


def draw_front(comparison: Comparison, path: Path) -> None:
    """Each method's budgets as a line of points with 95 % intervals; the floor is dashed.

    Rows whose figure is not finite are left out.
    """
    metric = comparison.quality
    rows = [row for row in comparison.rows if math.isfinite(row.figures[metric].value)]
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    axes = figure.subplots()
    methods = list(dict.fromkeys(row.method for row in rows))
    for number, method in enumerate(methods):
        own = sorted((r for r in rows if r.method == method), key=lambda r: r.expense.seconds.value)
        axes.errorbar(
            [1e3 * row.expense.seconds.value for row in own],
            [row.figures[metric].value for row in own],
            yerr=_reach(own, metric),
            color=COLOURS[number % len(COLOURS)],
            marker=MARKS[number % len(MARKS)],
            markersize=5.5,
            linewidth=1.2,
            elinewidth=1,
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
    axes.set_xlabel(f"milliseconds a sample ({_batch(rows)})", fontsize=9)
    axes.set_ylabel(named(metric, comparison.features), fontsize=9)
    axes.set_title(comparison.title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=150)


def named(metric: str, features: str) -> str:
    """A metric as a reader knows it; a Frechet distance by its features (`FD-lenet`)."""
    if metric == "frechet_distance":
        return f"FD-{features}" if features else "Frechet distance"
    return metric.replace("_", " ")


def _reach(rows: Sequence[Row], metric: str) -> list[list[float]]:
    """How far intervals reach below and above."""
    found = [row.figures[metric] for row in rows]
    ends = [(f.value - f.low, f.high - f.value) for f in found]
    return [
        [max(0.0, end[side]) if math.isfinite(end[side]) else 0.0 for end in ends]
        for side in (0, 1)
    ]


def _batch(rows: Sequence[Row]) -> str:
    sizes = sorted({row.expense.batch for row in rows})
    return "batches of " + ", ".join(map(str, sizes))
