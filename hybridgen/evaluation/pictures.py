"""Pictures of what a generator makes: grids, scatters, animations and curves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import repeat
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from hybridgen.maths.mixtures import GaussianMixture

REAL, FAKE = "#8c8c8c", "#c8321e"


def to_bytes(x: Tensor) -> Tensor:
    """Images in [-1, 1] as they are saved, uint8 on the CPU; values outside are clipped."""
    scaled = (x.detach().float().cpu().nan_to_num() + 1) * 127.5
    return scaled.round().clamp(0, 255).byte()


def sample_grid(
    x: Tensor, columns: int = 8, *, side: int = 64, gap: int = 2, background: int = 255
) -> Image.Image:
    """Images in rows, each pixel enlarged to a whole square so that small images stay crisp.

    Args:
        x: `[b c h w]` in [-1, 1], 1 or 3 channels; values outside are clipped.
        columns: images a row; the last row may be shorter.
        side: an image smaller than this is enlarged by the largest whole factor that fits.
        gap: pixels between images and around them.
        background: grey value of gaps.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or len(x) == 0:
        raise ValueError(f"expected at least one image [b c h w], c 1 or 3, got {tuple(x.shape)}")
    if columns < 1 or gap < 0:
        raise ValueError(f"need columns >= 1 and gap >= 0, got {columns=}, {gap=}")
    columns = min(columns, len(x))
    factor = max(1, side // max(x.shape[2:]))
    tiles = repeat(to_bytes(x), "b c h w -> b (h i) (w j) c", i=factor, j=factor)
    height, width = tiles.shape[1] + gap, tiles.shape[2] + gap
    rows = -(-len(tiles) // columns)
    canvas = torch.full(
        (rows * height + gap, columns * width + gap, x.shape[1]), background, dtype=torch.uint8
    )
    for index, tile in enumerate(tiles):
        top, left = index // columns * height + gap, index % columns * width + gap
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return Image.fromarray(canvas[..., 0].numpy() if x.shape[1] == 1 else canvas.numpy())


def scatter(
    points: Tensor, mixture: GaussianMixture, *, title: str = "", side: int = 480
) -> Image.Image:
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
    xy = points.detach().double().cpu().numpy()
    means, stds = mixture.means.cpu().numpy(), mixture.stds.cpu().numpy()
    low, high = (means - 3 * stds[:, None]).min(axis=0), (means + 3 * stds[:, None]).max(axis=0)
    centre, reach = (low + high) / 2, 0.6 * float((high - low).max())

    figure = Figure(figsize=(side / 100, side / 100), dpi=100)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98 if not title else 0.92))
    circles = EllipseCollection(
        6 * stds, 6 * stds, 0 * stds, units="xy", offsets=means, offset_transform=axes.transData
    )
    circles.set(facecolor="none", edgecolor=REAL, linewidth=0.8)
    axes.add_collection(circles)
    axes.scatter(xy[:, 0], xy[:, 1], s=5, c=FAKE, alpha=0.35, linewidths=0)
    axes.set(
        xlim=(centre[0] - reach, centre[0] + reach), ylim=(centre[1] - reach, centre[1] + reach)
    )
    axes.set(xticks=[], yticks=[], aspect="equal")
    outside = int((~(np.abs(xy - centre) <= reach).all(axis=1)).sum())
    if outside:
        axes.text(0.02, 0.02, f"{outside} of {len(xy)} outside", transform=axes.transAxes, size=8)
    if title:
        axes.set_title(title, size=10)
    return _drawn(figure)


def save_animation(frames: Sequence[Image.Image], path: Path, *, milliseconds: int = 150) -> None:
    """One animated WebP that loops for ever and rests on the last frame."""
    if not frames:
        raise ValueError("an animation needs at least one frame, got none")
    if len({frame.size for frame in frames}) > 1:
        raise ValueError(f"frames must be of one size, got {sorted({f.size for f in frames})}")
    durations = [milliseconds] * (len(frames) - 1) + [10 * milliseconds]
    first, *rest = [frame.convert("RGB") for frame in frames]
    first.save(
        path,
        format="WEBP",
        save_all=True,
        append_images=rest,
        duration=durations,
        loop=0,
        quality=85,
    )


def _drawn(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
