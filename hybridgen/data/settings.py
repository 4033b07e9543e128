"""What a person may say about the data."""

from dataclasses import dataclass
from typing import Literal

from hybridgen.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which data, and in which form.

    Attributes:
        path: `digits`, `ring` or `grid`; else an image folder, a parquet file or directory, or a
            name on the Hugging Face hub. A folder called `digits` is meant by `./digits`.
        resolution: crop images to the central square and resize them to this many pixels; if not
            given, all images must already be square and of one size.
        channels: 1 for grey or 3 for colour; if not given, all images must be of one kind.
        labels: whether training is class-conditional.
        held_out: share of the examples kept for judging when the data has no test or validation
            split of its own; the built-in sets have a fixed one.
        memory_limit: GiB of bytes up to which images stay in memory; larger sets stream.
        workers: processes that read ahead while streaming.
    """

    path: str = "digits"
    resolution: int | None = None
    channels: Literal[1, 3] | None = None
    labels: bool = False
    held_out: float = 1 / 6
    memory_limit: float = 2.0
    workers: int = 2

    def __post_init__(self) -> None:
        if self.resolution is not None and self.resolution < 1:
            raise InputError(f"data.resolution must be at least 1, got {self.resolution}.")
        if self.channels not in (None, 1, 3):
            raise InputError(f"data.channels must be 1 or 3, got {self.channels}.")
        if not 0 < self.held_out < 1:
            raise InputError(f"data.held_out must lie between 0 and 1, got {self.held_out}.")
        if self.memory_limit < 0 or self.workers < 0:
            raise InputError(
                "data.memory_limit and data.workers must not be negative, "
                f"got {self.memory_limit} and {self.workers}."
            )
