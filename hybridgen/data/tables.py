"""What `datasets` read, as the two parts of a set: undecoded images and their labels."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute
import torch
from torch import Tensor

from hybridgen.data.decode import MOST_BYTES, ImageFormat, image_format, open_image
from hybridgen.data.files import warn_left_out
from hybridgen.data.images import split
from hybridgen.data.settings import DataSettings
from hybridgen.errors import InputError

_HELD_OUT_NAMES = ("test", "testing", "validation", "valid", "val", "dev", "eval")
_LABEL_NAMES = ("label", "labels", "class", "target", "category")
_CHUNK = 1_024
_HASHED = 2**32
"""Bytes of encoded images up to which all of them belong to the identity of a set."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageTable:
    """One part of a set: images that are decoded when they are read.

    Args:
        table: a `datasets.Dataset` of one column, `image`, of undecoded cells.
        rows: `[n]`, the rows of the table that belong to this part.
        labels: `[n]`, int64, or `None`.
        format: what every image is brought to.
        name: how error messages call the table.
        roots: the folders that its images may be read from.
    """

    table: Any
    rows: Tensor
    labels: Tensor | None
    format: ImageFormat
    name: str
    roots: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, positions: Tensor) -> Tensor:
        """The images at these positions, `[b] -> uint8 [b c h w]`.

        Raises:
            InputError: an image is damaged or is of another format; named by its path.
        """
        images = np.empty((len(positions), *self.format.shape), dtype=np.uint8)
        least = self.format.side if self.format.resize else None
        for slot, (cell, where) in enumerate(self._cells(positions)):
            images[slot] = self.format.apply(open_image(cell, where, least=least), where)
        return torch.from_numpy(images)

    def read_all(self) -> Tensor:
        """Every image, uint8 `[n c h w]`, decoded by as many threads as there are cores."""
        images = torch.empty((len(self), *self.format.shape), dtype=torch.uint8)

        def fill(chunk: Tensor) -> None:
            images[chunk] = self.read(chunk)

        for _ in self._in_threads(fill):
            pass
        return images

    @cached_property
    def identity(self) -> bytes:
        """A hash of labels, names, sizes and order, and of the bytes of sets of up to 4 GiB.

        Raises:
            InputError: an encoded image of more than 256 MiB.
        """
        column = self.table.with_format("arrow")[:]["image"]
        arrow: Any = pyarrow.compute  # whose functions are made when it is imported
        paths = arrow.struct_field(column, "path").to_pylist()
        lengths = arrow.binary_length(arrow.struct_field(column, "bytes")).to_pylist()
        rows = self.rows.tolist()
        names = [_name(paths[row] or "", self.roots) for row in rows]
        sizes = [_size(self.roots[0], paths[row], lengths[row]) for row in rows]
        if max(sizes) > MOST_BYTES:
            row = sizes.index(max(sizes))
            raise InputError(
                f"image {row} of {self.name} has {max(sizes) / 2**20:.0f} MiB, more than the "
                f"{MOST_BYTES / 2**20:.0f} that an image may have; remove it."
            )
        digest = hashlib.sha256(json.dumps([names, sizes]).encode())
        digest.update(b"" if self.labels is None else self.labels.numpy().tobytes())
        if sum(sizes) <= _HASHED:
            for part in self._in_threads(self._hashes):
                digest.update(part)
        return digest.digest()

    def _hashes(self, positions: Tensor) -> bytes:
        return b"".join(hashlib.sha256(_bytes(cell)).digest() for cell, _ in self._cells(positions))

    def _cells(self, positions: Tensor) -> Iterator[tuple[Any, str]]:
        """The cells at these positions, their paths made whole, and what errors call them."""
        rows = self.rows[positions].tolist()
        for row, cell in zip(rows, self.table[rows]["image"], strict=True):
            yield _inside(cell, self.roots, where := _where(cell, row, self.name)), where

    def _in_threads(self, work: Callable[[Tensor], Any]) -> Iterator[Any]:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            yield from pool.map(work, torch.arange(len(self)).split(_CHUNK))


def train_and_held_out(
    tables: datasets.DatasetDict, settings: DataSettings, roots: Sequence[Path]
) -> tuple[ImageTable, ImageTable, int]:
    """Training part, held-out part and number of classes (0 if the data has no labels).

    The data's own test or validation split is held out; else a fixed share of the rows.

    Args:
        roots: the folders that images named by their path may be read from; a relative path is in
            the first.

    Raises:
        InputError: no training split, no image column, no labels where `settings` ask for them, ...
    """
    train_name = str(next(iter(tables))) if len(tables) == 1 else "train"
    if train_name not in tables:
        splits = sorted(map(str, tables))
        raise InputError(f"{settings.path!r} has the splits {splits}, expected one 'train'.")
    held_name = next((name for name in _HELD_OUT_NAMES if name in tables), train_name)
    train, held = tables[train_name], tables[held_name]
    column = _image_column(train, settings.path)
    for name in {train_name, held_name}:
        if len(tables[name]) == 0:
            raise InputError(f"the split {name!r} of {settings.path!r} has no examples.")
    if train_name == held_name:
        rows = split(len(train), max(1, round(settings.held_out * len(train))))
    else:
        rows = torch.arange(len(train)), torch.arange(len(held))
    others = {k: len(v) for k, v in tables.items() if k not in (train_name, held_name)}
    warn_left_out(settings.path, Counter({f"examples of {k!r}": n for k, n in others.items()}))
    names = [f"split {name!r} of {settings.path}" for name in (train_name, held_name)]
    labels, classes = _labels([train, held], settings)
    sides = [_undecoded(table, column, settings.path) for table in (train, held)]
    absolute = tuple(os.path.abspath(root) for root in roots)
    first = sides[0][[0]]["image"][0]
    where = _where(first, 0, names[0])
    first = _inside(first, absolute, where)
    format = image_format(open_image(first, where), where, settings.resolution, settings.channels)
    train_part, held_part = (
        ImageTable(
            table=table,
            rows=rows,
            labels=None if label is None else label[rows],
            format=format,
            name=name,
            roots=absolute,
        )
        for table, rows, label, name in zip(sides, rows, labels, names, strict=True)
    )
    return train_part, held_part, classes


def _where(cell: Any, row: int, name: str) -> str:
    path = (cell or {}).get("path")
    if path is not None and (cell or {}).get("bytes") is None:
        return str(path)
    return f"image {row} of {name}" + (f" ({path})" if path else "")


def _inside(cell: Any, roots: tuple[str, ...], where: str) -> Any:
    """The cell, its path made whole; `InputError` if that leads out of all `roots`."""
    if cell is None or cell.get("bytes") is not None or not cell.get("path"):
        return cell
    # By its words alone: a link in the data folder belongs to that folder.
    path = os.path.abspath(os.path.join(roots[0], cell["path"]))
    if not any(path.startswith(os.path.join(root, "")) for root in roots):
        raise InputError(
            f"{where} lies outside of the data, and nothing there is opened; put the image beside "
            "the others or remove it."
        )
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe has no end
        raise InputError(f"{where} is no regular file; remove it from the data.")
    return {"bytes": None, "path": path}


def _name(path: str, roots: tuple[str, ...]) -> str:
    """A path without the folder of the data, which may be moved, nor the hub's name of a version or
    an archive, which changes with every word of a set's page."""
    name = next((path[len(root) + 1 :] for root in roots if path.startswith(root + os.sep)), path)
    return re.sub(r"(snapshots|extracted)/[0-9a-f]{40,64}/", r"\1/", name)


def _size(root: str, path: str | None, length: int | None) -> int:
    """Of an encoded image in bytes; 0 for none, which is named when it is read."""
    if length is not None or not path:
        return length or 0
    try:
        return os.path.getsize(os.path.join(root, path))
    except OSError:
        return 0


def _bytes(cell: Any) -> bytes:
    if cell is None or cell.get("bytes") is not None:
        return (cell or {}).get("bytes") or b""
    try:
        return Path(cell["path"] or "").read_bytes()
    except OSError:
        return b""


def _image_column(table: datasets.Dataset, path: str) -> str:
    """The first column of images; bytes that were written without the image type count too."""
    columns = table.features.items()
    images = [name for name, kind in columns if isinstance(kind, datasets.Image)]
    for name, kind in columns:
        inside = kind.get("bytes") if isinstance(kind, dict) else kind
        kinds = ("binary", "large_binary", *["null"] * isinstance(kind, dict))  # null: paths alone
        if isinstance(inside, datasets.Value) and inside.dtype in kinds:
            images.append(name)
    if not images:
        raise InputError(
            f"{path!r} has the columns {list(table.features)} and none of them holds images."
        )
    return images[0]


def _undecoded(table: datasets.Dataset, column: str, path: str) -> datasets.Dataset:
    if column not in table.features:
        raise InputError(f"a split of {path!r} has no column {column!r} as the others do.")
    images = table.select_columns(column)
    if column != "image":
        images = images.rename_column(column, "image")
    return images.cast_column("image", datasets.Image(decode=False))


def _labels(
    tables: list[datasets.Dataset], settings: DataSettings
) -> tuple[Sequence[Tensor | None], int]:
    """Class indices `[n]` of each table, `None` without labels, and how many classes there are.

    Classes of a `ClassLabel` keep their numbers; other values are numbered in sorted order.
    """
    features = tables[0].features
    column = next((n for n, f in features.items() if isinstance(f, datasets.ClassLabel)), None)
    column = column or next((n for n in _LABEL_NAMES if n in features), None)
    problem = f"its columns are {list(features)}"
    if column is not None and all(column in table.features for table in tables):
        values = [table.select_columns(column)[:][column] for table in tables]
        feature = features[column]
        kinds = {type(value) for side in values for value in side}
        classes = set().union(*values) if kinds in ({int}, {str}) else set()
        if not classes:
            problem = f"not every entry of {column!r} is a whole number, or a word"
        elif not isinstance(feature, datasets.ClassLabel):
            number = {value: index for index, value in enumerate(sorted(classes))}
            return [torch.tensor([number[v] for v in side]) for side in values], len(classes)
        elif min(classes) < 0:
            problem = f"some entries of {column!r} are hidden (negative)"
        elif max(classes) >= len(feature.names):
            problem = f"{column!r} has {len(feature.names)} classes and entries to {max(classes)}"
        else:
            return [torch.tensor(side) for side in values], len(feature.names)
    if settings.labels:
        raise InputError(
            f"data.labels is set, but {settings.path!r} has no usable labels: {problem}; "
            "give class sub-folders or a label column, or leave data.labels out."
        )
    return [None] * len(tables), 0
