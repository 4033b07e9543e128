"""The adversarial term of diffusion training: its fakes, and what they are compared with."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hybridgen.losses.denoising import noised
from hybridgen.maths.noise import karras_sigmas, like
from hybridgen.networks.blocks import eval_mode
from hybridgen.protocols import Denoiser
from hybridgen.training.terms import AdversarialTerm

LEAST_LEVEL = 0.75
"""Of `renoised`, as a share of the estimate's level; below, a posterior mean gives itself away."""


class TermNoise(NamedTuple):
    """The random numbers of one step for the term: `[k ...]`, `[k ...]`, `[k]`, `[k]`."""

    noise: Tensor
    second: Tensor
    normal: Tensor
    uniform: Tensor


def fake_inputs(
    term: AdversarialTerm,
    denoiser: Denoiser,
    x0: Tensor,
    label: Tensor | None,
    draws: TermNoise,
    levels: Callable[[Tensor], Tensor],
    calls: int,
) -> tuple[Tensor, Tensor]:
    """The denoiser's inputs for the term: noisy samples `[k ...]` and their level `[k]`.

    Args:
        denoiser: walks the chain down, without gradients.
        x0, label: data, `[k ...]` and `[k]`.
        levels: from standard normal numbers to the levels at which the denoiser trains.
        calls: the chain's length this time.
    """
    if term.source == "chain":
        sigmas = karras_sigmas(calls, term.lowest, term.high)[:-1].tolist()
        x = sigmas[0] * draws.noise
        with torch.no_grad(), eval_mode(denoiser if isinstance(denoiser, nn.Module) else None):
            for now, after in pairwise(sigmas):
                estimate = denoiser(x, draws.uniform.new_full((len(x),), now), label)
                x = estimate + after / now * (x - estimate)  # Euler down the flow, which is DDIM
        return x, draws.uniform.new_full((len(x),), sigmas[-1])
    if term.source == "clean":
        sigma = term.lowest * (term.highest / term.lowest) ** draws.uniform
    else:
        sigma = levels(draws.normal)
    return noised(x0, sigma, draws.noise), sigma


def discriminator_pair(
    term: AdversarialTerm, estimate: Tensor, x0: Tensor, sigma: Tensor, draws: TermNoise
) -> tuple[Tensor, Tensor, Tensor]:
    """The denoiser's estimate from `fake_inputs`, data, and the noise level `[k]` of both.

    Renoised, that level is uniform between `0.75 sigma` and `sigma`; the noise is the same on both
    sides, so that all the discriminator can see is the estimate. That of a perfect denoiser is a
    posterior mean, which less noise would not hide: on the mixture of `tests/oracles.py` the
    Kolmogorov distance to data, at sigma 5, is .37 if noised to half a unit, and below .07 from
    three quarters of sigma on, whatever sigma is. In DMD2 (arXiv:2405.14867) and LADD
    (arXiv:2403.12015) the fakes are samples of a generator, and any level will do.
    """
    if term.source != "renoised":
        return estimate, x0, torch.zeros_like(sigma)
    level = (LEAST_LEVEL + (1 - LEAST_LEVEL) * draws.uniform) * sigma
    again = like(level, x0) * draws.second
    return estimate + again, x0 + again, level
