"""What discriminator and generator of a GAN minimise, as pure functions of logits.

A logit is positive where the discriminator believes "real". Every loss is per sample, so the caller
decides how to reduce it. To add one, write one more `Objective` here: a module-level
instance is found by its variable name, so there is nothing to register.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """Two per-sample losses that face each other.

    Attributes:
        discriminator: `(real, fake) -> loss`, minimised by the discriminator; all `[b]`.
        generator: `(fake, real) -> loss`, minimised by the generator; all `[b]`. `real` is `None`
            unless `relativistic`.
        relativistic: whether the generator's loss compares fake logits with real ones.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor | None], Tensor]
    relativistic: bool = False


def _logistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """`softplus(-real) + softplus(fake)`; its least mean is `2 log 2 - 2 JS(p, q)`.

    Source: Goodfellow et al. 2014, arXiv:1406.2661, equation 1, negated and on logits.
    """
    return F.softplus(-real) + F.softplus(fake)


def _minimax_generator(fake: Tensor, real: Tensor | None) -> Tensor:
    """`-softplus(fake)`: the discriminator's value with the opposite sign; weak once it wins."""
    return -F.softplus(fake)


def _non_saturating_generator(fake: Tensor, real: Tensor | None) -> Tensor:
    """`softplus(-fake)`: strong gradients while the discriminator still wins.

    Source: Goodfellow et al. 2014, arXiv:1406.2661, section 3.
    """
    return F.softplus(-fake)


def _hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """`relu(1 - real) + relu(1 + fake)`. Source: Lim & Ye 2017, arXiv:1705.02894."""
    return F.relu(1 - real) + F.relu(1 + fake)


def _linear_generator(fake: Tensor, real: Tensor | None) -> Tensor:
    """`-fake`: the generator climbs the discriminator; for hinge and Wasserstein."""
    return -fake


def _least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """`(real - 1)^2 + fake^2`: twice the source's, which halves both terms, so a penalty of equal
    weight counts half as much. Source: Mao et al. 2016, arXiv:1611.04076, equation 2."""
    return (real - 1).square() + fake.square()


def _least_squares_generator(fake: Tensor, real: Tensor | None) -> Tensor:
    """`(fake - 1)^2`, twice the source's. Source: Mao et al. 2016, arXiv:1611.04076, equation 2."""
    return (fake - 1).square()


def _wasserstein_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """`fake - real`; bounded only if the discriminator is kept Lipschitz (a gradient penalty).

    Source: Arjovsky et al. 2017, arXiv:1701.07875.
    """
    return fake - real


def _relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """`softplus(-(real - fake))`, real and fake paired by position.

    Source: Jolicoeur-Martineau 2018, arXiv:1807.00734; Huang et al. 2024, arXiv:2501.05441.
    """
    return F.softplus(fake - real)


def _relativistic_generator(fake: Tensor, real: Tensor | None) -> Tensor:
    """The discriminator's loss with the roles exchanged."""
    if real is None:
        raise ValueError(
            "a relativistic game compares fake logits with real ones and got real=None: "
            "pass a batch of real samples, or take another game (objectives.non_saturating)"
        )
    return F.softplus(real - fake)


minimax = Objective(_logistic_discriminator, _minimax_generator)
non_saturating = Objective(_logistic_discriminator, _non_saturating_generator)
hinge = Objective(_hinge_discriminator, _linear_generator)
least_squares = Objective(_least_squares_discriminator, _least_squares_generator)
wasserstein = Objective(_wasserstein_discriminator, _linear_generator)
relativistic = Objective(_relativistic_discriminator, _relativistic_generator, relativistic=True)


def by_name() -> dict[str, Objective]:
    """Every objective of this module by its variable's name."""
    return {name: value for name, value in globals().items() if isinstance(value, Objective)}


def objective(name: str) -> Objective:
    """The objective whose variable in this module is called `name`.

    Raises:
        ValueError: no such objective; the message lists those there are.
    """
    available = by_name()
    if name not in available:
        raise ValueError(f"no objective {name!r}; there are {', '.join(sorted(available))}")
    return available[name]
