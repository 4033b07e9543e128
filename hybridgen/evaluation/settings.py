"""How a training is watched, and ways to samples, as a person names them in settings."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Annotated

from hybridgen.errors import InputError, quoted
from hybridgen.metrics.registry import NEIGHBOURS
from hybridgen.sampling.settings import How, SamplerName, SamplerSettings, with_calls
from hybridgen.settings import Interval, Level, Positive, Range, Settings, Share
from hybridgen.training.settings import RunSettings

Measured = Annotated[int, Range(NEIGHBOURS + 1, 1e6)]
"""Samples that metrics are worked out on."""
Scale = Annotated[float, Range(-1e3, 1e3)]
LONGEST = 120
"""Bytes of a method's name; the words of its budgets follow in the name of a file."""
Calls = Annotated[int, Range(1, 2_000)]


@dataclass(frozen=True, kw_only=True)
class Alarms(Settings):
    """When a training is said to go wrong, and whether it ends then.

    Attributes:
        enabled: look at every evaluation.
        stop: end the run at the first alarm, as a finished one.
        patience: evaluations that a young training has before it is compared with what it should
            be, and without progress after which it is stuck.
        collapse: share of its own best, or of that of real samples, that diversity must keep.
        hopping: share of the samples that may change their mode or class between two evaluations.
        divergence: how many times its usual spread a loss or a penalty may leave its usual value.
        logit_gap: the largest difference of mean logits, real less fake.
        overfitting: the largest probability that the discriminator rates a training example above a
            held-out one, of which .5 is right.
    """

    enabled: bool = True
    stop: bool = False
    patience: Interval = 3
    collapse: Share = 0.5
    hopping: Share = 0.4
    divergence: Positive = 10.0
    logit_gap: Positive = 50.0
    overfitting: Share = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stop and not self.enabled:
            raise InputError(
                "alarms.stop ends a run at an alarm, and alarms.enabled false raises none: leave "
                "one of them out"
            )


@dataclass(frozen=True, kw_only=True)
class Stopping(Settings):
    """Which weights of a training are kept beside the last, and when it ends early.

    Attributes:
        keep_best: keep those of the evaluation nearest to the held-out data as `best/`.
        patience: evaluations without a better one after which the run ends; never if not given.
    """

    keep_best: bool = True
    patience: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class MonitoredRunSettings(RunSettings):
    """How an experiment runs whose model is sampled and evaluated along the way.

    Attributes:
        sample_every: steps between two sample grids.
        eval_every: steps between two evaluations on `eval_samples` samples.
        eval_samples: samples for the metrics along the way; the last evaluation is as large as
            the data allows.
        alarms: what is said of a training that goes wrong.
        stopping: which weights are kept, and when it ends early.
    """

    sample_every: Interval = 100
    eval_every: Interval = 500
    eval_samples: Measured = 1_000
    alarms: Alarms = field(default_factory=Alarms)
    stopping: Stopping = field(default_factory=Stopping)

    def logs(self, step: int) -> bool:
        """Also those of an evaluation, which its alarms look at."""
        return super().logs(step) or step % self.eval_every == 0


@dataclass(frozen=True, kw_only=True)
class Method(Settings):
    """One way to samples, at each of its budgets: all `calls` at all `scales` for all `rounds`.

    Attributes:
        name: in tables and pictures.
        model: the name of the run that is sampled, or of the runs if it is a pattern of seeds.
        sampler: of a diffusion model; a student of `experiments/distill.py` has its own.
        calls: budgets of a diffusion model, denoiser calls a sample; of a student, divisors of the
            calls it was trained for.
        low: the lowest noise level of `heun` and `edm_*`,
        high: and the highest.
        guide: the name of a run of `guide.py` that guides the sampling.
        scales: of guidance; the guide's own if none is given.
        discriminator: the name of a run of `guide.py` that refines finished samples.
        how: the way in which they are refined.
        rounds: budgets of refinement, proposals beside the first.
        baseline: the name of the method that this one is a change of.
    """

    name: str
    model: str
    sampler: SamplerName = "edm_dpmpp"
    calls: tuple[Calls, ...] = ()
    low: Level = 0.002
    high: Level = 80.0
    guide: str | None = None
    scales: tuple[Scale, ...] = ()
    discriminator: str | None = None
    how: How = "metropolis_hastings"
    rounds: tuple[Annotated[int, Range(1, 1_000)], ...] = ()
    baseline: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        calls, rounds, scales = list(self.calls), list(self.rounds), list(self.scales)
        refines = f"discriminator {self.discriminator} and rounds {rounds}"
        complete = (self.discriminator is None) == (not rounds)
        self._check(complete, f"refinement takes a discriminator and rounds, got {refines}")
        self._check(not scales or self.guide, f"scales {scales} need a guide; name one")
        for number in calls:
            self.sampler_settings(number)

    def _check(self, fine: object, sentence: str) -> None:
        if not fine:
            raise InputError(f"{self.name}: {sentence}")

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the runs it takes, the one that is sampled first."""
        return tuple(n for n in (self.model, self.guide, self.discriminator) if n is not None)

    def check_kind(self, kind: str) -> None:
        """Refuse, by `InputError`, what a model of this kind, `gan`, `student` or another, has
        not."""
        if kind == "student":
            self._check(not self.guide, "a student's samples cannot be guided: guide its teacher")
        if kind == "gan":
            one_pass = not (self.calls or self.guide)
            self._check(one_pass, "a GAN takes one pass, so leave out calls and guide")
        else:
            self._check(self.calls, "name its denoiser calls a sample, such as calls: [10]")

    def check_names(self, runs: Collection[str]) -> None:
        """Refuse, by `InputError`, a method whose runs are not among these names."""
        for name in self.models:
            among = ", ".join(sorted(runs))
            self._check(name in runs, f"no run is called {name!r}; there are {among}")

    def budgets(self, guide_scale: float) -> Iterator["Budget"]:
        """Every combination; `guide_scale` is the one that was chosen when the guide was tried."""
        scales = (None,) if self.guide is None else self.scales or (guide_scale,)
        for calls, scale, rounds in product(self.calls or (0,), scales, self.rounds or (0,)):
            yield Budget(calls=calls, scale=scale, rounds=rounds)

    def sampler_settings(self, calls: int) -> SamplerSettings:
        """Of a diffusion model, with as many steps as make `calls` calls."""
        settings = SamplerSettings(name=self.sampler, low=self.low, high=self.high)
        return with_calls(settings, calls)


def file_words(name: str) -> str:
    """What a row's picture is called: its name's letters, digits and dots, joined by hyphens."""
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in name).split())


def check_methods(methods: Sequence[Method]) -> None:
    """Refuse, by `InputError`, methods of one name, and a baseline that is none of them."""
    names = [method.name for method in methods]
    files: dict[str, str] = {"real": "real samples"}
    for name in names:
        words = file_words(name)
        if not words or len(words.encode()) > LONGEST:
            raise InputError(
                f"a method's name is that of its picture, of 1 to {LONGEST} letters, digits and "
                f"spaces, got {quoted(name)}"
            )
        if files.setdefault(words, name) != name:
            raise InputError(
                f"the pictures of {name!r} and {files[words]!r} would have one name: give the "
                "methods different ones"
            )
    for method in methods:
        if names.count(method.name) > 1:
            raise InputError(f"two methods are called {method.name!r}: give them different names")
        among = f"is no method; there are {', '.join(names)}"
        method._check(
            method.baseline in (None, *names), f"its baseline {method.baseline!r} {among}"
        )


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one row may spend.

    Attributes:
        calls: of a denoiser; 0 for a GAN.
        scale: of guidance; `None` without a guide.
        rounds: of refinement; 0 without.
    """

    calls: int
    scale: float | None
    rounds: int

    @property
    def words(self) -> str:
        """Such as "10 calls, scale 2"."""
        parts = [f"{self.calls} call" + "s" * (self.calls > 1)] if self.calls else []
        if self.scale is not None:
            parts.append(f"scale {self.scale:g}")
        if self.rounds:
            parts.append(f"{self.rounds} round" + "s" * (self.rounds > 1))
        return ", ".join(parts)
