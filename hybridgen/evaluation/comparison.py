"""What a comparison found: one row for each method at each budget, and how it came about."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hybridgen.sampling.cost import Cost


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its uncertainty.

    Attributes:
        value: as measured.
        low, high: the ends of its 95 % interval; both equal the value where nothing is uncertain.
        floor: what as many real samples get: training examples in the place of generated ones.
        truth: what perfect samples get in the limit, where the density is known.
    """

    value: float
    low: float
    high: float
    floor: float | None = None
    truth: float | None = None


@dataclass(frozen=True, kw_only=True)
class Expense:
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
    """

    method: str
    setting: str
    kind: str
    models: tuple[str, ...]
    baseline: str | None = None
    figures: Mapping[str, Estimate]
    expense: Expense
    details: Mapping[str, str] = field(default_factory=dict)
    picture: bytes = b""
    neighbours: bytes = b""
    histogram: tuple[int, ...] = ()

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


HIGHER_IS_BETTER = frozenset({"precision", "recall", "coverage", "modes", "high_quality"})
"""Metrics of which more is better; of all others less is, but for those nearest to a value and
`c2st_p`, which ranks nothing."""

NEAREST_IS_BEST = {"density": 1.0, "mode_std": 0.974, "memorisation": 0.5, "c2st_accuracy": 0.5}
"""Metrics that perfect samples bring to a value, which can be missed on either side."""
