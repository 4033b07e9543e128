"""Measuring any sampler: how good its samples are, how sure that is, what one costs."""

import hashlib
import json
import platform
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from hybridgen.data.images import as_images
from hybridgen.data.source import Source, labels_in_turn
from hybridgen.evaluation.cost import sampling_costs
from hybridgen.evaluation.entries import Entry
from hybridgen.evaluation.evaluator import Data, Evaluator, build_evaluator
from hybridgen.evaluation.plots import sample_grid, scatter
from hybridgen.evaluation.results import SamplingCost
from hybridgen.files import Number, read_object, write_atomically
from hybridgen.maths.rng import rng_for
from hybridgen.metrics.intervals import SUBSETS, Estimate
from hybridgen.networks.blocks import in_chunks
from hybridgen.protocols import Cost
from hybridgen.sampling.samplers import draw_samples

M = TypeVar("M")


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """Figures, cost and samples of a sampler.

    Attributes:
        figures: metric -> estimate, beside its floor and, on mixtures, the ideal.
        cost: of one sample.
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
        seconds, batch = self.cost.seconds.value, self.cost.batch
        lines.append(f"{1e3 * seconds:.4g} ms a sample in batches of {batch}")
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
    """Measure samples of `sampler` against data, with 95 % intervals and the cost of a sample.

    `measure(SinglePass(generator, (64,)), digits())`, or for a sampler and data of your own
    `measure(my_sampler, (train, held_out), noise_shape=(3, 32, 32), features=my_network)`.

    Args:
        sampler: `(noise [b *noise_shape]) -> [b ...]`, or with `label [b]` as its second argument
            if `label` is given; images in [-1, 1]. If it has a `cost`, as every
            `hybridgen.protocols.Sampler` has, its network calls are counted too.
        data: a data set, or the pair `(train [n ...], held_out [m ...])`: samples are compared with
            the second, the first gives floors and finds copies. To measure several samplers on
            equal terms give `build_evaluator(data)`, which is prepared once.
        noise_shape: of one sample; that of the sampler's attribute of this name if not given.
        samples: how many; as many as the data allows, at most 10 000, if not given.
        features: images `[b ...]` to `[b d]`; the shipped network that knows them if not given.
        label: `[samples]`, of a conditional sampler.
        batch: samples made together, also when they are timed.
        subsets: random ones of the samples, whose spread makes the intervals.
        seed: of the noise; two samplers of one noise shape get the same.
        device: where noise and labels are.

    Raises:
        ValueError: no noise shape, labels of another number, samples of another shape or number,
            or what an evaluator has already.
        InputError: too little data, or images that no shipped network knows and no `features`.
        RunError: samples that are not finite.
    """
    shape = noise_shape or getattr(sampler, "noise_shape", None)
    if shape is None:
        raise ValueError("the sampler does not say what noise it takes: give noise_shape")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if not isinstance(data, Evaluator):
        evaluator = build_evaluator(
            data, samples=samples, features=features, seed=seed, subsets=subsets
        )
    elif samples in (None, data.samples) and not features and subsets in (SUBSETS, data.subsets):
        evaluator = data
    else:
        raise ValueError(
            "an evaluator has its samples, features and subsets: give them to build_evaluator"
        )
    if label is not None and label.shape != (evaluator.samples,):
        raise ValueError(f"expected labels [{evaluator.samples}], got {list(label.shape)}")
    noise = torch.randn(evaluator.samples, *shape, generator=rng_for(seed, "measure")).to(device)
    inputs = [noise] if label is None else [noise, label.to(device)]

    def sample(noise: Tensor, *label: Tensor) -> Tensor:
        x = sampler(noise, *label)
        if not isinstance(x, Tensor) or len(x) != len(noise):
            kind = f"{len(x)} samples" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise ValueError(
                f"a sampler maps noise [{len(noise)} ...] to as many samples, a tensor; got {kind}"
            )
        return x.cpu()

    with torch.no_grad():
        x = in_chunks(sample, *inputs, size=batch)
    first_batch = tuple(each[:batch] for each in inputs)
    figures, warning = evaluator.with_warning(x)
    return Measurement(
        figures=figures,
        cost=sampling_costs({"the sampler": (sampler, first_batch)})["the sampler"],
        samples=x,
        warnings=(*evaluator.warnings, *filter(None, [warning])),
    )


IMAGES, PAIRS = 64, 10
"""Images in a grid, and samples in a picture above their nearest training examples."""


@dataclass(frozen=True, kw_only=True)
class MeasuredEntry:
    """Figures and pictures of an entry's samples.

    Attributes:
        figures: metric -> estimate.
        warning: a sentence if the intervals of these samples cannot be trusted; else empty.
        histogram: samples of each class, as the feature network sees them; empty without classes.
        picture: a PNG of the first samples.
        neighbours: a PNG of the samples that lie closest to training data relative to held-out
            data, above the training examples nearest to them; empty for points.
    """

    figures: Mapping[str, Estimate]
    warning: str
    histogram: tuple[int, ...]
    picture: bytes
    neighbours: bytes


def measure_entry(
    entry: Entry, evaluator: Evaluator, source: Source, *, seed: int, folder: Path
) -> MeasuredEntry:
    """Measure an entry, or read what was measured before.

    Args:
        seed: names the noise, which is the same for all entries whose noise has one shape.
        folder: of everything that was measured, by content: a file is valid for one entry, one
            evaluator and one seed.
    """
    key = {"evaluator": evaluator.key, "seed": seed, "device": str(entry.like.device)}

    def work() -> dict[str, Any]:
        count, like = evaluator.samples, entry.like
        label = labels_in_turn(entry.classes, count)
        x = draw_samples(entry.sampler, count, (seed, "compare"), like=like, label=label)
        pictures = {"picture": picture_of(x, source), "neighbours": _nearest(x, evaluator, source)}
        figures, warning = evaluator.with_warning(x)
        return {
            "name": entry.name,
            "warning": warning,
            "figures": {name: asdict(estimate) for name, estimate in figures.items()},
            "histogram": evaluator.histogram(x),
            **{name: b64encode(picture).decode() for name, picture in pictures.items()},
        }

    return _cached(folder, {**entry.key, **key}, work, _read_entry)


def _read_entry(record: dict[str, Any]) -> MeasuredEntry:
    pictures = {name: b64decode(record[name]) for name in ("picture", "neighbours")}
    for picture in filter(None, pictures.values()):
        with Image.open(BytesIO(picture), formats=["PNG"]) as image:
            image.verify()
    return MeasuredEntry(
        figures={name: _read_estimate(estimate) for name, estimate in record["figures"].items()},
        warning=str(record["warning"]),
        histogram=tuple(map(int, record["histogram"])),
        **pictures,
    )


def _read_estimate(record: dict[str, Any]) -> Estimate:
    if not all(isinstance(value, Number | list | None) for value in record.values()):
        raise ValueError(f"expected numbers, got {record}")
    return Estimate(**{**record, "deviations": tuple(map(tuple, record["deviations"]))})


def picture_of(x: Tensor, source: Source) -> bytes:
    """A PNG of the first 64 images in a grid, or of 2 500 points over the mixture's circles."""
    if source.mixture is not None:
        return _png(scatter(x[:2_500], source.mixture, side=360))
    return _png(sample_grid(as_images(x[:IMAGES], source), 8, side=32))


def _nearest(x: Tensor, evaluator: Evaluator, source: Source) -> bytes:
    """Samples above the training examples nearest to them, the most suspicious pairs first.

    Simple examples lie close to each other whoever made them, so what counts is how close a sample
    is to training data beside how close it is to held-out data.
    """
    if source.mixture is not None or evaluator.training_examples is None:
        return b""
    example, distance, held_out_distance = evaluator.nearest(x)
    closest = (distance / held_out_distance).argsort()[:PAIRS]
    images = as_images(x[closest], source)
    pairs = torch.cat([images, evaluator.training_examples[example[closest]].to(images)])
    return _png(sample_grid(pairs, len(closest), side=32))


def _png(picture: Image.Image) -> bytes:
    content = BytesIO()
    small = picture if picture.mode == "L" else picture.quantize(64)
    small.save(content, "png", optimize=True)
    return content.getvalue()


def time_entries(
    entries: Sequence[Entry], *, batch: int, rounds: int, folder: Path
) -> dict[str, SamplingCost]:
    """The cost of a sample of each entry, by its name.

    Times are comparable only if they were measured together, so a new entry, another batch or
    another number of threads measures all of them again.

    Args:
        rounds: timed batches of each entry, at most.
        folder: where measurements are cached.
    """
    key = {
        "timed": [[entry.name, dict(entry.key)] for entry in entries],
        "batch": batch,
        "rounds": rounds,
        "machine": [platform.node(), platform.machine(), torch.get_num_threads()],
        "device": str(entries[0].like.device),
    }

    def work() -> dict[str, Any]:
        samplers = {}
        for entry in entries:
            noise = torch.randn(batch, *entry.sampler.noise_shape, generator=rng_for("timing"))
            label = labels_in_turn(entry.classes, batch)
            labels = () if label is None else (label.to(entry.like.device),)
            samplers[entry.name] = entry.sampler, (noise.to(entry.like), *labels)
        costs = sampling_costs(samplers, rounds=rounds)
        return {name: asdict(cost) for name, cost in costs.items()}

    def read(records: dict[str, Any]) -> dict[str, SamplingCost]:
        return {entry.name: _read_cost(records[entry.name]) for entry in entries}

    return _cached(folder, key, work, read)


def _read_cost(record: dict[str, Any]) -> SamplingCost:
    calls = None if record["calls"] is None else Cost(**record["calls"])
    cost = SamplingCost(**{**record, "calls": calls, "seconds": _read_estimate(record["seconds"])})
    numbers = [cost.flops, cost.peak_bytes, cost.batch, *(record["calls"] or {}).values()]
    if not all(isinstance(number, Number) for number in numbers):
        raise ValueError(f"expected numbers, got {record}")
    return cost


def _cached(
    folder: Path, key: Mapping[str, Any], work: Callable[[], Any], read: Callable[[Any], M]
) -> M:
    """What `read` makes of what `work` returns, which is kept in a file in `folder` and done again
    only under another key or by other code.

    A file that cannot be read, or holds anything but what was written, counts as none.
    """
    text = json.dumps({**key, "code": _code_version()}, sort_keys=True)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
    with suppress(Exception):  # a damaged file fails in as many ways as there are formats
        record = read_object(path)
        if record["digest"] == _digest(text, record["measured"]):
            return read(record["measured"])
    folder.mkdir(parents=True, exist_ok=True)
    measured = work()
    record = {"digest": _digest(text, measured), "measured": measured}
    write_atomically(path, json.dumps(record))
    return read(read_object(path)["measured"])


def _digest(key: str, measured: object) -> str:
    return hashlib.sha256(json.dumps([key, measured], sort_keys=True).encode()).hexdigest()


NO_FIGURES = {"report", "training"}
"""Folders of the package that change no figure of a finished run."""


@cache
def _code_version() -> str:
    """A hash of all that figures depend on: this package's code and those it computes with."""
    root = Path(__file__).parents[1]
    packages = ("torch", "diffusers", "scikit-learn", "scipy", "numpy")
    digest = hashlib.sha256(" ".join(map(version, packages)).encode())
    for path in sorted(root.rglob("*.py")):
        if not NO_FIGURES & set(path.relative_to(root).parts):
            digest.update(path.read_bytes())
    return digest.hexdigest()
