"""Files of runs: one way to write them and one way to read them back.

A file is written under a fresh name, flushed to disk and renamed once, so it is there whole or not
at all, and a link that somebody put in its place is replaced and never followed. What is read back
may be damaged, or come from elsewhere: it is bounded, and checked before it is used.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any

import yaml

from hybridgen.errors import InputError, reason

LARGEST = {".yaml": 2**17, ".json": 2**25}
"""Bytes of a file that is read back."""
DEEPEST, MOST = 64, 1_000_000
"""Levels of nested values in it, and values in all."""
Number = int | float


class PlainLoader(yaml.SafeLoader):
    """YAML without anchors that are used again, by which a few lines become billions of values."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has aliases")
        return super().compose_node(parent, index)


def new_file(path: Path, mode: str = "wb") -> IO[Any]:
    """Open a new file as `path`; an earlier one, or a link, is unlinked and not written to."""
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o666), mode)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to fill, which then takes the place of `path`: whole, or not at all."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with new_file(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file, in the place of an earlier one."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def remove(path: Path) -> None:
    """Remove a folder with all that is in it, a file, or a link and not where it leads; what cannot
    be removed stays."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def read_object(
    path: Path,
    fields: Mapping[str, Any] | None = None,
    *,
    values: Any = object,
    advice: str = "make it again",
) -> dict[str, Any]:
    """The object in a JSON or YAML file, whose suffix says which.

    Args:
        fields: the type, or union of types, of each field that it must have.
        values: of every value.
        advice: what a person can do about a damaged file, for the message.

    Raises:
        InputError: it cannot be read, is no such object or is too large.
    """
    try:
        content = parse(read_text(path), json.loads if path.suffix == ".json" else _load_yaml)
        if not isinstance(content, dict):
            raise ValueError(f"expected an object, got {content!r}")
        for name, kind in (dict.fromkeys(content, values) | dict(fields or {})).items():
            if name not in content or not isinstance(content[name], kind):
                raise ValueError(f"its {name} is {content.get(name)!r}")
    except Exception as error:  # a damaged file fails in as many ways as there are formats
        why = reason(error)[:100]
        raise InputError(f"{path} is damaged or of another version ({why}): {advice}") from error
    return content


def _load_yaml(text: str) -> Any:
    return yaml.load(text, PlainLoader)


def read_text(path: Path) -> str:
    """A text file in UTF-8; an `OSError` or `ValueError` if it is none, or too large."""
    if not path.is_file():
        raise ValueError("No such file" if not path.is_symlink() else "a link that leads nowhere")
    most = LARGEST[path.suffix]
    if path.stat().st_size > most:
        raise ValueError(f"more than {most} bytes")
    return path.read_text(encoding="utf-8-sig")


def parse(text: str, read: Callable[[str], Any] = json.loads) -> Any:
    """What `read` makes of a text; a `ValueError` if it is too much, too deep or no plain value."""
    content = read(text)
    _check_value(content, DEEPEST, count())
    return content


def _check_value(value: Any, levels: int, visited: Iterator[int]) -> None:
    if levels == 0 or next(visited) > MOST:
        raise ValueError("nested too deeply, or too much")
    if isinstance(value, dict | list):
        for key in value:
            if isinstance(value, dict) and not isinstance(key, str):
                raise ValueError(f"its key {key!r} is no text")
            _check_value(value[key] if isinstance(value, dict) else key, levels - 1, visited)
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"{value!r} is neither text nor a number")
    elif isinstance(value, int) and abs(value) >= 2**64:
        raise ValueError("a number out of range")
