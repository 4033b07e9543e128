"""What discriminator and generator of a GAN minimise, as pure functions of logits.

A logit is positive where the discriminator believes "real". Every loss is per logit, of any shape,
so the caller decides how to reduce it. To add one, write one more `Objective` here: a module-level
instance is found by its variable name, so there is nothing to register.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """Losses that face each other, each a function of logits, entry by entry.

    Attributes:
        real_loss, fake_loss: minimised by the discriminator on real and on fake logits.
        generator_loss: minimised by the generator on fake logits.
        relativistic: each gets the difference to the other side's logit at its place instead:
            `real - fake` in `real_loss`, `fake - real` in the other two.
    """

    real_loss: Loss
    fake_loss: Loss
    generator_loss: Loss
    relativistic: bool = False

    def discriminator(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """The losses of real and of fake logits, of different sizes unless `relativistic`."""
        if self.relativistic:
            real, fake = real - fake, fake - real
        return self.real_loss(real), self.fake_loss(fake)

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator's loss of fake logits; `real` is needed if `relativistic`.

        Raises:
            ValueError: a relativistic game without real logits.
        """
        if not self.relativistic:
            return self.generator_loss(fake)
        if real is None:
            raise ValueError(
                "a relativistic game compares fake logits with real ones and got real=None: "
                "pass a batch of real samples, or take another game (objectives.non_saturating)"
            )
        return self.generator_loss(fake - real)


def smoothed(objective: Objective, share: float) -> Objective:
    """One-sided label smoothing: real samples count as fake ones to a share.

    `(1 - share) real_loss + share fake_loss` on real logits. Of cross-entropy this is the target
    `1 - share`, and of least squares too, up to a constant.
    Source: Salimans et al. 2016, arXiv:1606.03498, section 3.4.

    Raises:
        ValueError: a share outside [0, 1), or a relativistic objective, which has no labels.
    """
    if not 0 <= share < 1 or objective.relativistic:
        game = "a relativistic game" if objective.relativistic else "a game with labels"
        raise ValueError(
            f"smoothing takes a share in [0, 1) of a game with labels, got {share} of {game}"
        )
    return replace(objective, real_loss=_mixed(objective.real_loss, objective.fake_loss, share))


def flipped(objective: Objective, share: float) -> Objective:
    """A share of the discriminator's labels exchanged, in expectation and so without noise.

    `(1 - share) real_loss + share fake_loss` on real logits, and the reverse on fake ones. Of a
    relativistic objective, whose logits are differences, the two samples of a pair are exchanged.

    Raises:
        ValueError: a share outside [0, 1/2), where labels would say nothing or the opposite.
    """
    if not 0 <= share < 0.5:
        raise ValueError(f"a share of flipped labels is in [0, 1/2), got {share}")
    real, fake = objective.real_loss, objective.fake_loss
    return replace(
        objective, real_loss=_mixed(real, fake, share), fake_loss=_mixed(fake, real, share)
    )


def _mixed(loss: Loss, other: Loss, share: float) -> Loss:
    return lambda logits: (1 - share) * loss(logits) + share * other(logits)


def _logistic_real(real: Tensor) -> Tensor:
    """`softplus(-real)`; with `_logistic_fake` the least mean is `2 log 2 - 2 JS(p, q)`.

    Source: Goodfellow et al. 2014, arXiv:1406.2661, equation 1, negated and on logits. As the
    generator's loss it is the non-saturating one (section 3): strong gradients while the
    discriminator still wins. Of `real - fake` it is the relativistic one (Jolicoeur-Martineau 2018,
    arXiv:1807.00734; Huang et al. 2024, arXiv:2501.05441).
    """
    return F.softplus(-real)


def _logistic_fake(fake: Tensor) -> Tensor:
    """`softplus(fake)`."""
    return F.softplus(fake)


def _minimax_generator(fake: Tensor) -> Tensor:
    """`-softplus(fake)`: the discriminator's value with the opposite sign; weak once it wins."""
    return -F.softplus(fake)


def _hinge_real(real: Tensor) -> Tensor:
    """`relu(1 - real)`. Source: Lim & Ye 2017, arXiv:1705.02894."""
    return F.relu(1 - real)


def _hinge_fake(fake: Tensor) -> Tensor:
    """`relu(1 + fake)`."""
    return F.relu(1 + fake)


def _to_one(logits: Tensor) -> Tensor:
    """`(logit - 1)^2`: least squares, on real logits, and on fake ones for the generator.

    Twice the source's, which halves all terms, so a penalty of equal weight counts half as much.
    Source: Mao et al. 2016, arXiv:1611.04076, equation 2.
    """
    return (logits - 1).square()


def _to_zero(fake: Tensor) -> Tensor:
    """`fake^2`: least squares, see `_to_one`."""
    return fake.square()


def _down(logits: Tensor) -> Tensor:
    """`-logit`: of real ones, Wasserstein's; of fake ones, the generator climbs the discriminator.

    Bounded only if the discriminator is kept Lipschitz (a gradient penalty).
    Source: Arjovsky et al. 2017, arXiv:1701.07875.
    """
    return -logits


def _up(fake: Tensor) -> Tensor:
    """The fake logit itself: Wasserstein's."""
    return +fake


minimax = Objective(_logistic_real, _logistic_fake, _minimax_generator)
non_saturating = Objective(_logistic_real, _logistic_fake, _logistic_real)
hinge = Objective(_hinge_real, _hinge_fake, _down)
least_squares = Objective(_to_one, _to_zero, _to_one)
wasserstein = Objective(_down, _up, _down)
relativistic = Objective(_logistic_real, torch.zeros_like, _logistic_real, relativistic=True)


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
