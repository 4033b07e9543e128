"""The Accelerator of an experiment, made the same way everywhere."""

import ctypes
import math
import os
import signal
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, DynamoBackend, set_seed
from torch import nn

from hybridgen.errors import InputError, RunError
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.training.run import JsonLines

Precision = Literal["no", "bf16"]
_PR_SET_PDEATHSIG = 1


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
    # The option stays until its successor covers the same; nobody at a progress bar can act on it.
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
            # Nothing in a GAN's buffers needs to travel; doing so breaks two forwards in one step.
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


_ENGINES = {
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_XPU,
    DistributedType.MULTI_NPU,
}


def validate_setup(
    accelerator: Accelerator,
    adversarial: AdversarialLoss | None,
    batch: int,
    accumulation: int,
) -> None:
    """Raise `InputError` for set-ups that would fail, or train wrongly without failing."""
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
    twice = adversarial is not None and adversarial.twice_differentiated
    if backend != DynamoBackend.NO and twice:
        raise InputError(
            f"the launcher's dynamo backend {backend.value!r} compiles the discriminator, and a "
            f"compiled "
            "discriminator has no double backward: launch with --dynamo_backend no, or use "
            "finite-difference penalties"
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise InputError(
            "the launcher's gradient accumulation would step one player on half a batch: leave it "
            "at 1 and set --training.accumulation instead"
        )
    parts = accelerator.num_processes * accumulation
    if batch % parts:
        raise InputError(
            f"a batch of {batch} cannot be cut evenly over {accelerator.num_processes} process(es) "
            f"x {accumulation} accumulated part(s): choose a multiple of {parts}"
        )


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
