"""Extrapolation: from two estimates of the same, on beyond the better one."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hybridgen.maths.noise import like
from hybridgen.protocols import Cost, Denoiser
from hybridgen.sampling.guidance import (
    Scale,
    at_level,
    check_scale,
    check_window,
    cost_of,
    scale_at,
)

EVERYWHERE = (0.0, math.inf)


def classifier_free_guidance(
    denoiser: Denoiser,
    scale: Scale,
    *,
    window: tuple[float, float] = EVERYWHERE,
    norm: float | None = None,
    parallel: float = 1.0,
) -> Denoiser:
    """Away from the unconditional estimate: `D(x, label) + (scale - 1) (D(x, label) - D(x, null))`.

    Scale 1 is the conditional denoiser, 0 the unconditional one; `label=None` is unconditional.
    Source: Ho & Salimans 2022, arXiv:2207.12598, equation 6, there with w = scale - 1.

    Args:
        denoiser: trained with labels dropped at random (`training.label_drop`).
        scale, window, norm, parallel: see `autoguidance`.
    """
    return Extrapolated(denoiser, Unlabelled(denoiser), scale, window, norm, parallel)


def autoguidance(
    denoiser: Denoiser,
    weaker: Denoiser,
    scale: Scale,
    *,
    window: tuple[float, float] = EVERYWHERE,
    norm: float | None = None,
    parallel: float = 1.0,
) -> Denoiser:
    """Away from a weaker model of the same data: `D + (scale - 1) (D - weaker)`.

    Source: Karras et al. 2024, arXiv:2406.02507. The weaker one is an earlier or
    smaller model with the same conditions, whose errors are the same and larger.

    Args:
        scale: a number, or a function of `sigma [b]`; 1 is the denoiser itself.
        window: noise levels, low included and high excluded, outside of which the denoiser is left
            alone; samplers here do not call the weaker one there. Source: Kynkäänniemi et al. 2024,
            arXiv:2404.07724.
        norm: the largest norm of a sample's difference, in units of the data.
        parallel: share that is kept of the part of the difference that is parallel to the estimate,
            which makes large scales lurid. With 0 and a `norm`, adaptive projected guidance without
            its momentum: Sadat et al. 2024, arXiv:2410.02416.

    Raises:
        ValueError: a scale that is not finite, an empty window, a norm that is not positive.
    """
    return Extrapolated(denoiser, weaker, scale, window, norm, parallel)


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """A denoiser that is never told a label."""

    denoiser: Any

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return self.denoiser(x, sigma, None)

    def cost(self, sigma: float) -> Cost:
        """Calls at one level."""
        return cost_of(self.denoiser, sigma)

    def at(self, sigma: float) -> Denoiser:
        """See `at_level`."""
        return replace(self, denoiser=at_level(self.denoiser, sigma))


@dataclass(frozen=True, eq=False)
class Extrapolated:
    """Two denoisers as one; made by `classifier_free_guidance` and `autoguidance`."""

    denoiser: Denoiser
    weaker: Denoiser
    scale: Scale
    window: tuple[float, float]
    norm: float | None
    parallel: float

    def __post_init__(self) -> None:
        check_scale(self.scale)
        check_window(self.window)
        if (self.norm is not None and not self.norm > 0) or not math.isfinite(self.parallel):
            raise ValueError(
                "norm must be positive and parallel a finite share, got "
                f"{self.norm} and {self.parallel}"
            )

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        if label is None and isinstance(self.weaker, Unlabelled):
            return self.denoiser(x, sigma)
        away = -self.weaker(x, sigma, label)
        estimate = self.denoiser(x, sigma, label)  # last: a learned variance is that of this call
        away = away + estimate
        if self.norm is not None:
            length = away.flatten(1).norm(dim=1).clamp(min=1e-12)
            away = away * like((self.norm / length).clamp(max=1), x)
        if self.parallel != 1:
            inner, square = ((estimate * each).flatten(1).sum(1) for each in (away, estimate))
            along = like(inner / square.clamp(min=1e-12), x) * estimate
            away = away - (1 - self.parallel) * along
        inside = like((sigma >= self.window[0]) & (sigma < self.window[1]), x)
        beyond = like(scale_at(self.scale, sigma) - 1, x).to(x.dtype) * away
        # Outside a difference that is not finite must not come through.
        return torch.where(inside, estimate + beyond, estimate)

    def cost(self, sigma: float) -> Cost:
        """Calls at one level, with labels given."""
        inner = cost_of(self.denoiser, sigma)
        return inner + cost_of(self.weaker, sigma) if self._asked(sigma) else inner

    def at(self, sigma: float) -> Denoiser:
        """See `at_level`: the denoiser itself outside the window."""
        inner = at_level(self.denoiser, sigma)
        if not self._asked(sigma):
            return inner
        return replace(self, denoiser=inner, weaker=at_level(self.weaker, sigma))

    def _asked(self, sigma: float) -> bool:
        return self.window[0] <= sigma < self.window[1]
