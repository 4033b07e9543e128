"""The signatures that all parts agree on, and what a sample costs.

Shapes are in einops notation: `[b]` one number a sample, `[b ...]` a batch of points or images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

Logits = Tensor | Sequence[Tensor]
"""`[b]`, one number a sample; `[b ...]`, a map of patches; or several of these, of several
discriminators or scales."""
Features = Sequence[Tensor] | Sequence[Sequence[Tensor]]
"""Hidden layers, `[b ...]` each, outermost last; or one list of them for each discriminator."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Calls that one sample takes; fractions where it is their expected number that is known.

    Attributes:
        denoiser: evaluations of a denoising network.
        generator: evaluations of a generator.
        discriminator_forward: evaluations of a discriminator.
        discriminator_backward: gradients of a discriminator with respect to its input.
    """

    denoiser: float = 0
    generator: float = 0
    discriminator_forward: float = 0
    discriminator_backward: float = 0

    @property
    def calls(self) -> float:
        """Of the networks that make samples: discriminators are not counted."""
        return self.denoiser + self.generator

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(**{name: calls + getattr(other, name) for name, calls in vars(self).items()})

    def __mul__(self, times: float) -> "Cost":
        return Cost(**{name: times * calls for name, calls in vars(self).items()})


class Answer(NamedTuple):
    """What a discriminator hands back that has features to be matched beside its logits."""

    logits: Logits
    features: Features = ()


class Discriminator(Protocol):
    """How real a sample looks: the logit is positive where the discriminator believes "real".

    One signature serves a GAN (sigma 0), an auxiliary loss (the level at which it compares)
    and guidance (the sampler's level), so the same code calls them all; a guide must also know
    sigma and be trained as one.

    An adversarial loss takes more: a map of patches `[b ...]`, several discriminators' logits in a
    list, an `Answer`, and a `condition` (a tensor, or a tuple or dict of them, `[b ...]` each) that
    is the fourth argument where the caller has one. A guide answers one logit a sample.
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
    def cost(self) -> Cost:
        """Every network call of one sample, those of discriminators included."""
        ...

    def __call__(self, noise: Tensor, label: Tensor | None = None, /) -> Tensor:
        """`noise [b *noise_shape]`, `label [b]` -> samples `[b ...]`, without gradients."""
        ...
