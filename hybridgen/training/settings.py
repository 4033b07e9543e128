"""Settings that all experiments, and all trainings, have in common: described and checked once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hybridgen.errors import InputError

Precision = Literal["no", "bf16"]


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How an experiment runs, whatever it trains.

    Attributes:
        seed: of the weights and of every draw.
        out: the run's folder; one in `runs/` that is named after the data and the seed if not
            given.
        log_every: steps between two lines of losses in the log.
        save_every: steps between two checkpoints.
        mixed_precision: `no` or `bf16`; the launcher's choice if not given.
        threads: of torch on the CPU; tiny networks are fastest with one.
        tracking: further trackers beside log.jsonl: tensorboard, trackio, wandb.
    """

    seed: int = 0
    out: Path | None = None
    log_every: int = 10
    save_every: int = 200
    mixed_precision: Precision | None = None
    threads: int | None = None
    tracking: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_intervals(self, "log_every", "save_every")


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """How long and on how much a network is trained, whatever its loss.

    Attributes:
        steps: updates of the network.
        batch: samples a step, over all processes and micro-batches.
        accumulation: the micro-batches that a batch is cut into to save memory.
        ema_half_life: of the averaged network, in images.
        ema_ramp: bounds the half-life by this fraction of the images seen.
        check_ranks: compare the gradients of all processes at every step (slow; finds mistakes).
        channels_last: keep images' channels innermost in memory, which convolutions on a GPU's
            tensor cores are fastest with.
        compile: the generator or denoiser by `torch.compile`; never a discriminator, whose
            gradient may be differentiated once more.
    """

    steps: int = 1_500
    batch: int = 64
    accumulation: int = 1
    ema_half_life: float = 20_000.0
    ema_ramp: float = 0.1
    check_ranks: bool = False
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "steps", "batch", "accumulation", "ema_half_life", "ema_ramp")


@dataclass(frozen=True, kw_only=True)
class AdversarialSettings:
    """What the two networks minimise; the weights of r1 and r2 are scheduled in `training`.

    Attributes:
        objective: a name in `hybridgen/maths/objectives.py`: minimax, non_saturating, hinge,
            least_squares, wasserstein, relativistic.
        gp: weight of the one-centred penalty that the Wasserstein objective needs.
        finite_difference: estimate r1 and r2 with steps of this size (data is in [-1, 1] or of
            unit scale) instead of a double backward, which is slow on a CPU.
    """

    objective: str = "relativistic"
    gp: float = 0.0
    finite_difference: float | None = None


def check_intervals(settings: Any, *names: str) -> None:
    """Raise `InputError` for an interval below one step."""
    for name in names:
        if getattr(settings, name) < 1:
            raise InputError(f"{name} must be at least 1, got {getattr(settings, name)}")


def check_positive(training: Any, *names: str) -> None:
    """Raise `InputError` for a number of the training that is not positive."""
    for name in names:
        if not getattr(training, name) > 0:
            raise InputError(f"training.{name} must be positive, got {getattr(training, name)}")
