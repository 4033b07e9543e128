"""A cache of measurements: one file for each key."""

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import hybridgen
from hybridgen.training.checkpoint import write_atomically

NO_FIGURES = {"report", "training"}
"""Folders of the package that change no figure of a finished run."""


def cached(folder: Path, key: Mapping[str, Any], work: Callable[[], Any]) -> Any:
    """What `work` returns, from a file in `folder` if it was done before under an equal key.

    A file that cannot be read counts as none.
    """
    path = cache_path(folder, key)
    record = read_json(path)
    if record is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(work()))
        record = json.loads(path.read_text())
    return record


def cache_path(folder: Path, key: Mapping[str, Any]) -> Path:
    """The file in `folder` of what has this key."""
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return folder / f"{name[:24]}.json"


def read_json(path: Path) -> Any:
    """The JSON in a file; `None` if it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


@cache
def code_version() -> str:
    """A hash of all that figures depend on: this package's code, torch and diffusers."""
    root = Path(hybridgen.__path__[0])
    digest = hashlib.sha256(f"{version('torch')} {version('diffusers')}".encode())
    for path in sorted(root.rglob("*.py")):
        if not NO_FIGURES & set(path.relative_to(root).parts):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def machine() -> list[str | int]:
    """What seconds depend on beside the code."""
    return [platform.node(), platform.machine(), torch.get_num_threads()]
