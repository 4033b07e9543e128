"""Images that do not fit into memory: decoded by worker processes just before they are needed."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hybridgen.data.images import to_float
from hybridgen.data.source import (
    Batch,
    Part,
    Shard,
    check_part,
    identity_of,
    shuffled_positions,
    to_device,
)
from hybridgen.data.tables import ImageTable
from hybridgen.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamedSource:
    """A set read from disk while training; its batches equal `ImageSource`'s bit for bit.

    Damaged images and images of another format are refused when they are read.

    Args:
        name: what to call it in reports.
        train, held_out: the two parts.
        classes: labels in the batches; 0 for unconditional data.
        workers: processes that read ahead; 0 reads in this process.
    """

    name: str
    train: ImageTable
    held_out: ImageTable
    classes: int = 0
    workers: int = 2
    mixture = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.train.format.shape

    @property
    def identity(self) -> str:
        return identity_of(self.train.identity, self.held_out.identity)

    @property
    def size(self) -> int:
        return len(self.train)

    def batches(self, shard: Shard) -> Iterator[Batch]:
        """See `Source.batches`."""
        positions = shard.positions(self.size)
        labels = self.train.labels if self.classes > 0 else None
        loader = DataLoader(
            _Reader(self.train),
            sampler=shard.positions(self.size),
            batch_size=None,  # an item is a batch already
            num_workers=self.workers,
            worker_init_fn=_ignore_signals,
            pin_memory=torch.device(shard.device).type == "cuda",
            # Without its own generator a loader draws from the global one, and resuming would
            # no longer continue the same random numbers.
            generator=torch.Generator().manual_seed(0),
        )

        def decoded() -> Iterator[Batch]:
            for rows, images in zip(positions, loader, strict=True):
                if isinstance(images, str):
                    raise InputError(images)
                label = None if labels is None else to_device(labels[rows], shard.device)
                yield to_float(to_device(images, shard.device)), label

        return decoded()

    def reference(self, part: Part, count: int, seed: int = 0) -> Batch:
        """See `Source.reference`."""
        check_part(part, count)
        examples = self.train if part == "train" else self.held_out
        rows = shuffled_positions(seed, 0, min(count, len(examples)), len(examples))
        labels = None if examples.labels is None else examples.labels[rows]
        return to_float(examples.read(rows)), labels


class _Reader(Dataset):
    """Reads the images of one share; says in words what is wrong with them.

    An exception would reach the main process wrapped in the worker's traceback.
    """

    def __init__(self, examples: ImageTable) -> None:
        self.examples = examples

    def __getitem__(self, rows: Tensor) -> Tensor | str:
        try:
            return self.examples.read(rows)
        except InputError as error:
            return str(error)


def _ignore_signals(worker: int) -> None:
    """Ctrl-C reaches the whole process group; only the main process decides when to stop."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
