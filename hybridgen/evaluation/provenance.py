"""What a page says of where its figures come from, so that they can be made again."""

import os
import platform
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import torch

from hybridgen.data.source import Source

PACKAGES = ("hybridgen", "torch", "diffusers", "accelerate", "torchmetrics", "scikit-learn")


def provenance(command: Sequence[str], *, seed: int) -> dict[str, str]:
    """Command, date, seed, versions and machine, name -> text.

    Args:
        command: the words after `python`.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "CPU"
    return {
        "command": shlex.join(["python", *command]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seed": f"{seed}; one training of each model",
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "machine": f"{device}; {os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "threads": f"{torch.get_num_threads()} for sampling and measuring",
    }


def about(source: Source, *, held_out: int) -> dict[str, str]:
    """The data in words, name -> text."""
    return {
        "name": source.name,
        "shape": " x ".join(map(str, source.shape)),
        "training examples": "drawn without end" if source.size is None else str(source.size),
        "held-out examples": str(held_out),
        "classes in training": str(source.classes) if source.classes else "none: unconditional",
    }
