"""Any sampler measured, yours too: how good its samples are, how sure that is, what one costs."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from hybridgen.data.source import Source
from hybridgen.evaluation.cache import code, kept, machine, place, readable
from hybridgen.evaluation.cost import sampling_cost, sampling_costs
from hybridgen.evaluation.entries import Entry
from hybridgen.evaluation.evaluator import Evaluator, build_evaluator
from hybridgen.evaluation.guide import labels_of
from hybridgen.evaluation.plots import sample_grid, scatter
from hybridgen.evaluation.results import SamplingCost
from hybridgen.maths.rng import rng_for
from hybridgen.metrics.intervals import SUBSETS, Estimate
from hybridgen.protocols import Cost
from hybridgen.sampling.samplers import draw_samples
from hybridgen.training.checkpoint import write_atomically

Data = Source | tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """What was found out about a sampler.

    Attributes:
        figures: metric -> estimate, beside its floor and, on mixtures, the ideal.
        expense: of one sample.
        samples: `[n ...]` on the CPU, those that were measured.
        warnings: a sentence for each figure that so few samples cannot carry.
    """

    figures: Mapping[str, Estimate]
    cost: SamplingCost
    samples: Tensor
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        """A table: each figure with its interval, its floor and, where it is known, the ideal."""
        lines = [f"{'':18}{'measured':>12}{'95 % interval':>24}{'floor':>12}{'ideal':>12}"]
        for name, e in self.figures.items():
            ends = f"{e.low:.4g} to {e.high:.4g}"
            floor, ideal = ("" if x is None else f"{x:.4g}" for x in (e.floor, e.ideal))
            lines.append(f"{name:18}{e.value:12.4g}{ends:>24}{floor:>12}{ideal:>12}")
        spent = self.cost
        lines.append(f"{1e3 * spent.seconds.value:.4g} ms a sample in batches of {spent.batch}")
        return "\n".join([*lines, *self.warnings])


def measure(
    sampler: Callable[..., Tensor],
    data: Data | Evaluator,
    *,
    noise_shape: tuple[int, ...] | None = None,
    samples: int | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    label: Tensor | None = None,
    batch: int = 256,
    subsets: int = SUBSETS,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Measurement:
    """Samples of `sampler`, measured against data, with 95 % intervals and the cost of a sample.

    `measure(SinglePass(generator, (64,)), digits())`, or for a sampler and data of your own
    `measure(my_sampler, (train, held_out), noise_shape=(3, 32, 32), features=my_network)`.

    Args:
        sampler: `(noise [b *noise_shape]) -> [b ...]`, or with `label [b]` as its second argument
            if `label` is given; images in [-1, 1]. If it has a `cost`, as every
            `hybridgen.protocols.Sampler` has, its network calls are told too.
        data: a data set, or the pair `(train [n ...], held_out [m ...])`: samples are compared with
            the second, the first gives floors and finds copies. To measure several samplers on
            equal terms give `build_evaluator(data)`, which is prepared once.
        noise_shape: of one sample; the sampler's own, if it says it.
        samples: how many; as many as the data allows, at most 10 000, if not given.
        features: images `[b ...]` to `[b d]`; the shipped network that knows them if not given.
        label: `[samples]`, of a conditional sampler.
        batch: samples made together, also when they are timed.
        subsets: random ones of the samples, whose spread makes the intervals.
        seed: of the noise; two samplers of one noise shape get the same.
        device: where noise and labels are.

    Raises:
        ValueError: no noise shape, labels of another number, samples of another shape or number,
            or what a evaluator has already.
        InputError: too little data, or images that no shipped network knows and no `features`.
        RunError: samples that are not finite.
    """
    shape = noise_shape or getattr(sampler, "noise_shape", None)
    if shape is None:
        raise ValueError("the sampler does not say what noise it takes: give noise_shape")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if isinstance(data, Evaluator):
        evaluator = data
        if (
            samples not in (None, evaluator.samples)
            or features
            or subsets not in (SUBSETS, evaluator.subsets)
        ):
            raise ValueError(
                "a evaluator has its samples, features and subsets: give them to build_evaluator"
            )
    else:
        evaluator = build_evaluator(
            data, samples=samples, features=features, seed=seed, subsets=subsets
        )
    if label is not None and label.shape != (evaluator.samples,):
        raise ValueError(f"expected labels [{evaluator.samples}], got {list(label.shape)}")
    noise = torch.randn(evaluator.samples, *shape, generator=rng_for(seed, "measure"))
    given = [noise] if label is None else [noise, label]
    batches = zip(*(t.to(device).split(batch) for t in given), strict=True)
    with torch.no_grad():
        x = torch.cat([_samples(sampler(*each), each[0]).cpu() for each in batches])
    return Measurement(
        figures=evaluator(x),
        cost=sampling_cost(sampler, *(t[:batch].to(device) for t in given)),
        samples=x,
        warnings=evaluator.warnings,
    )


def _samples(x: object, noise: Tensor) -> Tensor:
    if not isinstance(x, Tensor) or len(x) != len(noise):
        what = f"{len(x)} samples" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise ValueError(
            f"a sampler maps noise [{len(noise)} ...] to as many samples, a tensor; got {what}"
        )
    return x


SHOWN, NEIGHBOURS = 64, 10
"""Images in a grid, and samples shown beside their nearest training examples."""


@dataclass(frozen=True, kw_only=True)
class MeasuredEntry:
    """What a row shows of a entry's samples.

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


def measure_entry(
    entry: Entry, evaluator: Evaluator, source: Source, *, seed: int, folder: Path
) -> MeasuredEntry:
    """Measure a entry, or read what was measured before.

    Args:
        seed: names the noise, which is the same for all entries whose noise has one shape.
        folder: of everything that was measured, by content: a file is valid for one entry, one
            evaluator and one seed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = str(entry.like.device)
    key = {**entry.key, "evaluator": evaluator.key, "seed": seed, "code": code(), "device": device}
    figures = place(folder, key)
    picture = figures.with_suffix(".png")
    neighbours = figures.with_name(f"{figures.stem}-neighbours.png")
    said = readable(figures)
    if said is None or not (picture.exists() and neighbours.exists()):
        label = labels_of(source, evaluator.samples)
        label = None if label is None else label.to(entry.like.device)
        count, like = evaluator.samples, entry.like
        x = draw_samples(entry.sampler, count, (seed, "compare"), like=like, label=label).cpu()
        found = {name: asdict(estimate) for name, estimate in evaluator(x).items()}
        write_atomically(picture, picture_of(x, source))
        write_atomically(neighbours, _nearest(x, evaluator, source))
        said = {"name": entry.name, "figures": found, "histogram": evaluator.histogram(x)}
        write_atomically(figures, json.dumps(_written(said)))  # last: it says that all is there
        said = json.loads(figures.read_text())
    return MeasuredEntry(
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


def _nearest(x: torch.Tensor, evaluator: Evaluator, source: Source) -> bytes:
    """Samples above the training examples nearest to them, the most suspicious pairs first.

    Simple examples lie close to each other whoever made them, so what counts is how close a sample
    is to training data beside how close it is to held-out data.
    """
    if source.mixture is not None or evaluator.training_examples is None:
        return b""
    distance, example = evaluator.nearest(x)
    closest = (distance / evaluator.distance_to_held_out(x)).argsort()[:NEIGHBOURS]
    pairs = torch.cat([x[closest], evaluator.training_examples[example[closest]].to(x)])
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


def timed(
    entries: Sequence[Entry], source: Source, *, batch: int, rounds: int, folder: Path
) -> dict[str, SamplingCost]:
    """What a sample costs, name of the row -> expense.

    Times are comparable only if they were measured together, so a new row, another batch or
    another number of threads measures all of them again.

    Args:
        batch: samples made together.
        rounds: timed batches of each entry, at most.
        folder: where measurements are kept.
    """
    label = labels_of(source, batch)
    samplers = {c.name: c.sampler for c in entries}
    noise = {
        c.name: torch.randn(batch, *c.sampler.noise_shape, generator=rng_for("timing")).to(c.like)
        for c in entries
    }
    device = entries[0].like.device
    labels = {c.name: None if label is None else label.to(device) for c in entries}
    key = {
        "timed": [[c.name, dict(c.key)] for c in entries],
        "batch": batch,
        "rounds": rounds,
        "machine": machine(),
        "code": code(),
        "device": str(device),
    }

    def measured() -> Any:
        found = sampling_costs(samplers, noise, labels, rounds=rounds)
        return {name: asdict(cost) for name, cost in found.items()}

    return {name: _read_timing(said) for name, said in kept(folder, key, measured).items()}


def _read_timing(said: dict[str, Any]) -> SamplingCost:
    calls = None if said["calls"] is None else Cost(**said["calls"])
    return SamplingCost(**{**said, "calls": calls, "seconds": Estimate(**said["seconds"])})
