"""One step of a training loop: the batches it takes and what it leaves behind."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from accelerate import Accelerator
from torch import nn

from hybridgen.data.source import Batch, Shard, Source

Batches = Callable[[int], Iterator[Batch]]
"""From the number of the first batch to this process's share of the batches from there on."""
Resume = Callable[[Mapping[str, Any]], int]
"""Fills the state of a training from a checkpoint and returns its step, 0 without a checkpoint."""


def batches_of(source: Source, accelerator: Accelerator, *, batch: int, seed: int) -> Batches:
    """This process's share of the training batches of `source`.

    Raises:
        InputError: a batch larger than the training data, or not divisible by the processes.
    """

    rank, world = accelerator.process_index, accelerator.num_processes
    shard = Shard(batch=batch, seed=seed, rank=rank, world=world, device=accelerator.device)

    def batches(start: int) -> Iterator[Batch]:
        return source.batches(replace(shard, start=start))

    batches(0)  # arguments are checked when it is called, not at the first `next`
    return batches


@dataclass(frozen=True)
class Step:
    """What one step of training leaves behind.

    Attributes:
        number: counts from 1.
        losses: means over the whole batch, by name; empty if a finished training is resumed.
        average: the averaged model, to sample from.
        state: everything a checkpoint must hold to go on from here, by name; each value has
            `state_dict` and `load_state_dict`.
        last: whether the training ends here.
    """

    number: int
    losses: dict[str, float]
    average: nn.Module
    state: Mapping[str, Any]
    last: bool
