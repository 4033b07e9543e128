"""The lock of a run's folder: one process works in it, and it holds one run of one settings."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from hybridgen.errors import InputError
from hybridgen.training.checkpoint import write_atomically

# What a process that is killed while it locks an empty folder leaves behind.
_LEFTOVERS = {".lock", ".tmp-config.yaml"}


def lock_run_folder(folder: Path, config: Mapping[str, Any], *, changing: bool = False) -> IO[str]:
    """Create `folder` with its `config.yaml`, or check that it holds a run of this `config`.

    Args:
        config: the settings of the run.
        changing: whether a folder of other settings is taken too, and gets these: for experiments
            whose parts say themselves what settings they are of.

    Returns:
        The lock; closing it lets another process work here.

    Raises:
        InputError: the folder cannot be written, is something else, is in use, or holds a run of
            other settings; nothing in it was touched.
    """
    config_file, plain = folder / "config.yaml", json.loads(json.dumps(config))
    try:
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
        if names - _LEFTOVERS and config_file.name not in names:
            raise InputError(
                f"{folder} is not empty and not a run of this program (it has no config.yaml): "
                "choose another --out"
            )
        if not changing:
            _check_settings(config_file, plain)
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}): choose another --out"
        ) from error
    try:
        # Not flock: workers that are forked later would keep it while they outlive this process.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not changing:
            _check_settings(config_file, plain)
        if changing or not config_file.exists():
            write_atomically(config_file, yaml.safe_dump(plain, sort_keys=False))
    except (BlockingIOError, PermissionError) as error:
        lock.close()
        raise InputError(f"another process is working in {folder}: choose another --out") from error
    except BaseException:
        lock.close()
        raise
    return lock


def _check_settings(config_file: Path, config: dict[str, Any]) -> None:
    if not config_file.exists():
        return
    try:
        before = yaml.safe_load(config_file.read_text()) or {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{config_file} is damaged: choose another --out") from error
    changed = sorted(_differences(before, config))
    if changed:
        raise InputError(
            f"{config_file.parent} holds a run with other settings ({'; '.join(changed[:3])}): "
            "choose another --out, or give the settings it was started with"
        )


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() | now.keys():
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield f"{name} was {before} and is {now}"
