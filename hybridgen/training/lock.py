"""The lock of a run's folder: one process works in it, and it holds one run of one settings."""

import fcntl
import json
from collections.abc import Mapping
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
        refuse_inside(folder, plain.get("data"))
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
        if changing or not config_file.exists() or plain != yaml.safe_load(config_file.read_text()):
            write_atomically(config_file, yaml.safe_dump(plain, sort_keys=False))
    except (BlockingIOError, PermissionError) as error:
        lock.close()
        raise InputError(f"another process is working in {folder}: choose another --out") from error
    except BaseException:
        lock.close()
        raise
    return lock


def refuse_inside(folder: Path, data: Mapping[str, Any] | None) -> None:
    """Raise `InputError` if `folder` lies in that of the data: its pictures would become data."""
    path = Path((data or {}).get("path") or "no folder").expanduser()
    if path.is_dir() and folder.resolve().is_relative_to(path.resolve()):
        raise InputError(
            f"{folder} lies inside the data folder {path}, where its pictures would be taken for "
            "data: choose an --out elsewhere"
        )


FREE = {
    *("threads", "tracking", "log_every", "save_every", "sample_every", "eval_every"),
    *("training.accumulation", "training.check_ranks", "data.memory_limit", "data.workers"),
}
"""Settings that may change while a run goes on: they move its result by rounding at most."""


def tied(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run is tied to, flat: `b` in `a` is called `a.b`.

    Data is named by its identity, where that is known, and not by its path.
    """
    settings = flat(config)
    free = FREE | ({"data.path"} if settings.get("data.identity") else set())
    return {name: value for name, value in settings.items() if name not in free}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names of settings, of those that runs are tied to, in which two configs differ."""
    one, other = tied(before), tied(now)
    return sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings in one mapping: `b` in `a` is called `a.b`."""
    settings: dict[str, Any] = {}
    for name, value in config.items():
        inner = isinstance(value, Mapping)
        settings |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return settings


def _check_settings(config_file: Path, config: dict[str, Any]) -> None:
    if not config_file.exists():
        return
    try:
        before = yaml.safe_load(config_file.read_text()) or {}
        changed = differences(before, config)
    except (OSError, yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise InputError(f"{config_file} is damaged: choose another --out") from error
    if changed == ["data.identity"]:
        raise InputError(
            f"{config_file.parent} holds a run on other examples (some were added, removed, "
            "changed or renamed): give the data as it was, or choose another --out"
        )
    if changed:
        one, other = tied(before), tied(config)
        changes = "; ".join(f"{k} was {one.get(k)} and is {other.get(k)}" for k in changed[:3])
        raise InputError(
            f"{config_file.parent} holds a run with other settings ({changes}): choose another "
            "--out, or give the settings it was started with"
        )
