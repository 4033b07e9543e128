"""Samplers written here: EDM's Heun, with or without churn, and a generator's single pass."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from hybridgen.errors import RunError
from hybridgen.maths.rng import rng_for, rng_from
from hybridgen.networks.blocks import in_chunks
from hybridgen.protocols import Cost, Denoiser, Generator, Sampler
from hybridgen.sampling.guidance import at_level, cost_of

AT_ONCE = 500
"""Samples that are made at a time."""


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
        churn_levels: `S_min` and `S_max`: the lowest and the highest sigma from which it does.
        churn_noise: `S_noise`: the standard deviation of that noise, in units of what is missing;
            a little above 1 makes up for detail that a denoiser takes away.
    """

    denoiser: Denoiser
    noise_shape: tuple[int, ...]
    sigmas: Tensor
    churn: float = 0.0
    churn_levels: tuple[float, float] = field(default=(0.0, math.inf), kw_only=True)
    churn_noise: float = field(default=1.0, kw_only=True)

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
        low, high = self.churn_levels
        if not 0 <= low <= high:
            raise ValueError(f"churn_levels are (low, high), 0 <= low <= high, got {low}, {high}")
        if not 0 < self.churn_noise < math.inf:
            raise ValueError(f"churn_noise must be positive and finite, got {self.churn_noise}")

    @property
    def cost(self) -> Cost:
        """Network calls of one sample, those of every discriminator that guides included."""
        levels = self.sigmas.tolist()[:-1]
        visited = [self._raised(level) for level in levels] + levels[1:]
        return sum((cost_of(self.denoiser, level) for level in visited), Cost())

    @torch.no_grad()
    def __call__(
        self, noise: Tensor, label: Tensor | None = None, *, image: Tensor | None = None
    ) -> Tensor:
        """`noise [b *noise_shape]`, standard normal; `label [b]` -> samples `[b *noise_shape]`.

        Args:
            image: `[b *noise_shape]`, clean, to which the first level's noise is added, see
                `Scheduled`.

        Raises:
            ValueError: noise of another shape.
            RunError: the samples stopped being finite; the message names the step.
        """
        check_noise(noise, self.noise_shape)
        levels = self.sigmas.tolist()
        x = noise.to(torch.promote_types(noise.dtype, torch.float32)) * levels[0]
        if image is not None:
            check_noise(image, self.noise_shape)
            x = x + image.to(x)
        draws, finite = rng_from(noise) if self.churn else None, []
        for now, after in pairwise(levels):
            x = self.step(x, now, after, label, draws)
            finite.append(torch.isfinite(x).all())
        check_samples(finite, levels)
        return x.to(noise.dtype)

    def step(
        self,
        x: Tensor,
        now: float,
        after: float,
        label: Tensor | None,
        draws: torch.Generator | None,
    ) -> Tensor:
        """From `x [b ...]` at one level to the next; `draws` the noise of the churn."""
        start = self._raised(now)
        if draws is not None:
            fresh = torch.randn(x.shape, generator=draws, device=x.device, dtype=x.dtype)
            x = x + self.churn_noise * math.sqrt(start**2 - now**2) * fresh
        slope = self._slope(x, start, label)
        ahead = x + (after - start) * slope
        if after > 0:
            slope = (slope + self._slope(ahead, after, label)) / 2
        return x + (after - start) * slope

    def _raised(self, sigma: float) -> float:
        low, high = self.churn_levels
        if not low <= sigma <= high:
            return sigma
        return sigma * (1 + min(self.churn / (len(self.sigmas) - 1), math.sqrt(2) - 1))

    def _slope(self, x: Tensor, sigma: float, label: Tensor | None) -> Tensor:
        precise = torch.promote_types(x.dtype, torch.float32)
        level = torch.full((len(x),), sigma, dtype=precise, device=x.device)
        return (x - at_level(self.denoiser, sigma)(x, level, label)) / sigma


def draw_samples(
    sampler: Sampler,
    count: int,
    key: tuple[int | str, ...],
    *,
    like: Tensor,
    label: Tensor | None = None,
    rows: slice = slice(None),
) -> Tensor:
    """`count` samples on the CPU, 500 at a time, from the standard normal noise `key` names.

    Args:
        like: a tensor of the type and on the device that the model computes with.
        label: `[count]`.
        rows: those of the samples that are made, see `share_of_samples`.
    """
    noise = torch.randn(count, *sampler.noise_shape, generator=rng_for(*key))[rows].to(like)
    label = None if label is None else label[rows].to(like.device)
    return in_chunks(sampler, noise, label, size=AT_ONCE).cpu()


def share_of_samples(count: int, rank: int, world: int) -> slice:
    """The rows of `draw_samples` that one of several processes makes.

    Batches stay what they are for one process, because samplers that draw more noise are functions
    of a whole batch of it. Of all but the last process that has any, `size` rows, where
    `size = AT_ONCE ceil(batches / world)`; one that has none makes the first sample in vain.
    """
    batches = -(-count // AT_ONCE)
    size = AT_ONCE * -(-batches // world)
    rows = slice(rank * size, min((rank + 1) * size, count))
    return rows if rows.start < count else slice(0, 1)


def check_noise(noise: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse noise that is not `[b *shape]`, or not of real numbers, with a `ValueError`."""
    if tuple(noise.shape[1:]) != shape or not noise.is_floating_point():
        raise ValueError(
            f"expected noise of shape [b, *{list(shape)}], got {list(noise.shape)} of {noise.dtype}"
        )


def check_samples(finite: Sequence[Tensor], sigmas: Sequence[float]) -> None:
    """Refuse samples that stopped being finite with a `RunError` that names step and level.

    Called once, at the end, because an accelerator has to be waited for.

    Args:
        finite: whether all samples were after each step, scalars.
        sigmas: the noise level before each step.
    """
    answers = torch.stack(list(finite)).tolist()
    if not all(answers):
        step = answers.index(False)
        raise RunError(
            f"samples stopped being finite at step {step + 1} of {len(answers)} (sigma "
            f"{sigmas[step]:.4g}): lower the guidance scale or set clip, and check the denoiser"
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
