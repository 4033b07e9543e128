"""Curves of a run: every number of its log against the step, one panel a quantity."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TOGETHER = {
    "losses": ("critic", "game", "generator"),
    "penalties": ("r1", "r2", "gp"),
    "logits": ("logit_real", "logit_fake"),
}
"""Quantities that share a panel, by the part of their name after the last slash."""
NOT_CURVES = {"step", "steps", "time", "timestamp", "epoch", "seconds", "images"}
LINEAR = {"modes", "high_quality", "precision", "recall", "density", "coverage", "separation"}
"""Fractions and counts, which never get a log scale."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which the colour-blind tell apart."""
LOGARITHMIC = 30.0
"""Positive quantities whose greatest value is this many times the least get a log scale."""

Series = dict[str, tuple[list[float], list[float]]]


def curves(
    rows: Sequence[Mapping], path: Path, *, floors: Mapping[str, float] | None = None
) -> None:
    """Draw every number in `rows` against its `step`; values that are not finite are left out.

    Args:
        rows: each with `step`; other numbers are quantities and the rest is passed over. Not every
            row needs every quantity.
        path: the picture; its suffix (png, svg, pdf) chooses the format.
        floors: dashed lines, `floor_x` for the quantity `x`; those in rows are found by themselves.
    """
    drawn, panels = series(rows), curve_panels(rows)
    known = {**_last_floors(drawn), **(floors or {})}
    if not panels:
        raise ValueError(f"there is nothing to draw against the step in {len(rows)} rows")

    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.3 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True)
    for axes, (title, names) in zip(grid.flat, panels.items(), strict=False):
        for name, colour in zip(names, COLOURS * len(names), strict=False):
            _draw(axes, *drawn[name], colour, _leaf(name).replace("_", " "))
            if f"floor_{_leaf(name)}" in known:
                floor = known[f"floor_{_leaf(name)}"]
                axes.axhline(floor, color=colour, linestyle="--", linewidth=0.9, label="floor")
        _finish(axes, title, [drawn[name][1] for name in names])
    for axes in list(grid.flat)[len(panels) :]:
        axes.remove()
    for column in range(columns):
        lowest = [axes for axes in grid[:, column] if axes.figure is not None][-1]
        lowest.set_xlabel("step", fontsize=8)
        lowest.tick_params(labelbottom=True)
    figure.savefig(path, dpi=160)


def curve_panels(rows: Sequence[Mapping]) -> dict[str, list[str]]:
    """The quantities in `rows` by the title of the panel that `curves` draws them in."""
    panels: dict[str, list[str]] = {}
    for name in series(rows):
        if not _leaf(name).startswith("floor_"):
            panels.setdefault(_panel(name), []).append(name)
    return panels


def _draw(axes: Axes, steps: list[float], values: list[float], colour: str, label: str) -> None:
    if len(values) < 200:
        marker = "." if len(values) < 30 else ""
        axes.plot(steps, values, color=colour, linewidth=1.2, marker=marker, label=label)
        return
    axes.plot(steps, values, color=colour, linewidth=0.5, alpha=0.3)
    window = len(values) // 50
    mean = np.convolve(values, np.ones(window) / window, mode="valid")
    middle = steps[window // 2 : window // 2 + len(mean)]
    axes.plot(middle, mean, color=colour, linewidth=1.3, label=label)


def _finish(axes: Axes, title: str, drawn: list[list[float]]) -> None:
    values = [value for line in drawn for value in line]
    if title not in LINEAR and min(values) > 0 and max(values) > LOGARITHMIC * min(values):
        axes.set_yscale("log")
    axes.set_title(title.replace("_", " "), fontsize=9, loc="left")
    axes.tick_params(labelsize=7)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        axes.legend(handles, labels, fontsize=7, frameon=False)


def series(rows: Sequence[Mapping]) -> Series:
    """Every finite number in `rows` against its `step`: quantity -> steps and values."""
    found: Series = {}
    for row in rows:
        for name, value in row.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and name not in NOT_CURVES and math.isfinite(value):
                steps, values = found.setdefault(name, ([], []))
                steps.append(float(row["step"]))
                values.append(float(value))
    return found


def _last_floors(series: Series) -> dict[str, float]:
    return {
        _leaf(name): values[-1]
        for name, (_, values) in series.items()
        if _leaf(name).startswith("floor_")
    }


def _panel(name: str) -> str:
    together = (title for title, members in TOGETHER.items() if _leaf(name) in members)
    return next(together, _leaf(name))


def _leaf(name: str) -> str:
    return name.rpartition("/")[2]
