"""Processes that share the work of one evaluation, and all come to have its results.

Every function is called by every process of the accelerator alike; without one, or with one process
alone, it does the work itself. Results are those of one process, bit for bit where the work of a
single sample does not depend on its batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hybridgen.metrics.features import FeatureExtractor, Features
from hybridgen.sampling.samplers import share_of_samples


def rows_of(count: int, accelerator: Any) -> slice:
    """Which of `count` samples this process works on."""
    if accelerator is None:
        return slice(0, count)
    return share_of_samples(count, accelerator.process_index, accelerator.num_processes)


def gathered(share: Tensor, count: int, accelerator: Any) -> Tensor:
    """All `[count ...]`, on the CPU, of what each process has of its `rows_of(count)`."""
    if accelerator is None or accelerator.num_processes == 1:
        return share
    size = share_of_samples(count, 0, accelerator.num_processes).stop
    padded = share.new_zeros(size, *share.shape[1:])
    padded[: len(share)] = share
    return torch.as_tensor(accelerator.gather(padded.to(accelerator.device))).cpu()[:count]


def gathered_features(share: Features, count: int, accelerator: Any) -> Features:
    """Those of all `count` samples, of what each process has of its own."""
    features, label = share
    label = None if label is None else gathered(label, count, accelerator)
    return Features(gathered(features, count, accelerator), label)


def extracted(extractor: FeatureExtractor, x: Tensor, accelerator: Any) -> Features:
    """Features of `[b ...]`, of which each process looks at its share."""
    share = extractor.extract(x[rows_of(len(x), accelerator)])
    return gathered_features(share, len(x), accelerator)


def in_turn(
    tasks: Sequence[tuple[tuple[int, ...], Callable[[], Tensor]]], accelerator: Any
) -> list[Tensor]:
    """The results of tasks, each done by one process: float64 on the CPU, of the shapes given.

    The same processes do the same tasks in every call, so what a task keeps stays useful.
    """
    if accelerator is None or accelerator.num_processes == 1:
        return [task().double() for _, task in tasks]
    rank, world = accelerator.process_index, accelerator.num_processes
    results = [torch.zeros(shape, dtype=torch.float64) for shape, _ in tasks]
    for number in range(rank, len(tasks), world):
        results[number] += tasks[number][1]()
    flat = torch.cat([result.flatten() for result in results]).to(accelerator.device)
    together = torch.as_tensor(accelerator.reduce(flat, reduction="sum")).cpu()  # with zeros: exact
    parts = together.split([result.numel() for result in results])
    return [part.view(result.shape) for part, result in zip(parts, results, strict=True)]
