"""Small files, and folders of weights, that are never seen half-written."""

import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hybridgen.errors import RunError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside `path`, flush to disk, then rename over it."""
    temporary = path.with_name(f".tmp-{path.name}")
    data = content.encode() if isinstance(content, str) else content
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_network(network: Any, folder: Path) -> None:
    """Save a network by its `save_pretrained` as `folder`, in place of an earlier one.

    Raises:
        RunError: it cannot be written; an earlier one is as it was.
    """
    temporary = folder.with_name(f".tmp-{folder.name}")
    earlier = folder.with_name(f".old-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        network.save_pretrained(temporary)
        for path in (*temporary.iterdir(), temporary):
            flush(path)
        if folder.exists():
            shutil.rmtree(earlier, ignore_errors=True)
            os.replace(folder, earlier)
        os.replace(temporary, folder)
        flush(folder.parent)
        shutil.rmtree(earlier, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{folder} could not be written ({error}): make room and run the same command again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def flush(path: Path) -> None:
    """Have a file or a folder's listing reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
