"""Gaussian mixtures: the distributions whose every answer is known exactly.

Noise of standard deviation sigma added to a mixture gives a mixture again, so density, score,
best denoiser and best discriminator are closed forms at every noise level.
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from torch import Tensor


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """`p(x) = sum_i w_i N(x; m_i, s_i^2 I)`.

    Attributes:
        weights: `[k]`, positive; normalised on construction.
        means: `[k d]`.
        stds: `[k]`, positive.
    """

    weights: Tensor
    means: Tensor
    stds: Tensor

    def __post_init__(self) -> None:
        weights, means, stds = self.weights.double(), self.means.double(), self.stds.double()
        if means.ndim != 2 or not weights.shape == stds.shape == means.shape[:1]:
            raise ValueError(
                "expected weights [k], means [k d], stds [k], got "
                f"{tuple(weights.shape)}, {tuple(means.shape)}, {tuple(stds.shape)}"
            )
        if bool((weights <= 0).any()) or bool((stds <= 0).any()):
            raise ValueError("every weight and every standard deviation must be positive")
        object.__setattr__(self, "weights", weights / weights.sum())
        object.__setattr__(self, "means", means)
        object.__setattr__(self, "stds", stds)

    @property
    def components(self) -> int:
        return len(self.weights)

    @property
    def dimension(self) -> int:
        return self.means.shape[1]

    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """`log p_sigma(x)` in nats, `[b d] -> [b]`; `sigma` is one number or `[b]`."""
        return torch.logsumexp(self._joint(x, sigma), dim=1)

    def responsibilities(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """`P(component | x)` under noise sigma, `[b d] -> [b k]`."""
        return torch.softmax(self._joint(x, sigma), dim=1)

    def score(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """`grad_x log p_sigma(x)`, `[b d] -> [b d]`."""
        pull = (self.means.to(x) - rearrange(x, "b d -> b 1 d")) / rearrange(
            self._variance(x, sigma), "b k -> b k 1"
        )
        return reduce(
            rearrange(self.responsibilities(x, sigma), "b k -> b k 1") * pull, "b k d -> b d", "sum"
        )

    def log_ratio(self, other: "GaussianMixture", x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """The best discriminator's logit for real p, fake q: `log p_sigma(x) - log q_sigma(x)`."""
        return self.log_density(x, sigma) - other.log_density(x, sigma)

    def sample(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Independent draws: points `[n d]` in float32, and the component `[n]` of each."""
        device = self.means.device
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.dimension, generator=generator, device=device)
        points = self.means[component] + rearrange(self.stds[component], "n -> n 1") * noise
        return points.float(), component

    def standardised(self) -> "GaussianMixture":
        """The same shape, centred and divided by its root-mean-square deviation a coordinate.

        Penalty weights and learning rates are quoted for data of unit scale; counting modes and
        measuring divergences gives the same answer before and after.
        """
        centre = self.weights @ self.means
        spread = reduce((self.means - centre).square(), "k d -> k", "mean") + self.stds.square()
        scale = (self.weights @ spread).sqrt()
        return GaussianMixture(self.weights, (self.means - centre) / scale, self.stds / scale)

    def _variance(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return self.stds.to(x) ** 2 + _column(x, sigma) ** 2

    def _joint(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.dimension:
            raise ValueError(f"expected points [b {self.dimension}], got {tuple(x.shape)}")
        variance = self._variance(x, sigma)
        offset = rearrange(x, "b d -> b 1 d") - self.means.to(x)
        distance = reduce(offset.square(), "b k d -> b k", "sum")
        normaliser = self.dimension * torch.log(2 * math.pi * variance)
        return self.weights.to(x).log() - (distance / variance + normaliser) / 2


def _column(x: Tensor, sigma: Tensor | float) -> Tensor:
    return rearrange(torch.as_tensor(sigma).to(x).expand(len(x)), "b -> b 1")


def _equal(means: Tensor, std: float) -> GaussianMixture:
    return GaussianMixture(torch.ones(len(means)), means, torch.full((len(means),), std))


def ring(modes: int = 8, radius: float = 1.0, std: float = 0.01) -> GaussianMixture:
    """Equal Gaussians on a circle; the defaults are convention A (VEEGAN, PacGAN)."""
    angle = 2 * math.pi * torch.arange(modes, dtype=torch.float64) / modes
    return _equal(radius * torch.stack([angle.cos(), angle.sin()], dim=1), std)


def grid(side: int = 5, spacing: float = 2.0, std: float = 0.05) -> GaussianMixture:
    """Equal Gaussians on a `side x side` grid around 0; the defaults are convention A."""
    axis = spacing * (torch.arange(side, dtype=torch.float64) - (side - 1) / 2)
    return _equal(torch.cartesian_prod(axis, axis), std)


def reverse_kl(counts: Tensor) -> float:
    """`KL(q | u) = sum_i q_i log(q_i k)` of a histogram against the uniform distribution on k bins.

    Zero for equal counts, `log k` where one bin has everything, infinite for an empty histogram:
    a sampler that hits no mode is infinitely far away.
    Source: the mode-collapse tables of PacGAN (Lin et al. 2018, arXiv:1712.04086).

    Args:
        counts: `[k]`, non-negative.
    """
    counts = counts.double()
    if float(counts.sum()) == 0:
        return math.inf
    if counts.ndim != 1 or bool((counts < 0).any()):
        raise ValueError(f"expected non-negative counts [k], got {tuple(counts.shape)}")
    q = counts / counts.sum()
    return float(torch.special.xlogy(q, q * len(q)).sum().clamp_min(0))
