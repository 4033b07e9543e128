"""Settings of all experiments and all trainings, described and checked once, without torch."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from hybridgen.errors import InputError
from hybridgen.settings import (
    Count,
    Interval,
    Level,
    Positive,
    Range,
    Samples,
    Seed,
    Settings,
    Weight,
)

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["no", "bf16"]
ObjectiveName = Literal[
    "relativistic", "non_saturating", "minimax", "hinge", "least_squares", "wasserstein"
]
"""Spelled out for type checkers and `--help`: the variables of `hybridgen/maths/objectives.py`."""
Threads = Annotated[int, Range(1, os.cpu_count() or 1)]
"""Beyond the cores, threads wait for each other, and thousands end the process."""


@dataclass(frozen=True, kw_only=True)
class RunSettings(Settings):
    """How an experiment runs, whatever it trains.

    Attributes:
        seed: of the weights and of every draw.
        out: the run's folder; one in `runs/` that is named after the data and the seed if not
            given.
        log_every: steps between two lines of losses in the log.
        save_every: steps between two checkpoints.
        mixed_precision: `no` or `bf16`; the launcher's choice if not given.
        deterministic: by torch's deterministic algorithms, so that on a GPU too the same command
            makes the same weights bit for bit; where there is none for an operation, it ends.
        threads: of torch on the CPU; tiny networks are fastest with one.
        tracking: further trackers beside log.jsonl, such as tensorboard.
    """

    seed: Seed = 0
    out: Path | None = None
    log_every: Interval = 10
    save_every: Interval = 200
    mixed_precision: Precision | None = None
    deterministic: bool = False
    threads: Threads | None = None
    tracking: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()

    def logs(self, step: int) -> bool:
        """Whether the losses of this step are logged."""
        return step % self.log_every == 0


@dataclass(frozen=True, kw_only=True)
class OptimSettings(Settings):
    """How long and on how much a network is trained, whatever its loss.

    Attributes:
        steps: updates of the network.
        batch: samples a step, over all processes and micro-batches.
        accumulation: the micro-batches that a batch is cut into to save memory.
        ema_half_life: of the averaged network, in images.
        ema_ramp: bounds the half-life by this fraction of the images seen.
        check_ranks: compare the gradients of all processes at every step (slow; finds mistakes).
        channels_last: keep images' channels innermost in memory; faster for some networks on a GPU
            and slower for others, so measure it.
        compile: the generator or denoiser by `torch.compile`; never a discriminator, whose
            gradient may be differentiated once more.
    """

    steps: Count = 1_500
    batch: Samples = 64
    accumulation: Samples = 1
    ema_half_life: Positive = 20_000.0
    ema_ramp: Positive = 0.1
    check_ranks: bool = False
    channels_last: bool = False
    compile: bool = False


@dataclass(frozen=True, kw_only=True)
class AdversarialSettings(Settings):
    """What the two networks minimise; the weights of r1 and r2 are scheduled in `training`.

    Attributes:
        objective: a name in `hybridgen/maths/objectives.py`: minimax, non_saturating, hinge,
            least_squares, wasserstein, relativistic.
        gp: weight of the one-centred penalty that the Wasserstein objective needs.
        finite_difference: estimate r1 and r2 with steps of this size (data is in [-1, 1] or of
            unit scale) instead of a double backward, which is slow on a CPU.
        smoothing: one-sided label smoothing, the share to which real samples count as generated
            ones; not with `relativistic`.
        flips: the share of the discriminator's labels that are exchanged.
    """

    objective: ObjectiveName = "relativistic"
    gp: Weight = 0.0
    finite_difference: Positive | None = None
    smoothing: Annotated[float, Range(0, 0.5, "[)")] = 0.0
    flips: Annotated[float, Range(0, 0.5, "[)")] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smoothing > 0 and self.objective == "relativistic":
            raise InputError(
                "a relativistic objective compares samples and has no labels to smooth: leave "
                "adversarial.smoothing at 0, or choose another adversarial.objective"
            )


@dataclass(frozen=True, kw_only=True)
class Cosine(Settings):
    """From `start` to `end` along half a cosine, then constant.

    `end + (start - end) (1 + cos(pi u)) / 2`, u = progress / until, at most 1. Loshchilov & Hutter
    2016, arXiv:1608.03983, equation 5; R3GAN moves learning rate, penalty weight and beta2 so
    (Huang et al. 2024, arXiv:2501.05441).

    Attributes:
        start: value at the first step.
        end: value from `until` on; `None` keeps `start` throughout.
        until: the fraction of training at which the end is reached, in (0, 1].
    """

    start: Weight
    end: Weight | None = None
    until: Annotated[float, Range(0, 1, "(]")] = 1.0

    @property
    def greatest(self) -> float:
        """The largest value it takes."""
        return max(self.start, self.start if self.end is None else self.end)

    def __call__(self, progress: float) -> float:
        """The value at `progress`, the fraction of training that is done, in [0, 1]."""
        if self.end is None:
            return self.start
        u = min(progress / self.until, 1.0)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * u)) / 2


@dataclass(frozen=True, kw_only=True)
class LogNormal(Settings):
    """`log sigma ~ N(mean, std^2)`: the levels at which a denoiser is trained.

    Source: Karras et al. 2022, arXiv:2206.00364, table 1 (mean -1.2, std 1.2 for images whose
    standard deviation is 0.5).

    Attributes:
        mean: of the logarithm of sigma.
        std: of the logarithm of sigma.
    """

    mean: Annotated[float, Range(-10, 10)] = -1.2
    std: Annotated[float, Range(0, 10, "(]")] = 1.2

    def __call__(self, normal: "Tensor") -> "Tensor":
        """Standard normal numbers `[b]` to noise levels `[b]`."""
        return (self.mean + self.std * normal).exp()


@dataclass(frozen=True, kw_only=True)
class LogUniform(Settings):
    """`log sigma ~ U(log low, log high)`: every scale alike, as a guide must know all of them.

    Attributes:
        low: the smallest level.
        high: the largest level.
    """

    low: Level = 0.02
    high: Level = 80.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low < self.high:
            raise InputError(f"noise levels need low < high, got {self.low} and {self.high}")

    def __call__(self, uniform: "Tensor") -> "Tensor":
        """Numbers `[b]`, uniform in [0, 1), to noise levels `[b]`."""
        low, high = math.log(self.low), math.log(self.high)
        return (low + uniform * (high - low)).exp()

    @property
    def density(self) -> float:
        """Of `log sigma`, between the ends."""
        return 1 / math.log(self.high / self.low)

    def quantiles(self, count: int) -> "Tensor":
        """`[count]` levels in the middle of equal shares of the distribution, rising, float32."""
        import torch  # the only need for it among settings

        return self((torch.arange(count, dtype=torch.float32) + 0.5) / count)


@dataclass(frozen=True, kw_only=True)
class NetworkTraining(Settings):
    """How one of a GAN's networks moves, where it differs from the other.

    Attributes:
        optimizer: `adam` or `sgd`, whose momentum is beta1.
        rate: what `training.learning_rate` is multiplied by.
        beta1: Adam's first momentum, or that of SGD.
        beta2: Adam's second momentum; `training.beta2` if not given.
        moves: how often it moves in a step, every time on a new batch; losses are of the last.
    """

    optimizer: Literal["adam", "sgd"] = "adam"
    rate: Positive = 1.0
    beta1: Annotated[float, Range(0, 1, "[)")] = 0.0
    beta2: Annotated[float, Range(0, 1, "[)")] | None = None
    moves: Annotated[int, Range(1, 1_000)] = 1


@dataclass(frozen=True, kw_only=True)
class GanTraining(OptimSettings):
    """How a GAN is trained, whatever its networks and data.

    With exact penalties the accumulation changes the result by rounding only; finite differences,
    GP and augmentation draw per micro-batch.

    Attributes:
        steps: in each the discriminator moves, then the generator.
        learning_rate: of both networks. This and the next three are schedules: set `.start` and
            `.end`; `.end null` keeps the start.
        beta2: Adam's second momentum.
        r1: weight of the squared gradient on real samples.
        r2: weight of the squared gradient on generated samples.
        penalty_every: moves of the discriminator from one with r1 and r2 to the next; the weights
            are multiplied by it (lazy regularisation, arXiv:1912.04958, appendix B).
        replay: share of the discriminator's generated samples that are past ones.
        replay_size: how many past samples are kept; checkpoints hold them.
        pack: samples that the discriminator sees together, joined on their first axis (PacGAN).
        instance_noise: standard deviation of noise on all that the discriminator sees, which is not
            told (arXiv:1610.04490); a schedule, usually down to 0.
        discriminator: how it moves, where it differs.
        generator: how it moves, where it differs.
    """

    steps: Count = 2_000
    learning_rate: Cosine = field(default_factory=lambda: Cosine(start=1e-3, end=5e-5))
    beta2: Cosine = field(default_factory=lambda: Cosine(start=0.99))
    r1: Cosine = field(default_factory=lambda: Cosine(start=0.1, end=0.01))
    r2: Cosine = field(default_factory=lambda: Cosine(start=0.1, end=0.01))
    ema_ramp: Positive = 0.05
    penalty_every: Annotated[int, Range(1, 1_000)] = 1
    replay: Annotated[float, Range(0, 1, "[)")] = 0.0
    replay_size: Samples = 1_000
    pack: Annotated[int, Range(1, 64)] = 1
    instance_noise: Cosine = field(default_factory=lambda: Cosine(start=0.0))
    discriminator: NetworkTraining = field(default_factory=NetworkTraining)
    generator: NetworkTraining = field(default_factory=NetworkTraining)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replay_size < self.pack:
            raise InputError(
                f"training.replay_size must hold a pack of {self.pack} samples, got "
                f"{self.replay_size}: raise it"
            )
        if self.beta2.greatest >= 1:
            raise InputError(f"training.beta2 must stay below 1, got {self.beta2.greatest}")


@dataclass(frozen=True, kw_only=True)
class DiffusionTraining(OptimSettings):
    """How a denoiser is trained, whatever its network and data.

    Attributes:
        learning_rate: Adam's; a schedule, set `.start` and `.end`.
        noise: the levels at which the denoiser is trained.
        label_drop: share of the labels replaced by "none", so that the denoiser learns to do
            without and can be guided classifier-free; ignored without labels.
        clip: the largest norm of the whole gradient; none if not given.
    """

    learning_rate: Cosine = field(default_factory=lambda: Cosine(start=2e-3, end=2e-5))
    noise: LogNormal = field(default_factory=lambda: LogNormal(mean=-0.8))
    label_drop: Annotated[float, Range(0, 1, "[)")] = 0.1
    clip: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class DistillTraining(OptimSettings):
    """How a finished denoiser becomes one that samples in few calls, whatever pulls it there.

    Attributes:
        steps: moves of the student.
        rounds: moves of discriminator and follower for each of the student's, every one on fresh
            samples.
        learning_rate: Adam's, of the student; a schedule, set `.start` and `.end`.
        noise: the levels at which the follower learns the student's samples.
    """

    rounds: Annotated[int, Range(1, 1_000)] = 1
    learning_rate: Cosine = field(default_factory=lambda: Cosine(start=5e-4, end=5e-5))
    noise: LogNormal = field(default_factory=lambda: LogNormal(mean=-0.8))


@dataclass(frozen=True, kw_only=True)
class FinetuneTraining(OptimSettings):
    """How a finished denoiser is moved from its own samples towards data.

    Attributes:
        batch: real samples a step, and as many of the model that it started from.
        learning_rate: Adam's; a schedule, set `.start` and `.end`.
        noise: the levels at which likelihoods are compared; what differs beyond them is left alone.
        levels: of each sample in a step, one from each of as many equal shares of `noise`; more
            make the estimate of the ratio less noisy, and take as much longer.
        sharpness: what the log likelihood ratio, in nats, is multiplied by to be a logit.
        fake_weight: of the loss of generated samples beside that of real ones.
    """

    steps: Count = 80
    learning_rate: Cosine = field(default_factory=lambda: Cosine(start=3e-5, end=3e-6))
    noise: LogUniform = field(default_factory=lambda: LogUniform(low=0.05, high=5.0))
    levels: Annotated[int, Range(1, 1_000)] = 1
    sharpness: Positive = 1.0
    fake_weight: Weight = 1.0


@dataclass(frozen=True, kw_only=True)
class AutoencoderTraining(OptimSettings):
    """How an autoencoder is trained, whatever its network and data.

    Attributes:
        learning_rate: Adam's; a schedule, set `.start` and `.end`.
        kl: weight of the posterior's KL divergence from a standard normal distribution, in nats a
            value of the data, beside the mean absolute error a value.
    """

    learning_rate: Cosine = field(default_factory=lambda: Cosine(start=2e-3, end=5e-5))
    kl: Weight = 1e-3


@dataclass(frozen=True, kw_only=True)
class GuideTraining(OptimSettings):
    """How a guide is trained, whatever its network and data.

    Attributes:
        steps: at most.
        batch: real samples a step, and as many generated ones, over all processes and
            micro-batches.
        objective: `cross_entropy` between real and generated samples, or `score_matching` against
            the denoiser, which needs a smooth discriminator (`discriminator.activation silu`).
        learning_rate: Adam's; a schedule, set `.start` and `.end`.
        noise: the levels at which the discriminator is trained and validated.
        r1: weight of the squared gradient at real samples; cross-entropy only.
        r2: weight of the squared gradient at generated samples; cross-entropy only.
        check_every: steps between two validations.
        patience: validations without a better result after which the training ends.
        levels: noise levels of a validation.
    """

    batch: Samples = 128
    objective: Literal["cross_entropy", "score_matching"] = "cross_entropy"
    learning_rate: Cosine = field(default_factory=lambda: Cosine(start=1e-3, end=1e-5))
    noise: LogUniform = field(default_factory=LogUniform)
    r1: Weight = 0.0
    r2: Weight = 0.0
    check_every: Interval = 50
    patience: Interval = 10
    levels: Annotated[int, Range(1, 1_000)] = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compile:
            raise InputError(
                "a guide is a discriminator, which may be differentiated twice and so is not "
                "compiled: leave training.compile false"
            )
        if self.objective == "score_matching" and max(self.r1, self.r2) > 0:
            raise InputError(
                "score matching asks for a certain gradient, which a penalty would change: leave "
                "training.r1 and training.r2 at 0, or choose cross_entropy"
            )
