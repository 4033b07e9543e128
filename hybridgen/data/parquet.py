"""How large parquet files are as tables: a small file can hold one long value for many rows."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute
import pyarrow.parquet
from datasets import config

from hybridgen.errors import InputError, reason
from hybridgen.settings import check_memory

_REPEATED = {"RLE_DICTIONARY", "PLAIN_DICTIONARY", "DELTA_BYTE_ARRAY"}
"""Encodings in which a few bytes stand for a value of any length."""
_NUMBERS = {"BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE"}
"""Types of at most 12 bytes a value."""
_BATCH = 2**26
"""Bytes that are looked at together, about."""
_ROWS = 2**16
"""Rows that are looked at together, at most."""


def check_unpacked(root: Path, paths: Sequence[str]) -> None:
    """Refuse files of more bytes than the disk of the cache has room for once they are tables, or
    with a row group, which is read as a whole, that does not fit into memory.

    Where values that are stored once could make too much of it, their rows are counted, without
    any copies of the values.

    Raises:
        InputError: too much of it, or a damaged file.
    """
    try:
        _check(root, paths, _at_most)
    except InputError:
        _check(root, paths, _counted)


def _check(root: Path, paths: Sequence[str], sizes: Callable[[str, int], Iterator[int]]) -> None:
    cache = Path(config.HF_DATASETS_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    before, free = 0, shutil.disk_usage(cache).free
    for path in paths:
        try:
            for group in range(pyarrow.parquet.read_metadata(path).num_row_groups):
                size = 0
                for size in sizes(path, group):
                    _check_room(root, before + size, free, cache)
                    check_memory(size, f"a row group of {path}", "write it in smaller ones")
                before += size
        except InputError:
            raise
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise InputError(f"{path} cannot be read: {reason(error)}.") from error


def _check_room(root: Path, size: int, free: int, cache: Path) -> None:
    if size > free:
        raise InputError(
            f"the parquet files of {root} unpack to {size / 2**30:.3g} GiB or more, and {cache} "
            f"has room for {free / 2**30:.3g}; make room or set HF_DATASETS_CACHE."
        )


def _columns(path: str, group: int) -> list[Any]:
    content = pyarrow.parquet.read_metadata(path).row_group(group)
    return [content.column(i) for i in range(content.num_columns)]


def _at_most(path: str, group: int) -> Iterator[int]:
    """A bound on the bytes of a row group: no value is longer than all that is stored."""
    yield sum(
        column.total_uncompressed_size * (column.num_values if _is_repeated(column) else 1)
        for column in _columns(path, group)
    )


def _counted(path: str, group: int) -> Iterator[int]:
    """Ever more of the bytes of a row group, in the end all of them."""
    columns = _columns(path, group)
    size = sum(c.total_uncompressed_size for c in columns if not _is_repeated(c))
    yield size
    for column in filter(_is_repeated, columns):
        name, stored = column.path_in_schema, column.total_uncompressed_size
        as_dictionary = "DELTA_BYTE_ARRAY" not in column.encodings
        if column.physical_type in _NUMBERS:
            longest = 12
        elif column.physical_type == "BYTE_ARRAY" and as_dictionary:
            longest = stored // max(1, column.num_values)  # on average: the rows are no copies
        else:
            longest = stored
        file = pyarrow.parquet.ParquetFile(path, read_dictionary=[name] * as_dictionary)
        rows = min(_ROWS, max(1, _BATCH // max(1, longest)))
        for batch in file.iter_batches(rows, row_groups=[group], columns=[name]):
            size += sum(map(_unpacked, batch.columns))
            yield size


def _unpacked(array: Any) -> int:
    """The bytes of an array without dictionaries."""
    arrow: Any = pyarrow.compute  # whose functions are made when it is imported
    kind = array.type
    if pyarrow.types.is_dictionary(kind):
        lengths = arrow.binary_length(array.dictionary)
        return arrow.sum(lengths.cast("int64").take(array.indices)).as_py() or 0
    if pyarrow.types.is_struct(kind):
        return sum(map(_unpacked, array.flatten()))
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return _unpacked(array.flatten())
    return array.nbytes


def _is_repeated(column: Any) -> bool:
    return not _REPEATED.isdisjoint(column.encodings)
