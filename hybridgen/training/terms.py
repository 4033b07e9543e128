"""What trains a model beside its own loss: a discriminator, a follower, a teacher's samples."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from hybridgen.errors import InputError
from hybridgen.settings import Level, Positive, Range, Samples, Settings, Weight
from hybridgen.training.settings import Cosine, LogUniform, ObjectiveName

FakeSource = Literal["clean", "renoised", "chain"]
Divergence = Literal["reverse_kl", "forward_kl", "jensen_shannon"]
"""Spelled out for `--help`, as in `hybridgen/losses/distillation.py`."""
HARMLESS = 0.25
"""Noise in units of the data's deviation up to which a posterior mean passes for data: on the
two-component mixture of `tests/oracles.py` the Kolmogorov distance between the two is .044 at
.15 deviations, .08 at .25, .135 at .5 and .46 at 2.5."""


@dataclass(frozen=True, kw_only=True)
class AuxiliaryTerm(Settings):
    """A discriminator's part in the training of another model.

    Attributes:
        weight: of the term beside the model's own loss, once warm-up and ramp are over.
        adaptive: multiply the weight so that both losses pull equally on the last layer.
        warm_up: steps in which the discriminator trains and the term does not reach the model.
        ramp: steps in which the weight then rises to its full value.
        objective: a name in `hybridgen/maths/objectives.py`.
        learning_rate: of the discriminator.
        r1: weight of the squared gradient on real samples.
        r2: weight of the squared gradient on generated samples.
        finite_difference: estimate r1 and r2 with steps of this size, without double backward.
    """

    weight: Weight = 0.1
    adaptive: bool = False
    warm_up: Annotated[int, Range(0, 1e8)] = 200
    ramp: Annotated[int, Range(0, 1e8)] = 500
    objective: ObjectiveName = "relativistic"
    learning_rate: Cosine = field(default_factory=lambda: Cosine(start=1e-3, end=5e-5))
    r1: Cosine = field(default_factory=lambda: Cosine(start=0.1))
    r2: Cosine = field(default_factory=lambda: Cosine(start=0.1))
    finite_difference: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class AdversarialTerm(AuxiliaryTerm):
    """A discriminator's part in the training of a diffusion model; off without a `source`.

    Attributes:
        source: where the fake comes from. `clean`: the clean estimate at levels up to `highest`,
            compared as it is. `renoised`: the estimate at any level, noised again to three
            quarters of it or more, and the data with the same noise. `chain`: the end of a short
            sampling chain, with a gradient through its last step.
        share: samples of the term as a fraction of the batch.
        highest: the largest level of `clean`; the smallest is `lowest`.
        lowest: the last level of a `chain`, from which its last step leads to 0.
        calls: lengths of a `chain`, in denoiser calls, one drawn in each step.
        high: the first level of a `chain`.
        force: allow `clean` at high noise.
    """

    source: FakeSource | None = None
    share: Annotated[float, Range(0, 1, "(]")] = 0.25
    highest: Level = 0.1
    lowest: Level = 0.02
    calls: tuple[Annotated[int, Range(2, 1_000)], ...] = (4, 6)
    high: Level = 80.0
    force: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        name = "highest" if self.source == "clean" else "high"
        if not self.lowest < getattr(self, name):
            raise InputError(
                f"adversarial.lowest must be below {name}, got {self.lowest} and "
                f"{getattr(self, name)}"
            )
        if not self.calls:
            raise InputError("adversarial.calls names no length of a chain: give one, such as 4")

    def validate_noise_range(self, finest: float) -> None:
        """Refuse clean estimates at levels where even a perfect denoiser's give themselves away.

        Args:
            finest: the smallest deviation that the data has, such as a mode's; where it is not
                known, the deviation of all the data, which is the least that can be asked.

        Raises:
            InputError: see above; not if `force`.
        """
        limit = HARMLESS * finest
        if self.source == "clean" and self.highest > limit and not self.force:
            raise InputError(
                f"clean estimates at noise up to {self.highest} would be compared with data, but "
                f"above {limit:g} even a perfect denoiser's are posterior means that a "
                "discriminator can tell from data, so the term would fight the score: lower "
                "adversarial.highest, choose adversarial.source chain, or set adversarial.force "
                "true"
            )


@dataclass(frozen=True, kw_only=True)
class StudentTerm(AuxiliaryTerm):
    """A discriminator's part in making a finished denoiser sample in few calls.

    It compares the student's samples with data, both noised alike. See `AuxiliaryTerm`; with
    weight 0 there is no discriminator.

    Attributes:
        noise: the levels at which it compares.
        clean: share of the samples that it sees without noise.
        from_teacher: make it of the teacher's encoder, instead of `discriminator`'s settings.
    """

    weight: Weight = 1.0
    warm_up: Annotated[int, Range(0, 1e8)] = 0
    ramp: Annotated[int, Range(0, 1e8)] = 0
    noise: LogUniform = field(default_factory=lambda: LogUniform(low=0.02, high=1.5))
    clean: Annotated[float, Range(0, 1)] = 0.3
    from_teacher: bool = False


@dataclass(frozen=True, kw_only=True)
class Matching(Settings):
    """The pull of the student's samples towards the teacher's distribution.

    A follower, a second denoiser that starts as the teacher, learns the student's samples; where
    its answers differ from the teacher's, samples are too frequent or too rare.

    Attributes:
        weight: of the pull; with 0 there is no follower.
        divergence: of teacher and student. Beyond `reverse_kl` the pull of a sample is weighted by
            the discriminator's density ratio.
        noise: the levels at which the two denoisers are compared.
        learning_rate: of the follower.
    """

    weight: Weight = 1.0
    divergence: Divergence = "reverse_kl"
    noise: LogUniform = field(default_factory=lambda: LogUniform(low=0.05, high=10.0))
    learning_rate: Cosine = field(default_factory=lambda: Cosine(start=1e-3, end=5e-5))


@dataclass(frozen=True, kw_only=True)
class Regression(Settings):
    """The squared error to what the teacher's sampler makes of the same input.

    Attributes:
        weight: of the mean squared error, a schedule.
        pairs: of input and sample at each of the student's levels, drawn once; none if the weight
            is 0 throughout.
        share: of a batch whose inputs are those of pairs; all of it if nothing else pulls.
        alone: steps at the start in which nothing but the pairs, all of a batch, trains anything.
    """

    weight: Cosine = field(default_factory=lambda: Cosine(start=0.0))
    pairs: Samples = 1_000
    share: Annotated[float, Range(0, 1, "(]")] = 0.5
    alone: Annotated[int, Range(0, 1e8)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight.start == 0 < self.alone:
            raise InputError(
                f"nothing trains in the first {self.alone} steps, which regression.alone leaves to "
                "the pairs: set regression.weight.start above 0"
            )


def check_signals(
    term: StudentTerm | None, matching: Matching | None, regression: Regression | None
) -> None:
    """Refuse, by `InputError`, signals that cannot train a student; `None` is one that is off."""
    weights = [each.weight for each in (term, matching) if each is not None]
    weights += [regression.weight.greatest] if regression is not None else []
    if not any(weights):
        raise InputError(
            "nothing pulls at the student: set adversarial.weight, matching.weight or "
            "regression.weight.start above 0"
        )
    pull = None if regression is None else regression.weight
    held = pull is not None and pull.start > 0 and pull.end != 0
    if term is not None and term.adaptive and matching is None and not held:
        raise InputError(
            "adversarial.adaptive weighs the term against other losses, and there are none, or not "
            "in every step: leave it false, or set matching.weight"
        )
    if matching is None or matching.divergence == "reverse_kl":
        return
    if term is None or term.objective not in ("non_saturating", "minimax"):
        raise InputError(
            f"matching.divergence {matching.divergence} needs the density ratio, which a "
            "discriminator trained by cross-entropy knows: set adversarial.weight above 0 and "
            "adversarial.objective non_saturating"
        )
    inner, outer = matching.noise, term.noise
    if not outer.low <= inner.low < inner.high <= outer.high:
        raise InputError(
            f"matching.divergence {matching.divergence} asks the discriminator at noise levels "
            f"from {inner.low:g} to {inner.high:g}, and it is trained from {outer.low:g} to "
            f"{outer.high:g}: widen adversarial.noise to hold them"
        )
