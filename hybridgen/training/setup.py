"""Setting a training up: the Accelerator, what is refused, models prepared, checks of each step.

An experiment goes on in this order. Settings check themselves; `accelerator_for` seeds all
processes alike; data and networks are built, so that all processes hold equal weights; the loop's
function (`train_gan`, ...) refuses what cannot work; then the `Run` makes its folder, `start`
begins the logs and lets the draws of the processes differ, and the loop's first step prepares the
models and resumes.
"""

import ctypes
import math
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, DynamoBackend, set_seed
from torch import Tensor, nn

from hybridgen.data.augment import Augment, AugmentSettings
from hybridgen.errors import InputError, RunError
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.maths.objectives import objective
from hybridgen.training.adversarial_term import AdversarialTerm
from hybridgen.training.optim import EMA, Cosine
from hybridgen.training.run import JsonLines, Run
from hybridgen.training.settings import AdversarialSettings, OptimSettings, Precision, RunSettings
from hybridgen.training.step import Step

_PR_SET_PDEATHSIG = 1


def accelerator_for(folder: Path, settings: RunSettings) -> Accelerator:
    """The Accelerator of an experiment that writes into `folder`; see `make_accelerator`."""
    return make_accelerator(
        folder,
        seed=settings.seed,
        mixed_precision=settings.mixed_precision,
        threads=settings.threads,
        tracking=settings.tracking,
    )


def make_accelerator(
    folder: Path,
    *,
    seed: int,
    mixed_precision: Precision | None = None,
    threads: int | None = None,
    tracking: tuple[str, ...] = (),
) -> Accelerator:
    """An Accelerator that logs into `folder/log.jsonl` and to the trackers named, seeded.

    Args:
        mixed_precision: the launcher's choice if `None`.
        threads: of torch on the CPU; tiny networks are fastest with one.
        tracking: names of Accelerate's trackers: tensorboard, trackio, wandb.

    Raises:
        InputError: an impossible seed, no thread, a tracker that is not installed, or Accelerate
            refuses the set-up.
    """
    # broadcast_buffers has no full successor yet, and its warning would break the progress bar.
    warnings.filterwarnings(
        "ignore", message=".*broadcast_buffers. is deprecated", category=FutureWarning
    )
    if not 0 <= seed < 2**32:
        raise InputError(f"a seed is a whole number from 0 to {2**32 - 1}, got {seed}")
    if threads is not None:
        if threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)
    try:
        accelerator = Accelerator(
            # Without this, processes launched by torchrun on a machine that has nothing but CPUs
            # would each train alone, and nobody would say so.
            cpu=not torch.accelerator.is_available(),
            mixed_precision=mixed_precision,
            log_with=[JsonLines(folder / "log.jsonl"), *tracking],
            project_dir=folder,
            # Copying buffers between processes in every forward pass would change them in place
            # between a step's two passes, and the first backward would fail.
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
    except (ValueError, ImportError) as error:
        raise InputError(f"Accelerate cannot start with these settings: {error}") from error
    missing = set(tracking) - {str(getattr(t, "value", t)) for t in accelerator.log_with}
    if missing:
        raise InputError(
            f"no tracker {', '.join(sorted(missing))} here: install hybridgen[tracking], or drop it"
        )
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world != accelerator.num_processes:
        raise InputError(
            f"{world} processes were launched and Accelerate joined {accelerator.num_processes}: "
            "launch with torchrun, and on CPUs without --multi_gpu"
        )
    if "ACCELERATE_MIXED_PRECISION" in os.environ and sys.platform == "linux":
        # `accelerate launch` does not pass a SIGTERM on: without it nobody would stop this process.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    set_seed(seed)
    return accelerator


def start(run: Run, project: str, settings: RunSettings) -> None:
    """Begin logging, and let the draws of the processes differ from here on."""
    start_trackers(run.accelerator, project, run.config)
    set_seed(settings.seed, device_specific=True)


def start_trackers(accelerator: Accelerator, project: str, config: Mapping[str, Any]) -> None:
    """Begin logging; nested settings are flattened to `a.b`, which every tracker takes."""
    accelerator.init_trackers(project, _flat(config))


def _flat(config: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{name}.{key}" if name else key
        if isinstance(value, Mapping):
            flat |= _flat(value, path)
        else:
            flat[path] = value if isinstance(value, int | float | str | bool) else str(value)
    return flat


def build_adversarial(
    discriminator: nn.Module,
    settings: AdversarialSettings | AdversarialTerm,
    augment: AugmentSettings | None = None,
) -> AdversarialLoss:
    """The discriminator with its game; the loops set r1 and r2 by their schedules.

    Raises:
        InputError: the settings contradict each other, or the discriminator cannot play.
    """
    if augment is not None and not augment.adaptive and augment.strength == 0:
        augment = None
    try:
        return AdversarialLoss(
            discriminator,
            objective(settings.objective),
            gp=settings.gp if isinstance(settings, AdversarialSettings) else 0.0,
            finite_difference=settings.finite_difference,
            augment=None if augment is None else Augment(augment),
        )
    except ValueError as error:
        raise InputError(str(error)) from error


_ENGINES = {
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_XPU,
    DistributedType.MULTI_NPU,
}


def validate_setup(
    accelerator: Accelerator,
    config: OptimSettings,
    adversarial: AdversarialLoss | None = None,
    *penalties: Cosine,
) -> None:
    """Raise `InputError` for set-ups that would fail, or train wrongly without failing.

    Args:
        penalties: the schedules of r1 and r2; one that only begins later counts from the start.
    """
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise InputError(
            f"mixed precision {accelerator.mixed_precision!r} cannot be used here: squared "
            "gradients leave the range of fp16, so choose 'no' or 'bf16'"
        )
    if accelerator.distributed_type not in _ENGINES:
        raise InputError(
            f"{accelerator.distributed_type.value} takes one model at a time and a game has two "
            "players: launch with plain data parallelism (accelerate launch --multi_gpu)"
        )
    plugin = accelerator.state.dynamo_plugin
    backend = plugin.backend if plugin is not None else DynamoBackend.NO
    heaviest = max((schedule.greatest for schedule in penalties), default=0.0)
    twice = adversarial is not None and adversarial.twice_differentiated_at(heaviest)
    if backend != DynamoBackend.NO and twice:
        raise InputError(
            f"the launcher's dynamo backend {backend.value!r} compiles the discriminator, and a "
            "compiled discriminator has no double backward: launch with --dynamo_backend no, or "
            "use finite-difference penalties"
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise InputError(
            "the launcher's gradient accumulation would step one player on half a batch: leave it "
            "at 1 and set --training.accumulation instead"
        )
    parts = accelerator.num_processes * config.accumulation
    if config.batch % parts:
        raise InputError(
            f"a batch of {config.batch} cannot be cut evenly over {accelerator.num_processes} "
            f"process(es) x {config.accumulation} accumulated part(s): choose a multiple of {parts}"
        )


class TrainingSetup:
    """Models prepared for training, their optimizers, the average, and the state of it all.

    Args:
        config: of micro-batches, average and checks.
        models: by name, what an optimizer of its own updates: a network, or a loss whose
            `discriminator` is the network. The first one's network is averaged.

    Attributes:
        models: by name, prepared.
        optimizers: by name; the loop schedules rates and betas at every step.
        average: of the first network.
        state: what a checkpoint holds, by name: networks, average, optimizers.
        device, rank: where this process computes, and which of all processes it is.
    """

    def __init__(
        self, accelerator: Accelerator, config: OptimSettings, **models: nn.Module
    ) -> None:
        self.accelerator, self.config = accelerator, config
        self.device, self.rank = accelerator.device, accelerator.process_index
        networks = {name: getattr(model, "discriminator", model) for name, model in models.items()}
        averaged = next(iter(networks.values())).to(accelerator.device)
        # Copied on its device and before `prepare`, which would make the copy compute in bf16 too.
        self.average = EMA(averaged, config.ema_half_life, config.ema_ramp)
        self.models: dict[str, nn.Module] = {
            name: accelerator.prepare(model) for name, model in models.items()
        }
        # Not prepared: Accelerate's wrapper serves what `validate_setup` refuses (fp16, its own
        # accumulation) and searches sys.path twice in every step.
        self.optimizers = {
            name: torch.optim.Adam(model.parameters(), fused=True)
            for name, model in self.models.items()
        }
        self.state: dict[str, Any] = {**networks, "average": self.average.module}
        self.state |= {f"{name}_optimizer": each for name, each in self.optimizers.items()}

    def share(self, x: Tensor) -> Tensor:
        """This process's share of what was drawn for the whole batch `[b ...]`."""
        return x.chunk(self.accelerator.num_processes)[self.rank]

    def micro_batches(
        self, names: Sequence[str], *tensors: Tensor | None
    ) -> Iterator[tuple[Any, ...]]:
        """Tensors `[b ...]` in equal micro-batches; `None` stays `None` in each.

        The gradients of the models `names` begin at zero, and processes exchange them in the last
        micro-batch alone, so the backward pass belongs into the body of the loop over these.
        """
        for name in names:
            self.optimizers[name].zero_grad()
        parts = self.config.accumulation
        columns = [[None] * parts if t is None else t.chunk(parts) for t in tensors]
        for number, micro_batch in enumerate(zip(*columns, strict=True), start=1):
            with ExitStack() as stack:
                for name in names if number < parts else ():
                    stack.enter_context(self.accelerator.no_sync(self.models[name]))
                yield micro_batch

    def backward(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Follow each loss of a micro-batch that has a gradient back; returns them without.

        Each is followed on its own, in order, so they must not share a graph.
        """
        for loss in losses.values():
            if loss.requires_grad:
                self.accelerator.backward(loss / self.config.accumulation)
        return {name: loss.detach().float() for name, loss in losses.items()}

    def update(
        self,
        names: Sequence[str],
        parts: Sequence[dict[str, Tensor]],
        number: int,
        *,
        clip: float | None = None,
    ) -> dict[str, float]:
        """Step the optimizers `names` and the average if nothing is wrong; returns the mean losses.

        Args:
            parts: the losses of all micro-batches, by name; `total` is the first model's.
            number: of the step.
            clip: the largest norm of the first model's whole gradient.

        Raises:
            RunError: a loss is not finite, or (if checked) processes hold different gradients;
                nothing was updated.
        """
        means = torch.stack([torch.stack(list(losses.values())) for losses in parts]).mean(0)
        if self.accelerator.num_processes > 1:
            means = self.accelerator.reduce(means, reduction="mean")
        losses = dict(zip(parts[0], torch.as_tensor(means).tolist(), strict=True))
        check_finite(losses, names[-1] if math.isfinite(losses["total"]) else names[0], number)
        if self.config.check_ranks:
            for name in names:
                check_ranks_agree(self.accelerator, self.models[name], name, number)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(self.models[names[0]].parameters(), clip)
        for name in names:
            self.optimizers[name].step()
        if names[0] == next(iter(self.models)):
            self.average.update(seen=number * self.config.batch, images=self.config.batch)
        return losses

    def step(self, number: int, losses: dict[str, float], *, last: bool) -> Step:
        """What step `number` leaves behind."""
        return Step(number, losses, self.average.module, self.state, last)


def check_finite(parts: Mapping[str, float], player: str, number: int) -> None:
    """Raise `RunError` naming the first part of a player's loss that is not finite."""
    wrong = [name for name, value in parts.items() if not math.isfinite(value)]
    if wrong:
        # The total goes whenever a part does, so a part is the better name for the cause.
        first = next((name for name in wrong if name != "total"), "total")
        raise RunError(
            f"the {player}'s loss stopped being finite at step {number}: its part {first!r} is "
            f"{parts[first]}; lower the learning rate, raise r1 and r2, or use full precision"
        )


def check_ranks_agree(accelerator: Accelerator, model: nn.Module, player: str, number: int) -> None:
    """Raise `RunError` where processes hold different gradients after a synchronised backward."""
    grads = [p.grad.double() for p in model.parameters() if p.grad is not None]
    checksum = torch.stack([g.sum() for g in grads] + [g.square().sum() for g in grads])
    everyone = accelerator.gather(checksum[None])
    spread = (everyone.amax(0) - everyone.amin(0)).amax()  # type: ignore[union-attr]
    if not float(spread) <= 1e-6 * float(everyone.abs().amax()):  # type: ignore[union-attr]
        raise RunError(
            f"the processes disagree on the {player}'s gradients at step {number} (checksums "
            f"differ by {float(spread):.3g}): a loss was computed outside the prepared model"
        )
