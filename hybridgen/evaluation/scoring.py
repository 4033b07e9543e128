"""One contender measured and shown: samples of the shared noise, their figures, their pictures."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hybridgen.data.source import Source
from hybridgen.evaluation.comparison import Estimate
from hybridgen.evaluation.contenders import Contender
from hybridgen.evaluation.guidance_effect import labels_of
from hybridgen.evaluation.kept import code, place, readable
from hybridgen.evaluation.pictures import sample_grid, scatter
from hybridgen.evaluation.ruler import Ruler
from hybridgen.evaluation.watch import samples_of
from hybridgen.training.files import write_atomically

SHOWN, NEIGHBOURS = 64, 10
"""Images in a grid, and samples shown beside their nearest training examples."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a row shows of a contender's samples.

    Attributes:
        figures: metric -> estimate.
        histogram: samples of each class, as the feature network sees them; empty without classes.
        picture: a PNG of the first samples.
        neighbours: a PNG of the samples that lie closest to training data relative to held-out
            data, above the training examples nearest to them; empty for points.
    """

    figures: Mapping[str, Estimate]
    histogram: tuple[int, ...]
    picture: bytes
    neighbours: bytes


def scored(
    contender: Contender, ruler: Ruler, source: Source, *, seed: int, folder: Path
) -> Scored:
    """Measure a contender, or read what was measured before.

    Args:
        seed: names the noise, which is the same for all contenders whose noise has one shape.
        folder: of everything that was measured, by content: a file is valid for one contender, one
            ruler and one seed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = str(contender.like.device)
    key = {**contender.key, "ruler": ruler.key, "seed": seed, "code": code(), "device": device}
    figures = place(folder, key)
    picture = figures.with_suffix(".png")
    neighbours = figures.with_name(f"{figures.stem}-neighbours.png")
    said = readable(figures)
    if said is None or not (picture.exists() and neighbours.exists()):
        label = labels_of(source, ruler.samples)
        label = None if label is None else label.to(contender.like.device)
        count, like = ruler.samples, contender.like
        x = samples_of(contender.sampler, count, (seed, "compare"), like=like, label=label).cpu()
        found = {name: asdict(estimate) for name, estimate in ruler(x).items()}
        write_atomically(picture, picture_of(x, source))
        write_atomically(neighbours, _nearest(x, ruler, source))
        said = {"name": contender.name, "figures": found, "histogram": ruler.histogram(x)}
        write_atomically(figures, json.dumps(_written(said)))  # last: it says that all is there
        said = json.loads(figures.read_text())
    return Scored(
        figures={
            name: Estimate(**{k: _read(v) for k, v in estimate.items()})
            for name, estimate in said["figures"].items()
        },
        histogram=tuple(said["histogram"]),
        picture=picture.read_bytes(),
        neighbours=neighbours.read_bytes(),
    )


def picture_of(x: torch.Tensor, source: Source) -> bytes:
    """A PNG of the first 64 images in a grid, or of 2 500 points over the mixture's circles."""
    if source.mixture is not None:
        return _png(scatter(x[:2_500], source.mixture, side=360))
    return _png(sample_grid(x[:SHOWN], 8, side=32))


def _nearest(x: torch.Tensor, ruler: Ruler, source: Source) -> bytes:
    """Samples above the training examples nearest to them, the most suspicious pairs first.

    Simple examples lie close to each other whoever made them, so what counts is how close a sample
    is to training data beside how close it is to held-out data.
    """
    if source.mixture is not None or ruler.train is None:
        return b""
    distance, example = ruler.nearest(x)
    closest = (distance / ruler.distance_to_held_out(x)).argsort()[:NEIGHBOURS]
    pairs = torch.cat([x[closest], ruler.train[example[closest]].to(x)])
    return _png(sample_grid(pairs, len(closest), side=32))


def _png(picture: Image.Image) -> bytes:
    content = BytesIO()
    small = picture if picture.mode == "L" else picture.quantize(64)
    small.save(content, "png", optimize=True)
    return content.getvalue()


def _written(said: Any) -> Any:
    """Infinite numbers as words: JSON has none."""
    if isinstance(said, dict):
        return {name: _written(value) for name, value in said.items()}
    if isinstance(said, float) and not math.isfinite(said):
        return str(said)
    return said


def _read(value: float | str | None) -> Any:
    return float(value) if isinstance(value, str) else value
