"""The adversarial loss, for a GAN or as an extra term on any other model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hybridgen.losses.discriminators import (
    check_discriminator,
    check_finite_difference,
    check_logits,
    check_pair,
    check_weights,
)
from hybridgen.losses.precision import full_precision, twice_differentiable
from hybridgen.maths.objectives import Objective, relativistic
from hybridgen.maths.penalties import (
    interpolates,
    one_centred,
    squared_gradient_norm,
    squared_slope,
)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients flow through `module` without collecting any in its own parameters."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)


class AdversarialLoss(nn.Module):
    """A discriminator, the game it plays, and how smooth it is kept.

    `forward` is the loss of this module's own parameters, the discriminator's: wrap the whole
    object with `accelerator.prepare` and gradients are synchronised. `generator_loss` is what it
    lends to another model: it trains nothing in here, and is called on the unwrapped object.

    The discriminator here compares what `real` and `fake` are given to it. A discriminator that
    guides a sampler has to be trained on that sampler's finished outputs at every noise level
    instead.

    Losses are computed in float32 whatever autocast says. In its own loss a discriminator that is
    penalised runs in float32 too (a slope in bfloat16 has three digits, and its square fewer), and
    attends by plain products if its exact gradient is: fused kernels have no double backward.

    Args:
        discriminator: see `hybridgen.protocols.Discriminator`.
        objective: the game; `relativistic` if not given.
        r1, r2: weights of the squared gradient on real and on generated samples; each counts as
            `weight / 2 * E |grad|^2` (Mescheder et al. 2018, arXiv:1801.04406).
        gp: weight of the one-centred penalty between them (arXiv:1704.00028).
        finite_difference: the step e, in units of the data, by which R1 and R2 are estimated
            without a double backward; exact gradients if `None`.
        float32: run the discriminator's own loss in float32 even if nothing is penalised, as a
            guide needs, whose slope is used.
        augment: applied to real and fake alike before the discriminator sees them, in both players'
            losses; penalties are taken with respect to the samples before it.

    The four numbers may be changed between steps, by a schedule for example.

    Raises:
        ValueError: a negative weight, a discriminator that normalises across the batch or whose
            forward does not take `(x, sigma, label)`, finite differences through an augmentation.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        objective: Objective = relativistic,
        *,
        r1: float = 0.0,
        r2: float = 0.0,
        gp: float = 0.0,
        finite_difference: float | None = None,
        float32: bool = False,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        check_weights(r1=r1, r2=r2, gp=gp)
        check_discriminator(discriminator)
        check_finite_difference(finite_difference, augmented=augment is not None)
        self.discriminator = discriminator
        self.objective = objective
        self.r1, self.r2, self.gp = r1, r2, gp
        self.finite_difference, self.float32 = finite_difference, float32
        self.augment = augment

    @property
    def penalised(self) -> bool:
        """Whether any penalty has weight."""
        return max(self.r1, self.r2, self.gp) > 0

    @property
    def twice_differentiated(self) -> bool:
        """Whether the discriminator must admit a double backward."""
        return self.twice_differentiated_at(max(self.r1, self.r2))

    def twice_differentiated_at(self, weight: float) -> bool:
        """The same where the heavier of r1 and r2, which a schedule may change, has `weight`."""
        return self.gp > 0 or (self.finite_difference is None and weight > 0)

    def forward(
        self,
        real: Tensor,
        fake: Tensor,
        sigma: Tensor | None = None,
        label: Tensor | None = None,
        *,
        fake_label: Tensor | None = None,
        rng: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The discriminator's loss on paired batches: `total`, which has gradients, and its parts.

        One call of the discriminator on real and fake stacked: the two halves see the same weights,
        one gradient call yields both penalties, and distributed training sees one forward pass.

        Args:
            real, fake: `[b ...]`, of one shape; gradients into them are cut.
            sigma: `[b]`, the noise level at which they are compared; zeros if not given.
            label: `[b]`, shared by both halves.
            fake_label: `[b]`, of the fake half where it differs.
            rng: draws the directions of finite differences and GP's interpolates.

        Returns:
            Scalars: `total`, `adversarial`, the unweighted penalties in use (`r1` and `r2` if
            either has weight, `gp`), the mean logits `logit_real` and `logit_fake`, and
            `sign_accuracy`, the mean sign of real minus fake logits: 0 where the discriminator
            cannot tell them apart, 1 where it always can. Unlike the sign of the real logits it
            means the same in games that know only differences.
        """
        check_pair(real, fake)
        precise = self.penalised or self.float32
        with (
            full_precision(real, inside=precise),
            twice_differentiable(self.twice_differentiated),
        ):
            x = torch.cat([real, fake.to(real.dtype)]).detach()
            x = _full(x) if precise else x
            parts = self._parts(x, _stacked(sigma), _stacked(label, fake_label), rng)
        total = parts["adversarial"]
        for name in ("r1", "r2"):
            if name in parts:
                total = total + getattr(self, name) / 2 * parts[name]
        if "gp" in parts:
            total = total + self.gp * parts["gp"]
        return {"total": total, **{name: part.detach() for name, part in parts.items()}}

    def generator_loss(
        self,
        fake: Tensor,
        real: Tensor | None = None,
        sigma: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Tensor:
        """The scalar loss to add to a model that produced `fake` with gradients attached.

        Args:
            fake: `[b ...]`.
            real: `[b ...]`, needed by relativistic games only; gets no gradient.
            sigma, label: `[b]`, as in `forward`.
        """
        if real is not None:
            check_pair(real, fake)
        with frozen(self):
            fake_logits = self._logits(fake, sigma, label)
            real_logits = None
            if self.objective.relativistic and real is not None:
                with torch.no_grad():
                    real_logits = self._logits(real, sigma, label)
        return self.objective.generator(fake_logits, real_logits).mean()

    def _parts(
        self, x: Tensor, sigma: Tensor | None, label: Tensor | None, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        slopes = max(self.r1, self.r2) > 0
        exact = slopes and self.finite_difference is None
        x = x.requires_grad_(exact)
        if slopes and self.finite_difference is not None:
            noise = torch.randn(x.shape, generator=rng, device=x.device, dtype=x.dtype)
            both = torch.cat([x, x + self.finite_difference * noise])
            logits, moved = self._logits(both, _stacked(sigma), _stacked(label)).chunk(2)
            norms = squared_slope(logits, moved, self.finite_difference)
        else:
            logits = self._logits(x, sigma, label)
            norms = squared_gradient_norm(logits, x) if exact else None
        on_real, on_fake = logits.chunk(2)
        parts = {"adversarial": self.objective.discriminator(on_real, on_fake).mean()}
        if norms is not None:
            r1, r2 = norms.chunk(2)
            parts |= {"r1": r1.mean(), "r2": r2.mean()}
        if self.gp > 0:
            parts["gp"] = self._one_centred(x.detach(), sigma, label, rng)
        on_real, on_fake = on_real.detach(), on_fake.detach()
        parts |= {"logit_real": on_real.mean(), "logit_fake": on_fake.mean()}
        parts["sign_accuracy"] = (on_real - on_fake).sign().mean()
        return parts

    def _one_centred(
        self, x: Tensor, sigma: Tensor | None, label: Tensor | None, rng: torch.Generator | None
    ) -> Tensor:
        real, fake = x.chunk(2)
        mix = torch.rand(len(real), generator=rng, device=x.device, dtype=x.dtype)
        between = interpolates(real, fake, mix).requires_grad_(True)
        logits = self._logits(between, _half(sigma), _half(label))
        return one_centred(logits, between).mean()

    def _logits(self, x: Tensor, sigma: Tensor | None, label: Tensor | None) -> Tensor:
        if sigma is None:
            sigma = x.new_zeros(len(x))
        seen = x if self.augment is None else self.augment(x)
        logits = self.discriminator(seen, sigma, label)
        check_logits(logits, len(x))
        return _full(logits)


def _full(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _stacked(x: Tensor | None, other: Tensor | None = None) -> Tensor | None:
    return None if x is None else torch.cat([x, x if other is None else other])


def _half(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.chunk(2)[0]
