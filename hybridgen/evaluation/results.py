"""What a comparison found: one row for each method at each budget, and how it came about."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hybridgen.metrics.intervals import Estimate
from hybridgen.metrics.registry import METRICS
from hybridgen.protocols import Cost


@dataclass(frozen=True, kw_only=True)
class SamplingCost:
    """What one sample costs.

    Attributes:
        calls: of networks; `None` for a sampler that does not say.
        flops: floating-point operations, counted by torch: matrix products, convolutions and
            attention, forward and backward; a multiplication and an addition are two.
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
            their budget.
        setting: the budget in words, such as "18 calls" or "5 rounds".
        kind: of method, which chooses colour and mark.
        models: names of the runs that it takes.
        baseline: the method that it is a change of, at the same calls; `None` for a plain one.
        figures: metric -> estimate.
        expense: of one sample.
        details: every setting, name -> value, for the reader.
        picture: a PNG of samples from the noise that all rows share.
        neighbours: a PNG of some samples, each beside its nearest training example.
        histogram: samples that a classifier takes for each class.
        trainings: of other seeds that the figures are means over.
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

    @property
    def name(self) -> str:
        """Method and budget."""
        return f"{self.method}, {self.setting}" if self.setting else self.method


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One run that took part.

    Attributes:
        name: as methods call it.
        command: that trains it again.
        facts: steps, images, seconds, parameters and the like, name -> number.
        curves: quantity -> steps and values, thinned out for drawing.
        settings: its resolved settings, as YAML.
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
        title: of the page.
        data: name of the data set, its shape and sizes, name -> text.
        features: what the distances are measured on, such as "lenet".
        samples: for each row.
        rows: methods at budgets.
        models: the runs behind them.
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
    models: tuple[Trained, ...]
    quality: str = "frechet_distance"
    real_picture: bytes = b""
    real_histogram: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)


def metrics_of(comparison: Comparison) -> list[str]:
    """Every figure that some row has: the comparison's quality first, then as listed here."""
    there = {name for row in comparison.rows for name in row.figures}
    order = [comparison.quality, *METRICS, *sorted(there)]
    return [name for name in dict.fromkeys(order) if name in there]
