"""The adversarial loss, for a GAN or as an extra term on any other model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hybridgen.losses.discriminators import (
    check_discriminator,
    check_finite_difference,
    check_weights,
)
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
    """A discriminator, its objective, and how smooth it is kept.

    `forward` is the loss of this module's own parameters, the discriminator's: wrap the whole
    object with `accelerator.prepare` and gradients are synchronised. `generator_loss` is what it
    lends to another model: it trains nothing in here, and is called on the unwrapped object.

    The discriminator here learns to tell apart the `real` and `fake` batches given to it. A
    discriminator that guides a sampler has to be trained on that sampler's finished outputs at
    every noise level instead.

    Losses are computed in float32 whatever autocast says. In its own loss a discriminator that is
    penalised runs in float32 too (a slope in bfloat16 has three digits, and its square fewer), and
    attends by plain products if its exact gradient is: fused kernels have no double backward.

    Args:
        discriminator: see `hybridgen.protocols.Discriminator`.
        objective: what both minimise; `relativistic` if not given.
        r1, r2: weights of the squared gradient on real and on generated samples; each counts as
            `weight / 2 * E |grad|^2` (Mescheder et al. 2018, arXiv:1801.04406).
        gp: weight of the one-centred penalty between them (arXiv:1704.00028).
        finite_difference: the step e, in units of the data, by which R1 and R2 are estimated
            without a double backward; exact gradients if `None`.
        float32: run the discriminator's own loss in float32 even if nothing is penalised, as a
            guide needs, whose slope is used.
        augment: applied to real and fake alike before the discriminator sees them, in both players'
            losses; penalties are taken with respect to the samples before it.

    `r1`, `r2`, `gp` and `finite_difference` may be changed between steps, by a schedule for
    example.

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
            fake_label: `[b]`, of the fake half where it differs; not with GP.
            rng: draws the directions of finite differences and GP's interpolates.

        Returns:
            Scalars: `total`, `adversarial`, the unweighted penalties in use (`r1` and `r2` if
            either has weight, `gp`), the mean logits `logit_real` and `logit_fake`, and
            `sign_accuracy`, the mean sign of real minus fake logits: 0 where the discriminator
            cannot tell them apart, 1 where it always can. Unlike the sign of the real logits it
            means the same for objectives that know only differences.
        """
        if fake_label is not None and (label is None or label.shape != fake_label.shape):
            shape = None if label is None else list(label.shape)
            raise ValueError(
                "label and fake_label are of the two halves of a batch and must have one shape, "
                f"got {shape} and {list(fake_label.shape)}: give both, or label alone for both"
            )
        if fake_label is not None and self.gp > 0:
            raise ValueError(
                f"gp needs one label a pair, which its interpolates share, got gp={self.gp} and "
                "fake_label: leave one of them out"
            )
        check_pair(real, fake)
        penalised = max(self.r1, self.r2) > 0
        double_backward = penalised and self.finite_difference is None
        in_float32 = penalised or self.gp > 0 or self.float32
        device = real.device.type
        autocast = torch.is_autocast_enabled(device) and not in_float32
        # Fused attention has no double backward: https://github.com/pytorch/pytorch/issues/116350
        attention = (
            sdpa_kernel(SDPBackend.MATH) if double_backward or self.gp > 0 else nullcontext()
        )
        with torch.autocast(device, enabled=autocast), attention:
            x = torch.cat([real, fake.to(real.dtype)]).detach()
            x = x.to(torch.promote_types(x.dtype, torch.float32)) if in_float32 else x
            sigma = None if sigma is None else torch.cat([sigma, sigma])
            if label is not None:
                label = torch.cat([label, label if fake_label is None else fake_label])
            if penalised and not double_backward:
                logits, norms = self._finite_differences(x, sigma, label, rng)
            else:
                logits = self._logits(x.requires_grad_(double_backward), sigma, label)
                norms = squared_gradient_norm(logits, x) if double_backward else None
            on_real, on_fake = logits.chunk(2)
            parts = {"adversarial": self.objective.discriminator(on_real, on_fake).mean()}
            if norms is not None:
                parts["r1"], parts["r2"] = (norm.mean() for norm in norms.chunk(2))
            if self.gp > 0:
                parts["gp"] = self._one_centred(x.detach(), sigma, label, rng)
        total = parts["adversarial"]
        for name, weight in (("r1", self.r1 / 2), ("r2", self.r2 / 2), ("gp", self.gp)):
            if name in parts:
                total = total + weight * parts[name]
        parts |= {"logit_real": on_real.mean(), "logit_fake": on_fake.mean()}
        parts["sign_accuracy"] = (on_real - on_fake).sign().mean()
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
            real: `[b ...]`, needed by relativistic objectives only; gets no gradient.
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

    def _finite_differences(
        self, x: Tensor, sigma: Tensor | None, label: Tensor | None, rng: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The logits and their estimated squared slopes, `[b]` each, in one call."""
        step = self.finite_difference or 0.0
        noise = torch.randn(x.shape, generator=rng, device=x.device, dtype=x.dtype)
        sigma, label = (None if t is None else torch.cat([t, t]) for t in (sigma, label))
        logits, moved = self._logits(torch.cat([x, x + step * noise]), sigma, label).chunk(2)
        return logits, squared_slope(logits, moved, step)

    def _one_centred(
        self, x: Tensor, sigma: Tensor | None, label: Tensor | None, rng: torch.Generator | None
    ) -> Tensor:
        real, fake = x.chunk(2)
        sigma, label = (None if t is None else t.chunk(2)[0] for t in (sigma, label))
        mix = torch.rand(len(real), generator=rng, device=x.device, dtype=x.dtype)
        between = interpolates(real, fake, mix).requires_grad_(True)
        return one_centred(self._logits(between, sigma, label), between).mean()

    def _logits(self, x: Tensor, sigma: Tensor | None, label: Tensor | None) -> Tensor:
        """One logit a sample, in float32 or better; sigma is 0 if not given."""
        sigma = x.new_zeros(len(x)) if sigma is None else sigma
        logits = self.discriminator(x if self.augment is None else self.augment(x), sigma, label)
        check_logits(logits, len(x))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def check_pair(real: Tensor, fake: Tensor) -> None:
    """Refuse real and fake batches of different shapes with a `ValueError`."""
    if real.shape != fake.shape:
        raise ValueError(
            f"real and fake are compared in pairs and must have one shape, got "
            f"{list(real.shape)} and {list(fake.shape)}"
        )


def check_logits(logits: Tensor, samples: int) -> None:
    """Refuse a discriminator's answer that is not one logit a sample with a `ValueError`."""
    if logits.shape != (samples,):
        raise ValueError(
            f"a discriminator returns one logit a sample, [{samples}], and this one returned "
            f"{list(logits.shape)}: average or flatten it, or wrap the discriminator in "
            "hybridgen.Unconditional, which does"
        )
