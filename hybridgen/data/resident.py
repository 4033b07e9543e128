"""Samples that are there as one tensor, such as those a sampler made: batches and parts of them."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count as count_from

import torch
from torch import Tensor

from hybridgen.data.images import ImageSource, split
from hybridgen.data.order import positions
from hybridgen.data.source import Batch, Source, share
from hybridgen.errors import InputError


def shuffled(
    x: Tensor,
    label: Tensor | None = None,
    *,
    batch: int,
    seed: int,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Endless batches of the rows of `x [n ...]` and `label [n]`; see `Source.batches`.

    Raises:
        InputError: a batch larger than `n`, or not divisible by `world`.
    """
    mine = share(batch, start, rank, world, len(x))
    x = x.to(device)
    label = None if label is None else label.to(device)

    def gather() -> Iterator[Batch]:
        for i in count_from(start):
            rows = positions(seed, i * batch + rank * mine, mine, len(x)).to(device)
            yield x[rows], None if label is None else label[rows]

    return gather()


def set_apart(source: Source, part: float) -> Source:
    """A source whose held-out examples are a fixed `part` of the training examples of `source`.

    For choosing among guides, so that the examples held out by `source` are left to judge the one
    chosen. Points are drawn afresh anyway.

    Raises:
        InputError: one of the two parts would be empty, or the data is streamed.
    """
    if source.mixture is not None:
        return source
    if not isinstance(source, ImageSource):
        raise InputError(
            f"a part of {source.name} can be set apart only if all of it is in memory: train the "
            "model with a larger data.memory_limit"
        )
    train, chosen = split(source.size, round(part * source.size))
    labels = source.train_labels
    return replace(
        source,
        train=source.train[train],
        held_out=source.train[chosen],
        train_labels=None if labels is None else labels[train],
        held_out_labels=None if labels is None else labels[chosen],
    )
