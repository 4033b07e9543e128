"""The order in which examples are seen, as a pure function of (seed, cursor).

Nothing is remembered between batches, so a run that resumes at step i, or runs on another number
of processes, sees exactly the examples the uninterrupted run would have seen.
"""

from functools import lru_cache

import torch
from torch import LongTensor, Tensor

from hybridgen.maths.draws import rng_for


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, size: int) -> Tensor:
    """The permutation `[size]` of one epoch; the cache saves time and is not state."""
    return torch.randperm(size, generator=rng_for("epoch", seed, epoch))


def positions(seed: int, start: int, count: int, size: int) -> LongTensor:
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
    pieces: list[Tensor] = []
    while count > 0:
        epoch, offset = divmod(start, size)
        piece = _epoch(seed, epoch, size)[offset : offset + count]
        pieces.append(piece)
        start, count = start + len(piece), count - len(piece)
    # A copy: a view would let the caller write into the cached permutation.
    return torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.int64)  # type: ignore[return-value]
