"""Nearest training neighbours: are samples closer to the training data than new examples are?"""

import torch
from torch import Tensor


def nearest(x: Tensor, training: Tensor, *, chunk: int = 500) -> tuple[Tensor, Tensor]:
    """Distance `[b]` (float64) to the nearest of `training`, and its index `[b]`.

    Args:
        x: `[b d]`, features or pixels.
        training: `[n d]`.
        chunk: rows of `x` compared with everything at a time, which bounds the memory.
    """
    if x.ndim != 2 or training.ndim != 2 or x.shape[1] != training.shape[1] or not len(training):
        raise ValueError(
            f"expected [b d] and [n d], n >= 1, got {list(x.shape)} and {list(training.shape)}"
        )
    found = [torch.cdist(part, training.to(part)).argmin(dim=1) for part in x.split(chunk)]
    index = torch.cat(found) if found else torch.empty(0, dtype=torch.int64)
    # Distances through matrix products are rough near 0, where copies are: only ranks come of them.
    parts = zip(x.split(chunk), index.split(chunk), strict=True)
    exact = [(part.double() - training[rows].double()).norm(dim=1) for part, rows in parts]
    return (torch.cat(exact) if exact else torch.empty(0, dtype=torch.float64)), index


def closeness(distance: Tensor, held_out: Tensor) -> Tensor:
    """For each sample the share of held-out examples that are farther from training data; `[b]`.

    Equal distances count half.

    Args:
        distance: `[b]`, of the samples to their nearest training examples.
        held_out: `[m]`, likewise of examples that were never trained on.
    """
    if distance.ndim != 1 or held_out.ndim != 1 or not len(held_out):
        raise ValueError(
            f"expected distances [b] and [m], m >= 1, got {list(distance.shape)} and "
            f"{list(held_out.shape)}"
        )
    ordered = held_out.double().sort().values
    before = torch.searchsorted(ordered, distance.double().contiguous(), side="left")
    until = torch.searchsorted(ordered, distance.double().contiguous(), side="right")
    return 1 - (before + until).double() / (2 * len(ordered))


def memorisation(distance: Tensor, held_out: Tensor) -> float:
    """`P(sample closer than held-out) + P(equal) / 2` over all pairs: .5 is new, 1 is copied.

    It is below .5 where samples are farther from all data than data are from each other. The
    Mann-Whitney statistic U / (b m) of the two sets of distances; one minus the `Delta_T` of the
    source's global test, which divides the space into cells besides.
    Source: Meehan, Chaudhuri & Dasgupta 2020, arXiv:2004.05675, section 3.

    Args:
        distance, held_out: see `closeness`.
    """
    return float(closeness(distance, held_out).mean())
