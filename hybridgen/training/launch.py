"""The Accelerator of an experiment, made the same way everywhere."""

import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed

from hybridgen.errors import InputError
from hybridgen.training.tracking import JsonLines

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
