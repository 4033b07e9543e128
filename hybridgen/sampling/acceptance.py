"""Acceptance: finished samples of a model q become samples of the data p by `log p - log q`.

The log ratio of a sample is the logit that a calibrated discriminator, trained on finished samples
of the same sampler, gives it at sigma 0. Samples are chosen, never changed, so what q never makes
stays missing. Any sampler will do: compute the log ratios of its outputs, choose, and index the
outputs.
"""

import math

import torch
from einops import rearrange
from torch import Tensor


def rejection(log_ratio: Tensor, log_bound: float, uniform: Tensor) -> Tensor:
    """Accept sample i if `uniform_i < exp(log_ratio_i - log_bound)`; what is accepted follows p.

    With `log_bound = log sup p/q` the fraction accepted is `exp(-log_bound)` on average. A smaller
    bound accepts more, and keeps q's proportions among the samples whose ratio exceeds it.
    Source: Azadi et al. 2019, arXiv:1810.06758, section 3.1.

    Args:
        log_ratio: `[n]`; minus infinity is never accepted.
        log_bound: the largest log ratio there is, or an estimate of it.
        uniform: `[n]`, drawn from [0, 1).

    Returns:
        `[n]`, true where accepted.

    Raises:
        ValueError: sizes that do not match, log ratios or a bound that are no numbers, uniforms
            outside [0, 1).
    """
    _check_ratios(log_ratio, dimensions=1)
    _check_uniform(uniform, tuple(log_ratio.shape))
    if not math.isfinite(log_bound):
        raise ValueError(f"log_bound must be finite, got {log_bound}")
    return uniform.double().log() < log_ratio.double() - log_bound


def metropolis_hastings(log_ratio: Tensor, uniform: Tensor) -> Tensor:
    """Where each of n chains over k + 1 independent samples ends; needs no bound on the ratio.

    A chain starts at column 0 and moves to proposal j = 1..k with probability
    `min(1, exp(log_ratio_j - log_ratio_current))`. If p/q is at most M, the total variation from p
    is at most `(1 - 1/M)^k`; chains that start at real samples follow p from the first step on.
    Source: Turner et al. 2019, arXiv:1811.11357, algorithm 1; the rate: Mengersen & Tweedie 1996.

    Args:
        log_ratio: `[n k+1]`, one row a chain.
        uniform: `[n k]`, drawn from [0, 1).

    Returns:
        `[n]`, the column (int64, 0..k) of each chain's last state.

    Raises:
        ValueError: sizes that do not match, log ratios that are no numbers, uniforms outside
            [0, 1).
    """
    _check_ratios(log_ratio, dimensions=2)
    chains, columns = log_ratio.shape
    _check_uniform(uniform, (chains, columns - 1))
    ratios, draws = log_ratio.double(), uniform.double().log()
    index = torch.zeros(chains, dtype=torch.int64, device=log_ratio.device)
    current = ratios[:, 0]
    for proposal in range(1, columns):
        proposed = ratios[:, proposal]
        # Between two impossible states the difference is no number, and the chain stays.
        moves = draws[:, proposal - 1] < proposed - current
        current = torch.where(moves, proposed, current)
        index = index.masked_fill(moves, proposal)
    return index


def importance_choice(log_ratio: Tensor, uniform: Tensor) -> Tensor:
    """One of each row's candidates, column j with probability `softmax(log_ratio)_j`.

    What is chosen from k + 1 independent samples of q tends to p as k grows, and rows stay
    independent: nothing is repeated. Source: Rubin 1987, sampling importance resampling.

    Args:
        log_ratio: `[n k+1]`; a row of minus infinities chooses its first column.
        uniform: `[n]`, drawn from [0, 1); the column is where it falls in the row's distribution.

    Returns:
        `[n]`, the column (int64, 0..k).

    Raises:
        ValueError: sizes that do not match, log ratios that are no numbers, uniforms outside
            [0, 1).
    """
    _check_ratios(log_ratio, dimensions=2)
    _check_uniform(uniform, (len(log_ratio),))
    ratios = log_ratio.double()
    highest = ratios.max(dim=1, keepdim=True).values
    weights = torch.where(highest.isneginf(), 1.0, (ratios - highest).exp())
    weights[:, 1:] = weights[:, 1:].masked_fill(highest.isneginf(), 0.0)
    reached = weights.cumsum(dim=1)
    # Divided by its own end, so that rounding leaves no gap below 1.
    below = reached / reached[:, -1:] <= rearrange(uniform.double(), "n -> n 1")
    return below.sum(dim=1)


def _check_ratios(log_ratio: Tensor, *, dimensions: int) -> None:
    if log_ratio.ndim != dimensions or log_ratio.numel() == 0:
        expected = "[n]" if dimensions == 1 else "[n k+1]"
        raise ValueError(
            f"expected log ratios {expected}, not empty, got shape {list(log_ratio.shape)}"
        )
    wrong = int((torch.isnan(log_ratio) | torch.isposinf(log_ratio)).sum())
    if wrong:
        raise ValueError(
            f"{wrong} of {log_ratio.numel()} log ratios are nan or infinite; "
            "take the discriminator's raw logits of finite samples"
        )


def _check_uniform(uniform: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(uniform.shape) != shape:
        raise ValueError(f"expected uniforms of shape {list(shape)}, got {list(uniform.shape)}")
    if not bool(((uniform >= 0) & (uniform < 1)).all()):
        raise ValueError("expected uniforms in [0, 1), as torch.rand draws them")
