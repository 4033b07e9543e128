"""Pictures of samples and of figures: grids, scatters, animations, curves, calibration."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from hybridgen.data.images import to_bytes
from hybridgen.evaluation.alarms import ADVICE, DISTANCES, first_alarms
from hybridgen.evaluation.scale_search import ScaleChoice
from hybridgen.files import replacing
from hybridgen.maths.mixtures import GaussianMixture
from hybridgen.metrics.calibration import reliability
from hybridgen.metrics.registry import METRICS

REAL, FAKE = "#8c8c8c", "#c8321e"
GAP, WHITE = 2, 255
"""Pixels between images and around them, and their grey value."""


def sample_grid(x: Tensor, columns: int = 8, *, side: int = 64) -> Image.Image:
    """Images in rows, each pixel enlarged to a whole square so that small images stay crisp.

    Args:
        x: `[b c h w]` in [-1, 1], 1 or 3 channels; values outside are clipped.
        columns: images a row; the last row may be shorter.
        side: an image smaller than this is enlarged by the largest whole factor that fits.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or len(x) == 0:
        raise ValueError(f"expected at least one image [b c h w], c 1 or 3, got {tuple(x.shape)}")
    if columns < 1:
        raise ValueError(f"need columns >= 1, got {columns=}")
    columns = min(columns, len(x))
    factor = max(1, side // max(x.shape[2:]))
    tiles = repeat(to_bytes(x), "b c h w -> b c (h i) (w j)", i=factor, j=factor)
    tiles = F.pad(tiles, (0, GAP, 0, GAP), value=WHITE)
    rows = -(-len(tiles) // columns)
    blank = torch.full_like(tiles[:1], WHITE).repeat(rows * columns - len(tiles), 1, 1, 1)
    sheet = rearrange(torch.cat([tiles, blank]), "(r k) c h w -> c (r h) (k w)", k=columns)
    sheet = F.pad(sheet, (GAP, 0, GAP, 0), value=WHITE)
    return Image.fromarray(rearrange(sheet, "c h w -> h w c").squeeze(2).numpy())


def scatter(points: Tensor, mixture: GaussianMixture, *, side: int = 480) -> Image.Image:
    """Generated points in the plane over the circles that hold 98.89 % of each real mode.

    The frame depends on the mixture alone, so pictures of one run can be animated; points outside
    it are counted in the corner.

    Args:
        points: `[b 2]`.
        mixture: of dimension 2.
        side: pixels of the square picture.
    """
    if points.ndim != 2 or points.shape[1] != 2 or mixture.dimension != 2:
        raise ValueError(
            f"a scatter shows points [b 2] of a mixture in 2 dimensions, got {tuple(points.shape)} "
            f"and dimension {mixture.dimension}"
        )
    xy = points.detach().cpu().double().numpy()
    means, stds = mixture.means.cpu().numpy(), mixture.stds.cpu().numpy()
    low, high = (means - 3 * stds[:, None]).min(axis=0), (means + 3 * stds[:, None]).max(axis=0)
    centre, reach = (low + high) / 2, 0.6 * float((high - low).max())

    figure = Figure(figsize=(side / 100, side / 100), dpi=100)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    circles = EllipseCollection(
        6 * stds, 6 * stds, 0 * stds, units="xy", offsets=means, offset_transform=axes.transData
    )
    circles.set(facecolor="none", edgecolor=REAL, linewidth=0.8)
    axes.add_collection(circles)
    axes.scatter(*xy.T, s=5, c=FAKE, alpha=0.35, linewidths=0)
    (left, bottom), (right, top) = centre - reach, centre + reach
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal")
    outside = int((~(np.abs(xy - centre) <= reach).all(axis=1)).sum())
    if outside:
        axes.text(0.02, 0.02, f"{outside} of {len(xy)} outside", transform=axes.transAxes, size=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def sample_picture(
    samples: Callable[[int], Tensor], mixture: GaussianMixture | None
) -> Image.Image:
    """Samples as a person looks at them: 2 500 points over their mixture, or a grid of 100 images.

    Args:
        samples: from their number to samples `[b 2]` or `[b c h w]`.
    """
    return sample_grid(samples(100), 10) if mixture is None else scatter(samples(2_500), mixture)


def save_animation(frames: Sequence[Image.Image], path: Path) -> None:
    """One animated WebP that loops for ever, .15 seconds a frame, and rests on the last one."""
    if not frames:
        raise ValueError("an animation needs at least one frame, got none")
    if len({frame.size for frame in frames}) > 1:
        raise ValueError(f"frames must be of one size, got {sorted({f.size for f in frames})}")
    durations = [150] * (len(frames) - 1) + [1_500]
    first, *rest = [frame.convert("RGB") for frame in frames]
    options = {"save_all": True, "append_images": rest, "loop": 0, "quality": 85}
    with replacing(path) as file:
        first.save(file, format="WEBP", duration=durations, **options)


TOGETHER = {
    "losses": ("discriminator", "adversarial", "generator"),
    "penalties": ("r1", "r2", "gp"),
    "logits": ("logit_real", "logit_fake"),
}
"""Quantities that share a panel, by the part of their name after the last slash."""
NOT_CURVES = {"step", "steps", "time", "timestamp", "epoch", "seconds", "images", "best"}
NOT_CURVES |= {f"alarm_{kind}" for kind in ADVICE}
FIRST = ("losses", *DISTANCES, "coverage", "high_quality", "mode_shift", "logits", "overfit_rank")
"""The order of panels, then as in the rows: what tells nothing beside what does."""
LINEAR = {"sign_accuracy", "mode_shift", "overfit_rank"}
LINEAR |= {name for name, metric in METRICS.items() if metric.better != "lower"}
"""Fractions, counts and what is best near a value, which never get a log scale."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which the colour-blind tell apart."""
LOGARITHMIC = 30.0
"""Positive quantities whose greatest value is this many times the least get a log scale."""

Series = dict[str, tuple[list[float], list[float]]]


def curves(rows: Sequence[Mapping], path: Path) -> None:
    """Draw every number in `rows` against its `step`; values that are not finite are left out.

    The last value of `floor_x` becomes a dashed line beside the quantity `x`. A vertical line in
    every panel marks the best evaluation, and one each the first evaluation with an alarm.

    Args:
        rows: each with `step`; other numbers are quantities and the rest is passed over. Not every
            row needs every quantity.
        path: the picture; its suffix (png, svg, pdf) chooses the format.
    """
    lines, panels = series(rows), curve_panels(rows)
    if not panels:
        raise ValueError(f"there is nothing to draw against the step in {len(rows)} rows")
    best = [row["step"] for row in rows if row.get("best") == 1][-1:]
    marks = [(step, "best", COLOURS[2]) for step in best]
    marks += [(step, kind[6:], FAKE) for kind, step in first_alarms(rows).items()]
    floors = {_leaf(name): values[-1] for name, (_, values) in lines.items()}
    figure, grid = _panels(len(panels), 3, (3.2, 2.3), sharex=True, layout=None)
    wide, high = figure.get_size_inches()
    figure.subplots_adjust(
        **{"left": 0.55 / wide, "right": 1 - 0.16 / wide, "wspace": 0.6 / (3.2 - 0.6)},
        **{"bottom": 0.42 / high, "top": 1 - 0.25 / high, "hspace": 0.33 / (2.3 - 0.33)},
    )
    for axes, (title, names) in zip(grid.flat, panels.items(), strict=False):
        for name, colour in zip(names, COLOURS * len(names), strict=False):
            _draw(axes, *lines[name], colour, _leaf(name).replace("_", " "))
            floor = floors.get(f"floor_{_leaf(name)}")
            if floor is not None:
                axes.axhline(floor, color=colour, linestyle="--", linewidth=0.9, label="floor")
        values = [value for name in names for value in lines[name][1]]
        if title not in LINEAR and min(values) > 0 and max(values) > LOGARITHMIC * min(values):
            axes.set_yscale("log")
        else:
            axes.locator_params(axis="y", nbins=5)
            axes.yaxis.set_major_formatter("{x:.4g}")
        for step, _, colour in marks:
            axes.axvline(step, color=colour, linestyle=":", linewidth=1.1)
        # Where it is does not depend on what is above the axes, which takes long to find out.
        axes.set_title(title.replace("_", " "), fontsize=9, loc="left", y=1.0)
        _finish(axes)
    grid[0, 0].locator_params(axis="x", nbins=5)
    grid[0, 0].xaxis.set_major_formatter("{x:.6g}")
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
    style = {"fontsize": 6, "rotation": 90, "va": "top", "ha": "center", "bbox": box}
    for axes in grid[0]:
        place = axes.get_xaxis_transform()
        for step, colour in {step: colour for step, _, colour in marks}.items():
            words = ", ".join(word for other, word, _ in marks if other == step)
            axes.text(step, 0.98, words, color=colour, transform=place, **style)
    for column in grid.T:
        lowest = [axes for axes in column if axes.figure is not None][-1]
        lowest.set_xlabel("step", fontsize=8)
        lowest.tick_params(labelbottom=True)
    _save(figure, path)


def against(
    rows: Sequence[Mapping], panels: Mapping[str, Sequence[str]], path: Path, *, log: bool = False
) -> None:
    """Draw quantities of each row against another one, a panel for each of those.

    Args:
        panels: what is to the right, and what is drawn above it; a dashed diagonal where they
            should be equal, everywhere but against the step.
        log: both axes, which leaves out what is not positive.
    """
    figure, grid = _panels(len(panels), 2, (4.6, 3.6))
    for axes, (x, names) in zip(grid.flat, panels.items(), strict=False):
        across = [row[x] for row in rows]
        for name, colour in zip(names, COLOURS, strict=False):
            label, dots = name.replace("_", " "), "." if x != "step" else ".-"
            axes.plot(across, [row[name] for row in rows], dots, color=colour, label=label)
        if x != "step":
            axes.axline((across[0], across[0]), slope=1, color=REAL, linestyle="--", linewidth=0.9)
        if log:
            axes.set(xscale="log", yscale="log")
        axes.set_xlabel(x.replace("_", " "), fontsize=8)
        _finish(axes, least=1)
    _save(figure, path)


def curve_panels(rows: Sequence[Mapping]) -> dict[str, list[str]]:
    """The quantities in `rows` by the title of the panel that `curves` draws them in."""
    panels: dict[str, list[str]] = {}
    for name in series(rows):
        if not _leaf(name).startswith("floor_"):
            shared = (title for title, members in TOGETHER.items() if _leaf(name) in members)
            panels.setdefault(next(shared, _leaf(name)), []).append(name)
    return {title: panels[title] for title in sorted(panels, key=_rank)}


def _rank(title: str) -> int:
    return FIRST.index(title) if title in FIRST else len(FIRST)


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


def _panels(
    count: int,
    columns: int,
    size: tuple[float, float],
    layout: Literal["constrained"] | None = "constrained",
    **options: Any,
) -> tuple:
    """A figure of `count` panels of this size in inches, at most `columns` a row; its axes."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout=layout)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat:
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[count:]:
        axes.remove()
    return figure, grid


def _finish(axes: Axes, *, least: int = 2) -> None:
    """Grid lines, and a legend of at least so many entries."""
    axes.grid(color="#e4e4e4", linewidth=0.6)
    if len(axes.get_legend_handles_labels()[1]) >= least:
        axes.legend(fontsize=7, frameon=False)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=160)


def series(rows: Sequence[Mapping]) -> Series:
    """Every finite number in `rows` against its `step`: quantity -> steps and values."""
    lines: Series = {}
    for row in rows:
        for name, value in row.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and name not in NOT_CURVES and math.isfinite(value):
                steps, values = lines.setdefault(name, ([], []))
                steps.append(float(row["step"]))
                values.append(float(value))
    return lines


def _leaf(name: str) -> str:
    return name.rpartition("/")[2]


def draw_calibration(
    figures: Sequence[Mapping[str, float]], real: Tensor, fake: Tensor, path: Path
) -> None:
    """One panel a noise level: predicted probability of "real" against the share that was real.

    On the diagonal probabilities mean what they say. Bars are one standard error; the axes of a
    panel end where its probabilities do.

    Args:
        figures: of each level, see `calibration_figures`.
        real, fake: held-out logits `[l n]` and `[l m]`.
    """
    figure, grid = _panels(len(figures), 4, (2.5, 2.6))
    for axes, row, a, b in zip(grid.flat, figures, real, fake, strict=False):
        predicted, observed, share = reliability(a, b)
        error = (observed * (1 - observed) / (share * (len(a) + len(b)))).sqrt()
        reach = 1.15 * float(torch.cat([predicted - 0.5, observed - 0.5]).abs().max())
        reach = min(max(reach, 0.02), 0.5)
        ends = (0.5 - reach, 0.5 + reach)
        axes.plot(ends, ends, color=REAL, linewidth=0.9, linestyle="--")
        points = (values.tolist() for values in (predicted, observed, error))
        axes.errorbar(*points, color=COLOURS[0], fmt="o", markersize=3, elinewidth=0.8)
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        facts = f"{row['bce']:.3f} nats, off by {row['calibration_error']:.3f}"
        axes.set_title(f"$\\sigma$ = {row['sigma']:.2g}\n{facts}", fontsize=8, loc="left")
        axes.locator_params(nbins=4)
    figure.supxlabel("predicted probability of real", fontsize=8)
    figure.supylabel("share that was real", fontsize=8)
    figure.suptitle(f"chance is {2 * math.log(2):.3f} nats", fontsize=8, x=0.99, ha="right")
    _save(figure, path)


def draw_scales(choice: ScaleChoice, path: Path, *, distance: str) -> None:
    """`distance` against scale, its standard error over seeds as bars; the chosen scale is marked.

    A scale at which it is not finite is left out.
    """
    scales = [scale for scale in choice.distances if math.isfinite(choice.mean(scale))]
    figure, ((axes,),) = _panels(1, 1, (4.2, 3.0))
    seeds = len(choice.distances[0.0])
    distances = np.array([choice.distances[scale] for scale in scales]).reshape(-1, seeds)
    means, errors = distances.mean(axis=1), distances.std(axis=1, ddof=1) / math.sqrt(seeds)
    axes.errorbar(scales, means, errors, color=COLOURS[0], marker=".", linewidth=1.2, capsize=2)
    axes.plot(scales, distances, color=COLOURS[0], linewidth=0.6, alpha=0.35)
    if choice.scale in scales:
        mark = {"color": COLOURS[1], "markersize": 7, "label": f"chosen: {choice.scale:g}"}
        axes.plot(choice.scale, choice.mean(choice.scale), "o", **mark)
    axes.set_xlabel("guidance scale", fontsize=8)
    axes.set_ylabel(distance.replace("_", " "), fontsize=8)
    _finish(axes, least=1)
    _save(figure, path)
