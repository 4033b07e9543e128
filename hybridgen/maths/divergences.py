"""Divergences between discrete distributions, in nats."""

import math

import torch
from torch import Tensor


def _distribution(counts: Tensor) -> Tensor:
    counts = counts.double()
    if counts.ndim != 1 or len(counts) == 0 or bool((counts < 0).any()):
        raise ValueError(f"expected non-negative counts [k], got {tuple(counts.shape)}")
    return counts / counts.sum()


def reverse_kl(counts: Tensor) -> float:
    """`KL(q | u) = sum_i q_i log(q_i k)` of a histogram against the uniform distribution on k bins.

    Zero for equal counts, `log k` where one bin has everything, infinite for an empty histogram:
    a sampler that hits no mode is infinitely far away.
    Source: the mode-collapse tables of PacGAN (Lin et al. 2018, arXiv:1712.04086).

    Args:
        counts: `[k]`, non-negative.
    """
    if float(counts.sum()) == 0:
        return math.inf
    q = _distribution(counts)
    return float(torch.special.xlogy(q, q * len(q)).sum().clamp_min(0))


def jensen_shannon(p: Tensor, q: Tensor) -> float:
    """`JS(p, q) = KL(p | m)/2 + KL(q | m)/2`, `m = (p + q)/2`; between 0 and log 2.

    The value of the minimax game at its best critic is `2 JS - log 4`
    (Goodfellow et al. 2014, arXiv:1406.2661, theorem 1).

    Args:
        p, q: `[k]` non-negative counts or probabilities of the same k events.
    """
    if p.shape != q.shape:
        raise ValueError(f"expected two histograms of one length, got {len(p)} and {len(q)} bins")
    p, q = _distribution(p), _distribution(q)
    m = (p + q) / 2
    # Where p is 0 its term is 0 whatever m is; m is 0 only where both are.
    safe = m.clamp_min(torch.finfo(m.dtype).tiny)
    halves = torch.special.xlogy(p, p / safe) + torch.special.xlogy(q, q / safe)
    return float(halves.sum() / 2)
