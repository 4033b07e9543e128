"""How large parquet files are as tables: a small file can hold one long value for many rows."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.compute
import pyarrow.parquet
from datasets import config

from hybridgen.errors import InputError, reason
from hybridgen.settings import check_memory

_REPEATED = {"RLE_DICTIONARY", "PLAIN_DICTIONARY", "DELTA_BYTE_ARRAY"}
"""Encodings in which a few bytes stand for a value of any length."""
_BATCH = 2**26
"""Bytes that are looked at together, about."""
_ROWS = 2**16
"""Rows that are looked at together, at most."""


def check_unpacked(root: Path, paths: Sequence[str]) -> None:
    """Refuse files of more bytes than the disk of the cache has room for once they are tables, or
    with a row group, which is read as a whole, that does not fit into memory.

    Raises:
        InputError: too much of it, or a damaged file.
    """
    cache = Path(config.HF_DATASETS_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    before, free = 0, shutil.disk_usage(cache).free
    for path in paths:
        try:
            for group in range(pyarrow.parquet.read_metadata(path).num_row_groups):
                size = 0
                for size in _sizes(path, group):
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


def _sizes(path: str, group: int) -> Iterator[int]:
    """Ever more of the bytes of a row group as a table, in the end about all of them.

    First of all values, of missing ones too: each has its width, or offsets if it is a text, and a
    bit a level; lists have offsets. Then texts that are stored once, without any copies of them.
    """
    file = pyarrow.parquet.ParquetFile(path)
    content, size, repeated = file.metadata.row_group(group), 0, []
    leaves = (leaf for kind in file.schema_arrow.types for leaf in _leaves(kind))
    for place, (width, slots, varying) in enumerate(leaves):
        column, level = content.column(place), file.schema.column(place)
        lists, bits = level.max_repetition_level, 1 + level.max_definition_level // 8
        values = slots * (column.num_values if varying else content.num_rows)
        size += values * ((width or 8) + bits)
        size += 5 * varying * (values if lists > 1 else content.num_rows)
        if not width and not _REPEATED.isdisjoint(column.encodings):
            repeated.append(column)
        elif not width:
            size += column.total_uncompressed_size
    yield size
    for column in repeated:
        name, stored = column.path_in_schema, column.total_uncompressed_size
        by_number = "DELTA_BYTE_ARRAY" not in column.encodings
        longest = stored // max(1, column.num_values) if by_number else stored  # or on average
        file = pyarrow.parquet.ParquetFile(path, read_dictionary=[name] * by_number)
        rows = min(_ROWS, max(1, _BATCH // max(1, longest)))
        for batch in file.iter_batches(rows, row_groups=[group], columns=[name]):
            size += sum(map(_text, batch.columns))
            yield size


def _leaves(kind: Any) -> Iterator[tuple[int, int, int]]:
    """Of each leaf of an Arrow type the bytes of a value, none if it is a text, the values that its
    lists of fixed size have room for, though missing, and in how many other lists it is."""
    kind = kind.storage_type if isinstance(kind, pyarrow.BaseExtensionType) else kind
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if not pyarrow.types.is_nested(kind):
        width = 0
        with suppress(ValueError):  # it has none
            width = -(-kind.bit_width // 8)
        yield width, 1, 0
    size = kind.list_size if pyarrow.types.is_fixed_size_list(kind) else 0
    varies = not (size or pyarrow.types.is_struct(kind))
    for place in range(kind.num_fields):
        for width, slots, varying in _leaves(kind.field(place).type):
            yield width, slots * (size or 1), varying + varies


def _text(array: Any) -> int:
    """The bytes of all texts of an array."""
    arrow: Any = pyarrow.compute  # whose functions are made when it is imported
    kind = array.type
    if pyarrow.types.is_dictionary(kind):
        lengths = arrow.binary_length(array.dictionary)
        return arrow.sum(lengths.cast("int64").take(array.indices)).as_py() or 0
    if pyarrow.types.is_struct(kind):
        return sum(map(_text, array.flatten()))
    return _text(array.flatten()) if pyarrow.types.is_nested(kind) else array.nbytes
