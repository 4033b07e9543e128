"""Noise levels: the grid that a sampler walks down, and the levels that training draws."""

import math
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor


def karras_sigmas(steps: int, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> Tensor:
    """`steps` noise levels from `high` to `low`, dense where detail forms, then 0.

    `(high^(1/rho) + i/(steps-1) (low^(1/rho) - high^(1/rho)))^rho`, Karras et al. 2022,
    arXiv:2206.00364, equation 5.

    Returns:
        `[steps + 1]`, strictly decreasing, float64.

    Raises:
        ValueError: `steps < 2`, not `0 < low < high`, or `rho <= 0`.
    """
    if steps < 2 or not 0 < low < high < math.inf or not rho > 0:
        raise ValueError(
            f"need steps >= 2, 0 < low < high and rho > 0, got {steps=}, {low=}, {high=}, {rho=}"
        )
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigmas = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def stratified(count: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
    """Uniform numbers `[count]`, one from each of `count` equal shares of [0, 1), shuffled.

    A batch then holds every noise level, and its loss does not depend on which were drawn.
    Source: the low-discrepancy sampler of Kingma et al. 2021, arXiv:2107.00630, appendix I.1.
    """
    order = torch.randperm(count, generator=generator, device=device)
    return (order + torch.rand(count, generator=generator, device=device)) / count


def like(sigma: Tensor, x: Tensor) -> Tensor:
    """`sigma [b]` shaped to multiply `x [b ...]`."""
    return rearrange(sigma, "b -> b" + " 1" * (x.ndim - 1))


class Scalings(NamedTuple):
    """`D(x, sigma) = skip x + out F(inner x, noise)`, where F is the network; each `[b]`."""

    skip: Tensor
    out: Tensor
    inner: Tensor
    noise: Tensor


def scalings(sigma: Tensor, data_std: float, least: float = 0.0) -> Scalings:
    """EDM's choice for data of root mean square `data_std`.

    `skip = d^2 / (sigma^2 + d^2)`, `out = sigma d / sqrt(sigma^2 + d^2)`,
    `inner = 1 / sqrt(sigma^2 + d^2)`, `noise = log(sigma) / 4`; their limits where the square is
    infinite. What the network sees, and what it should answer, then have mean square 1 for data
    whose mean square is `d^2`: that is its deviation only if the data is centred.
    Source: Karras et al. 2022, arXiv:2206.00364, table 1, column "EDM".

    Consistency models count from their `least` level, where the estimate is x itself: `skip =
    d^2 / ((sigma - least)^2 + d^2)`, `out = (sigma - least) d / sqrt(sigma^2 + d^2)` (Song et al.
    2023, arXiv:2303.01469, appendix C).
    """
    total, above = sigma.square() + data_std**2, sigma - least
    return Scalings(
        skip=data_std**2 / (above.square() + data_std**2),
        out=torch.where(total.isinf(), data_std, above * data_std * total.rsqrt()),
        inner=total.rsqrt(),
        noise=sigma.log() / 4,
    )


def loss_weight(sigma: Tensor, data_std: float) -> Tensor:
    """`(sigma^2 + d^2) / (sigma d)^2`: every level's squared error counts as the network's own.

    It equals `1 / out^2`, so the weighted error of `D` is the plain error of `F`.
    Source: Karras et al. 2022, arXiv:2206.00364, section 5 and table 1.
    """
    weight = (sigma.square() + data_std**2) / (sigma * data_std).square()
    return torch.where(sigma.square().isinf(), 1 / data_std**2, weight)


def clamp_level(sigma: Tensor) -> Tensor:
    """Levels at least 1e-5, so that their logarithm is finite: without noise nothing changes."""
    return sigma.clamp(min=1e-5)
