"""Preconditioning: a network that sees and returns numbers of unit scale at every noise level."""

from typing import NamedTuple

import torch
from torch import Tensor


class Scalings(NamedTuple):
    """`D(x, sigma) = skip x + out F(inner x, noise)`; each `[b]`.

    Attributes:
        skip: how much of the noisy input is kept.
        out: what the network's answer is multiplied by.
        inner: what its input is multiplied by.
        noise: the noise level as the network is told it.
    """

    skip: Tensor
    out: Tensor
    inner: Tensor
    noise: Tensor


def scalings(sigma: Tensor, data_std: float) -> Scalings:
    """EDM's choice for data of standard deviation `data_std`.

    `skip = d^2 / (sigma^2 + d^2)`, `out = sigma d / sqrt(sigma^2 + d^2)`,
    `inner = 1 / sqrt(sigma^2 + d^2)`, `noise = log(sigma) / 4`.
    Source: Karras et al. 2022, arXiv:2206.00364, table 1, column "EDM".
    """
    total = sigma.square() + data_std**2
    return Scalings(
        skip=data_std**2 / total,
        out=sigma * data_std * total.rsqrt(),
        inner=total.rsqrt(),
        noise=sigma.log() / 4,
    )


def loss_weight(sigma: Tensor, data_std: float) -> Tensor:
    """`(sigma^2 + d^2) / (sigma d)^2`: every level's squared error counts as the network's own.

    It equals `1 / out^2`, so the weighted error of `D` is the plain error of `F`.
    Source: Karras et al. 2022, arXiv:2206.00364, section 5 and table 1.
    """
    return (sigma.square() + data_std**2) / (sigma * data_std).square()


def clamp_level(sigma: Tensor, low: float = 1e-5) -> Tensor:
    """Levels at least `low`, so that their logarithm is finite: without noise nothing changes."""
    return torch.clamp(sigma, min=low)
