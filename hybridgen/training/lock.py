"""The lock of a script's folder: one process works in it, and it holds what one script makes."""

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from hybridgen.errors import InputError
from hybridgen.files import read_object, read_text, write_atomically

_FILES = (("log.jsonl", Path.is_file), ("result.json", Path.is_file))
# What a process that is killed while it locks an empty folder leaves behind.
_LEFTOVERS = {".lock", ".tmp-config.yaml"}


class FolderLock:
    """A folder for one script: made, or taken if it is empty or the same script made it.

    `config.yaml` holds the settings; its first line, a comment, names the script. Use it as a
    context manager, or close it: that lets another process work here. If the body fails before
    there was anything but the settings, the folder goes again.

    Args:
        config: the settings.
        script: whose folder it is, by the name of its settings' class.
        changing: whether a folder of other settings is taken too, and gets these when the body has
            ended well: for experiments whose parts say themselves what settings they are of.

    Raises:
        InputError: the folder cannot be written, is something else, has linked folders in it, is
            in use, or holds a run of other settings; nothing in it was touched.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], script: str, *, changing: bool = False
    ) -> None:
        self.folder, self._marker = folder, f"# {script}, hybridgen"
        self._config, self._changing = json.loads(json.dumps(config)), changing
        self._stale = False  # whether settings that a run is not tied to are others
        refuse_inside(folder, self._config.get("data"))
        try:
            self._new = self._check()
            self._made = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            self._file = os.fdopen(os.open(folder / ".lock", flags, 0o666))
        except OSError as error:
            raise InputError(
                f"{folder} cannot be written ({error.strerror}): choose another --out"
            ) from error
        try:
            # Not flock: workers that are forked later would keep it while they outlive this one.
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            self._file.close()
            raise InputError(
                f"another process is working in {folder}: choose another --out"
            ) from error
        try:
            self._new = self._check()  # once more, alone
            if self._new or self._stale:
                self._write()
        except BaseException:
            self.close(failed=True)
            raise

    def close(self, *, failed: bool = False) -> None:
        """Let go of the folder; if the work failed and nothing came of it, remove it again."""
        if failed and self._new:
            with suppress(OSError):
                self._remove()
        self._file.close()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if self._changing and kind is None:
                self._write()
        finally:
            self.close(failed=kind is not None)

    def _write(self) -> None:
        text = yaml.safe_dump(self._config, sort_keys=False)
        write_atomically(self.folder / "config.yaml", f"{self._marker}\n{text}")

    def _check(self) -> bool:
        """Refuse a folder that is not ours or of other settings; whether it is a new one."""
        folder, config_file = self.folder, self.folder / "config.yaml"
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
        if not names - _LEFTOVERS:
            return True
        try:
            marker = read_text(config_file).partition("\n")[0]
        except (OSError, ValueError):
            marker = ""
        if marker != self._marker:
            raise InputError(
                f"{folder} is not empty and not a run of this program (its config.yaml is missing, "
                f"damaged or does not begin with {self._marker!r}): choose another --out"
            )
        for path in folder.rglob("*"):
            if path.is_symlink() and (path.is_dir() or not path.suffix):
                raise InputError(
                    f"{path} is a link, and nothing is written through links: put a folder of its "
                    "own there, or choose another --out"
                )
        for name, is_right in (("checkpoints", Path.is_dir), ("samples", Path.is_dir), *_FILES):
            path = folder / name
            if path.exists() and not is_right(path):
                raise InputError(
                    f"{path} is not what a run has under this name: remove it, or choose another "
                    "--out"
                )
        if self._changing:
            return False
        before = read_object(config_file, advice="choose another --out")
        changed = differences(before, self._config)
        if changed == ["data.identity"]:
            raise InputError(
                f"{folder} holds a run on other examples (some were added, removed, changed or "
                "renamed): give the data as it was, or choose another --out"
            )
        if changed:
            one, other = (
                {name: str(value)[:60] for name, value in tied(config).items()}
                for config in (before, self._config)
            )
            changes = "; ".join(f"{k} was {one.get(k)} and is {other.get(k)}" for k in changed[:3])
            raise InputError(
                f"{folder} holds a run with other settings ({changes}): choose another --out, or "
                "give the settings it was started with"
            )
        self._stale = before != self._config
        return False

    def _remove(self) -> None:
        paths = sorted(self.folder.rglob("*"), reverse=True)
        files = [path for path in paths if path.is_symlink() or not path.is_dir()]
        if {path.relative_to(self.folder) for path in files} <= {
            Path(".lock"),
            Path("config.yaml"),
        }:
            for path in paths:
                path.unlink() if path in files else path.rmdir()
            for folder in self._made:
                folder.rmdir()


def refuse_inside(folder: Path, data: Mapping[str, Any] | None) -> None:
    """Raise `InputError` if `folder` lies in that of the data: its pictures would become data."""
    path = Path((data or {}).get("path") or "digits").expanduser()
    if str(path) in ("digits", "ring", "grid"):  # built in, whatever folders are here
        return
    if path.is_dir() and folder.resolve().is_relative_to(path.resolve()):
        raise InputError(
            f"{folder} lies inside the data folder {path}, where its pictures would be taken for "
            "data: choose an --out elsewhere"
        )


def refuse_inside_run(folder: Path, run: str) -> None:
    """Raise `InputError` if `folder` lies in that of the finished run that it begins with."""
    if Path(run).is_dir() and folder.resolve().is_relative_to(Path(run).resolve()):
        raise InputError(
            f"{folder} lies inside {run}, the finished run that it begins with: choose an --out "
            "elsewhere"
        )


FREE = {
    *("threads", "tracking", "log_every", "save_every", "sample_every", "eval_every"),
    *("training.accumulation", "training.check_ranks", "data.memory_limit", "data.workers"),
}
"""Settings that may change while a run goes on. They move its result by rounding at most, but for
the accumulation where something is drawn or normalised for each micro-batch (see `GanTraining`):
it must give way where memory runs out, and a run that goes on with another one warns."""


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
