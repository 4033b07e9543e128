"""What every data set offers, whether it is drawn, held in memory or streamed."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count as count_from
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import LongTensor, Tensor

from hybridgen.errors import InputError
from hybridgen.maths.mixtures import GaussianMixture
from hybridgen.maths.rng import rng_for

Part = Literal["train", "held_out"]
Batch = tuple[Tensor, Tensor | None]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One process's contiguous share of every batch.

    Attributes:
        batch: examples of a batch, over all processes.
        seed: of the order.
        start: number of the first batch.
        rank, world: which of how many processes this is.
        device: where the examples go.

    Raises:
        InputError: numbers that cannot be, or a batch that is not divisible by `world`.
    """

    batch: int
    seed: int
    start: int = 0
    rank: int = 0
    world: int = 1
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if self.batch < 1 or self.start < 0:
            raise InputError(
                "need a batch of at least 1 and a start of at least 0, "
                f"got batch={self.batch}, start={self.start}."
            )
        if self.world < 1 or not 0 <= self.rank < self.world:
            raise InputError(f"need 0 <= rank < world, got rank={self.rank}, world={self.world}.")
        if self.batch % self.world:
            raise InputError(
                f"a batch of {self.batch} cannot be shared equally by {self.world} processes; "
                f"set the batch to a multiple of {self.world}."
            )

    @property
    def rows(self) -> slice:
        """Where the share lies in a batch."""
        size = self.batch // self.world
        return slice(self.rank * size, (self.rank + 1) * size)

    def positions(self, size: int) -> Iterator[LongTensor]:
        """The share `[batch / world]` of every batch, in the shuffled order of `size` examples.

        Raises:
            InputError: a batch larger than that; when called, not at the first item.
        """
        if self.batch > size:
            raise InputError(
                f"the batch of {self.batch} is larger than the training data of {size} examples; "
                f"set the batch to at most {size}."
            )
        first, length = self.rows.start, self.batch // self.world
        return (
            shuffled_positions(self.seed, number * self.batch + first, length, size)
            for number in count_from(self.start)
        )


@runtime_checkable
class Source(Protocol):
    """Examples to train on and examples to measure with.

    Attributes:
        name: what to call it in reports.
        shape: of one example, `(d,)` for points or `(c, h, w)` for images.
        classes: how many labels the batches carry; 0 when they carry none.
        mixture: the exact density, where it is known.
        size: training examples; `None` when they are drawn without end.
        identity: of the examples, by their content and order: equal wherever they are kept, and
            whether they are held or streamed.
    """

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def classes(self) -> int: ...
    @property
    def mixture(self) -> GaussianMixture | None: ...
    @property
    def size(self) -> int | None: ...
    @property
    def identity(self) -> str: ...

    def batches(self, shard: Shard) -> Iterator[Batch]:
        """Endless `(x [b ...], label [b] or None)`; `b = shard.batch / shard.world`.

        Item i is this rank's contiguous share of global batch `start + i`: a function of
        `(batch, seed, start + i)` alone, so resuming is starting later and the shares of all
        ranks joined are the batch of one process.

        Raises:
            InputError: a batch larger than the training data; before the first is read.
        """
        ...

    def reference(self, part: Part, count: int, seed: int = 0) -> Batch:
        """Up to `count` examples in the scale of the batches, on the CPU, to measure with.

        Labels are given wherever the data has them, also if `classes` is 0.
        """
        ...


def labels_in_turn(classes: int, count: int) -> Tensor | None:
    """The classes one after the other, `[count]`; `None` without classes."""
    return torch.arange(count) % classes if classes else None


def identity_of(*parts: bytes) -> str:
    """A name for what these bytes are, 32 letters and digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:32]


def to_float(images: Tensor) -> Tensor:
    """uint8 `[b c h w]` to float32 in [-1, 1]: `x / 127.5 - 1`."""
    return images.float().div_(127.5).sub_(1)


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """`x` on `device`; an accelerator that can copies it from pinned memory without a wait."""
    if x.device.type != "cpu" or torch.device(device).type in ("cpu", "mps"):
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def row_batches(x: Tensor, label: Tensor | None, shard: Shard) -> Iterator[Batch]:
    """Endless batches of the rows of `x [n ...]` and `label [n]`, one gather each.

    All rows are copied to the device with the first batch. Bytes become numbers in [-1, 1].

    Raises:
        InputError: a batch larger than `n`.
    """
    positions = shard.positions(len(x))
    is_bytes = x.dtype == torch.uint8
    return (
        (to_float(images[rows]) if is_bytes else images[rows], None if y is None else y[rows])
        for order in [positions]  # checked by now; what follows waits for the first batch
        for images, y in [(x.to(shard.device), None if label is None else label.to(shard.device))]
        for rows in (to_device(batch, shard.device) for batch in order)
    )


def check_part(part: str, count: int) -> None:
    """Refuse a part that does not exist, or fewer than one example, with a `ValueError`."""
    if part not in ("train", "held_out"):
        raise ValueError(f"there are the parts 'train' and 'held_out', got {part!r}")
    if count < 1:
        raise ValueError(f"a reference needs at least 1 example, got count={count}")


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, size: int) -> Tensor:
    """The permutation `[size]` of one epoch; the cache saves time and is not state."""
    return torch.randperm(size, generator=rng_for("epoch", seed, epoch))


def shuffled_positions(seed: int, start: int, count: int, size: int) -> LongTensor:
    """Entries `start .. start + count` of the endless concatenation of shuffled epochs.

    Every example occurs once in each epoch of `size` entries; a batch may span epochs.

    Returns:
        `[count]`, int64, each in `0 .. size - 1`, on the CPU.

    Raises:
        ValueError: a negative `start` or `count`, or `size` below 1.
    """
    if start < 0 or count < 0 or size < 1:
        raise ValueError(
            f"need start >= 0, count >= 0 and size >= 1, got {start=}, {count=}, {size=}"
        )
    end = start + count
    epochs = range(start // size, max(start, end - 1) // size + 1)
    pieces = [_epoch(seed, e, size)[max(0, start - e * size) : end - e * size] for e in epochs]
    # A copy: a view would let the caller write into the cached permutation.
    return torch.cat(pieces)  # type: ignore[return-value]
