"""What one step of any training loop leaves behind, and how its gradients are gathered."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hybridgen.data.source import Batch, Source

Batches = Callable[[int], Iterator[Batch]]
"""From the number of the first batch to this process's share of the batches from there on."""


def batches_of(source: Source, accelerator: Accelerator, *, batch: int, seed: int) -> Batches:
    """This process's share of the training batches of `source`.

    Raises:
        InputError: a batch larger than the training data, or not divisible by the processes.
    """

    def batches(start: int) -> Iterator[Batch]:
        return source.batches(
            batch=batch,
            seed=seed,
            start=start,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            device=accelerator.device,
        )

    batches(0)  # arguments are checked when it is called, not at the first `next`
    return batches


@dataclass(frozen=True)
class Step:
    """What one step of training leaves behind.

    Attributes:
        number: counts from 1.
        losses: means over the whole batch, by name.
        average: the averaged model, to sample from.
        state: everything a checkpoint must hold to go on from here, by name; each value has
            `state_dict` and `load_state_dict`.
    """

    number: int
    losses: dict[str, float]
    average: nn.Module
    state: Mapping[str, Any]


def micro_batches(parts: int, *tensors: Tensor | None) -> list[tuple[Any, ...]]:
    """Tensors `[b ...]` cut into `parts` equal shares; `None` stays `None` in each."""
    columns = [[None] * parts if t is None else t.chunk(parts) for t in tensors]
    return list(zip(*columns, strict=True))


def accumulate(
    loss: Callable[..., dict[str, Tensor]],
    parts: Sequence[tuple[Any, ...]],
    models: Sequence[nn.Module],
    accelerator: Accelerator,
) -> dict[str, float]:
    """Accumulate the gradients of all shares, synchronise once, and return the mean losses.

    Args:
        loss: maps a share to named scalars; of those that carry a gradient each is followed back
            on its own, in order, so they must not share a graph.
        parts: the shares.
        models: the prepared models whose gradients the losses reach.
    """
    collected, names = [], []
    for index, share in enumerate(parts, start=1):
        with ExitStack() as stack:
            if index < len(parts):
                for model in models:
                    stack.enter_context(accelerator.no_sync(model))
            named = loss(*share)
            for value in named.values():
                if value.requires_grad:
                    accelerator.backward(value / len(parts))
        names = list(named)
        with torch.no_grad():
            collected.append(torch.stack([v.detach().float() for v in named.values()]))
    means = torch.stack(collected).mean(0)
    if accelerator.num_processes > 1:
        means = accelerator.reduce(means, reduction="mean")
    return dict(zip(names, means.tolist(), strict=True))  # type: ignore[union-attr]
