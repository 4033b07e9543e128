"""What a comparison found: one row for each method at each budget, and how it came about."""

import math
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import fmean, stdev

import torch

from hybridgen.metrics.intervals import Estimate, interval
from hybridgen.metrics.registry import METRICS, metric_of
from hybridgen.protocols import Cost


@dataclass(frozen=True, kw_only=True)
class SamplingCost:
    """What one sample costs.

    Attributes:
        calls: of networks; `None` for a sampler that does not say.
        flops: floating-point operations of matrix products, convolutions and attention, forward
            and backward; a multiplication and an addition are two.
        seconds: the median over rounds, and its interval.
        peak_bytes: of tensors alive at once, for the whole batch.
        batch: samples made together.
    """

    calls: Cost | None
    flops: float
    seconds: Estimate
    peak_bytes: int
    batch: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method at one budget.

    Attributes:
        method: a line in the pictures, such as "diffusion, guided"; rows of one method differ in
            their budget, `setting`, such as "18 calls" or "5 rounds".
        kind: of method, which chooses colour and mark.
        models: names of the runs that it takes.
        baseline: the method that it is a change of, at the same calls; `None` for a plain one.
        details: every setting, name -> value, for the reader.
        picture: a PNG of samples from the noise that all rows share.
        neighbours: a PNG of some samples, each beside its nearest training example.
        histogram: samples that a classifier takes for each class.
        trainings: of the model; with several, figures are means over them with their intervals,
            and cost, pictures and histogram are those of the first.
        noise_shape: of a sample's noise, if it is known: rows of one shape began with equal noise.
        validation_note: words beside its name where it rests on a discriminator that failed
            validation.
    """

    method: str
    setting: str
    kind: str
    models: tuple[str, ...]
    baseline: str | None = None
    figures: Mapping[str, Estimate]
    cost: SamplingCost
    details: Mapping[str, str] = field(default_factory=dict)
    picture: bytes = b""
    neighbours: bytes = b""
    histogram: tuple[int, ...] = ()
    trainings: int = 1
    noise_shape: tuple[int, ...] | None = None
    validation_note: str = ""

    @property
    def name(self) -> str:
        """Method and budget."""
        return f"{self.method}, {self.setting}" if self.setting else self.method


@dataclass(frozen=True, kw_only=True)
class TrainingSummary:
    """What the training of one model took and how it went.

    Attributes:
        command: that trains it again.
        facts: steps, images, seconds, parameters and the like, name -> number; where a model was
            trained several times, means over the trainings, and their number as `trainings`.
        curves: quantity -> steps and values, thinned out for drawing; of the first training.
        settings: its resolved settings, as YAML; of the first training.
    """

    name: str
    command: str
    facts: Mapping[str, float]
    curves: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = field(default_factory=dict)
    settings: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that a page needs.

    Attributes:
        data: name of the data set, its shape and sizes, name -> text.
        features: what the distances are measured on, such as "lenet".
        samples: for each row.
        models: the runs behind the rows.
        quality: the metric that pictures begin with and sentences speak of.
        real_picture: a PNG of held-out examples, beside which samples are shown.
        real_histogram: classes of the held-out examples, as the classifier sees them.
        classes: their names.
        warnings: one sentence each.
        provenance: command, versions, machine, seeds, date, name -> text.
    """

    title: str
    data: Mapping[str, str]
    features: str
    samples: int
    rows: tuple[Row, ...]
    models: tuple[TrainingSummary, ...]
    quality: str = "frechet_distance"
    real_picture: bytes = b""
    real_histogram: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)


def metrics_of(comparison: Comparison) -> list[str]:
    """Every figure that some row has: the comparison's quality first, then as listed here."""
    measured = {name for row in comparison.rows for name in row.figures}
    order = [comparison.quality, *METRICS, *sorted(measured)]
    return [name for name in dict.fromkeys(order) if name in measured]


def mean_over_trainings(figures: Sequence[Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """The mean of each figure over trainings of one model, each given with all its figures.

    Of one training the figures as they are. Of several the interval is `mean +- t error`, with the
    standard error over trainings and Student's t for one degree of freedom less, cut where the
    figure cannot go. It reaches at least as far to each side as the draw of samples alone: the root
    mean square of the trainings' own reaches over `sqrt(n)`. A figure that is infinite once has an
    infinite mean. A figure that some training lacks is left out, and so is `c2st_p`: p-values have
    no mean that is one.
    """
    if len(figures) == 1:
        return dict(figures[0])
    means = {}
    for name in figures[0]:
        if name == "c2st_p" or any(name not in each for each in figures):
            continue
        estimates = [each[name] for each in figures]
        values = [each.value for each in estimates]
        mean, finite = fmean(values), all(map(math.isfinite, values))
        error = stdev(values) / math.sqrt(len(values)) if finite else math.inf
        low, high = interval(name, mean, error, subsets=len(values))
        if finite:
            lowest, highest = metric_of(name).range
            below = math.hypot(*(each.value - each.low for each in estimates)) / len(values)
            above = math.hypot(*(each.high - each.value for each in estimates)) / len(values)
            low, high = max(min(low, mean - below), lowest), min(max(high, mean + above), highest)
        deviations, least = (), math.hypot(*(each.least_error for each in estimates)) / len(values)
        if finite and all(each.deviations for each in estimates):
            # All trainings met the same noise, so the draw of samples is no smaller in their mean.
            parts = zip(*(each.deviations[0] for each in estimates), strict=True)
            over_trainings = [(value - mean) / math.sqrt(len(values)) for value in values]
            deviations = tuple(map(fmean, parts)), tuple(over_trainings)
        ends = {"low": low, "high": high, "deviations": deviations, "least_error": least}
        ends["degrees"] = len(values) - 1
        means[name] = replace(estimates[0], value=mean, standard_error=error, **ends)
    return means


PACKAGES = ("hybridgen", "torch", "diffusers", "accelerate", "torchmetrics", "scikit-learn")


def provenance(
    command: Sequence[str], *, seed: int, trainings: Mapping[str, int]
) -> dict[str, str]:
    """Command, date, seed, versions and machine, name -> text.

    Args:
        command: the words after `python`.
        trainings: of each model, name -> number.
    """
    counts = [f"{number} of {name}" for name, number in trainings.items() if number > 1]
    if counts and len(counts) < len(trainings):
        counts.append("one of each other model")
    how_often = f"trainings: {', '.join(counts)}" if counts else "one training of each model"
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "CPU"
    return {
        "command": shlex.join(["python", *command]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seed": f"{seed}; {how_often}",
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "machine": f"{device}; {os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "threads": f"{torch.get_num_threads()} for sampling and measuring",
    }
