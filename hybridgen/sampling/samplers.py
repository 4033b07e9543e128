"""Samplers written here: EDM's Heun, with or without churn, and a generator's single pass."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from hybridgen.errors import RunError
from hybridgen.maths.rng import rng_for, rng_from
from hybridgen.networks.blocks import in_chunks
from hybridgen.protocols import Cost, Denoiser, Generator, Sampler
from hybridgen.sampling.guidance import cost_of


@dataclass(frozen=True, eq=False)
class Heun:
    """Second-order steps down the probability-flow ODE `dx/dsigma = (x - D(x, sigma)) / sigma`.

    Karras et al. 2022, arXiv:2206.00364, algorithms 1 (churn 0) and 2; the last step, to sigma 0,
    is Euler's. The same noise gives the same samples, churned or not. Half precision would lose the
    difference between neighbouring levels, so steps are taken in float32 at least.

    Attributes:
        denoiser: guided or not; both slopes of a step come from it.
        noise_shape: of one sample.
        sigmas: `[n + 1]`, decreasing to 0, such as `hybridgen.maths.noise.karras_sigmas(n)`.
        churn: `S_churn`: each step first goes back up to `sigma (1 + churn / n)`, at most
            `sqrt(2) sigma`, with fresh noise.
    """

    denoiser: Denoiser
    noise_shape: tuple[int, ...]
    sigmas: Tensor
    churn: float = 0.0

    def __post_init__(self) -> None:
        sigmas = self.sigmas
        falling = sigmas.ndim == 1 and len(sigmas) > 1 and bool((sigmas.diff() < 0).all())
        if not falling or sigmas[-1] != 0 or not bool(torch.isfinite(sigmas).all()):
            raise ValueError(
                "noise levels must be finite and fall strictly to 0, got "
                f"{[round(s, 4) for s in sigmas.flatten().tolist()]}"
            )
        if not 0 <= self.churn < math.inf:
            raise ValueError(f"churn must be finite and >= 0, got {self.churn}")

    @property
    def cost(self) -> Cost:
        """Network calls of one sample, those of every discriminator that guides included."""
        levels = self.sigmas.tolist()[:-1]
        visited = [self._raised(level) for level in levels] + levels[1:]
        return sum((cost_of(self.denoiser, level) for level in visited), Cost())

    @torch.no_grad()
    def __call__(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """`noise [b *noise_shape]`, standard normal; `label [b]` -> samples `[b *noise_shape]`.

        Raises:
            ValueError: noise of another shape.
            RunError: the samples stopped being finite; the message names the step.
        """
        check_noise(noise, self.noise_shape)
        levels = self.sigmas.tolist()
        x = noise.to(torch.promote_types(noise.dtype, torch.float32)) * levels[0]
        draws = rng_from(noise) if self.churn else None
        for number, (now, after) in enumerate(pairwise(levels), start=1):
            start = self._raised(now)
            if draws is not None:
                fresh = torch.randn(x.shape, generator=draws, device=x.device, dtype=x.dtype)
                x = x + math.sqrt(start**2 - now**2) * fresh
            slope = self._slope(x, start, label)
            ahead = x + (after - start) * slope
            if after > 0:
                slope = (slope + self._slope(ahead, after, label)) / 2
            x = x + (after - start) * slope
            check_samples(x, number, len(levels) - 1, now)
        return x.to(noise.dtype)

    def _raised(self, sigma: float) -> float:
        return sigma * (1 + min(self.churn / (len(self.sigmas) - 1), math.sqrt(2) - 1))

    def _slope(self, x: Tensor, sigma: float, label: Tensor | None) -> Tensor:
        precise = torch.promote_types(x.dtype, torch.float32)
        level = torch.full((len(x),), sigma, dtype=precise, device=x.device)
        return (x - self.denoiser(x, level, label)) / sigma


def draw_samples(
    sampler: Sampler,
    count: int,
    key: tuple[int | str, ...],
    *,
    like: Tensor,
    label: Tensor | None = None,
) -> Tensor:
    """`count` samples on the CPU, 500 at a time, from the standard normal noise `key` names.

    Args:
        like: a tensor of the type and on the device that the model computes with.
        label: `[count]`.
    """
    noise = torch.randn(count, *sampler.noise_shape, generator=rng_for(*key)).to(like)
    label = None if label is None else label.to(like.device)
    return in_chunks(sampler, noise, label, size=500).cpu()


def check_noise(noise: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse noise that is not `[b *shape]`, or not of real numbers, with a `ValueError`."""
    if tuple(noise.shape[1:]) != shape or not noise.is_floating_point():
        raise ValueError(
            f"expected noise of shape [b, *{list(shape)}], got {list(noise.shape)} of {noise.dtype}"
        )


def check_samples(x: Tensor, step: int, steps: int, sigma: float) -> None:
    """Stop a sampler whose samples are not finite with a `RunError` that names step and level."""
    if not bool(torch.isfinite(x).all()):
        raise RunError(
            f"samples stopped being finite at step {step} of {steps} (sigma {sigma:.4g}): lower "
            "the guidance scale or set clip, and check the denoiser"
        )


@dataclass(frozen=True)
class SinglePass:
    """A generator's one call, as a `hybridgen.protocols.Sampler`.

    Attributes:
        generator: `(noise [b latent], label) -> samples`.
        noise_shape: of one sample, `(latent,)`.
    """

    generator: Generator
    noise_shape: tuple[int, ...]

    @property
    def cost(self) -> Cost:
        """Network calls of one sample."""
        return Cost(generator=1)

    @torch.no_grad()
    def __call__(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        check_noise(noise, self.noise_shape)
        return self.generator(noise, label)
