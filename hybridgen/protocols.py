"""The signatures that every part of the house agrees on; no behaviour.

Shapes are in einops notation: `[b]` one number a sample, `[b ...]` a batch of points or images.
"""

from typing import Protocol

from torch import Tensor

from hybridgen.maths.cost import Cost


class Discriminator(Protocol):
    """How real a sample looks: the logit is positive where the critic believes "real".

    One signature serves a GAN (sigma 0), an auxiliary loss (the level at which it compares)
    and guidance (the sampler's level), so every critic can be handed to all three.
    """

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, /) -> Tensor:
        """`x [b ...]`, `sigma [b]` (noise added to x, VE scale), `label [b]` -> logits `[b]`."""
        ...


class Denoiser(Protocol):
    """The mean of clean data given noisy data, `E[x0 | x0 + sigma n = x]`."""

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, /) -> Tensor:
        """`x [b ...]` in variance-exploding scale, `sigma [b]`, `label [b]` -> x0 `[b ...]`."""
        ...


class Generator(Protocol):
    """A map from latents to samples in one pass."""

    def __call__(self, noise: Tensor, label: Tensor | None = None, /) -> Tensor:
        """`noise [b latent]`, `label [b]` -> samples `[b ...]`."""
        ...


class Sampler(Protocol):
    """Anything that turns noise into samples and says what one sample costs."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """The shape of one sample's noise."""
        ...

    @property
    def calls(self) -> float:
        """Denoiser or generator calls that one sample costs; critics are not counted."""
        ...

    @property
    def cost(self) -> Cost:
        """Every network call of one sample, those of critics included."""
        ...

    def __call__(self, noise: Tensor, label: Tensor | None = None, /) -> Tensor:
        """`noise [b *noise_shape]`, `label [b]` -> samples `[b ...]`, without gradients."""
        ...
