"""One step of a training loop: the batches it takes and what it leaves behind."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

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


class Losses(Mapping[str, float]):
    """Losses that stay on an accelerator until one is read, because reading waits for it.

    Args:
        values: scalars by name.
        check: called before the first is read; raises what an earlier step has to say.
    """

    def __init__(self, values: Mapping[str, Tensor | float], check: Callable[[], None]) -> None:
        self._values, self._check = values, check
        self._read: dict[str, Any] = {}

    def __getitem__(self, name: str) -> float:
        if not self._read:
            self._check()
            tensors = {n: value for n, value in self._values.items() if isinstance(value, Tensor)}
            numbers = torch.stack(list(tensors.values())).tolist() if tensors else ()
            self._read = {**self._values, **dict(zip(tensors, numbers, strict=True))}
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True)
class Step:
    """What one step of training leaves behind.

    Attributes:
        number: counts from 1.
        losses: means over the whole batch, by name; empty if a finished training is resumed. On an
            accelerator they are read, and checked, when they are asked for.
        average: the averaged model, to sample from.
        state: everything a checkpoint must hold to go on from here, by name; each value has
            `state_dict` and `load_state_dict`.
        last: whether the training ends here.
    """

    number: int
    losses: Mapping[str, float]
    average: nn.Module
    state: Mapping[str, Any]
    last: bool
