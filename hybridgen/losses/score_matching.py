"""What a guide minimises: objectives whose best discriminator is a log density ratio at every
noise level.

Either leads to `d logit / d x = score_p - score_q`, which is what guidance adds to a model's score.
Cross-entropy learns it from samples of both sides, and so knows the logit itself too. Score
matching learns it from real samples and the model's denoiser, without generated samples: its logit
is right up to a number that depends on sigma (and the label) alone.
"""

import torch
from einops import reduce
from torch import Tensor, nn

from hybridgen.losses.denoising import noised
from hybridgen.losses.discriminators import (
    check_discriminator,
    check_logits,
    check_pair,
    check_weights,
)
from hybridgen.losses.precision import full_precision, twice_differentiable
from hybridgen.maths.noise import like
from hybridgen.maths.objectives import non_saturating
from hybridgen.maths.penalties import input_gradient, squared_gradient_norm
from hybridgen.protocols import Denoiser, Discriminator


def cross_entropy(
    discriminator: Discriminator,
    real: Tensor,
    fake: Tensor,
    sigma: Tensor,
    noise: Tensor,
    label: Tensor | None = None,
    fake_label: Tensor | None = None,
) -> Tensor:
    """`softplus(-logit(real_s)) + softplus(logit(fake_s))` in nats, `[b]`.

    Chance, a logit of 0, is `2 log 2 = 1.3863`; the least mean at level s is
    `2 log 2 - 2 JS(p_s, q_s)`, at `logit = log p_s - log q_s`.
    Source: Kim et al. 2023, arXiv:2211.17091, equation 7.

    Args:
        discriminator: called once, on real and fake stacked.
        real, fake: `[b ...]`, clean.
        sigma: `[b]`, shared by the pair.
        noise: `[b ...]`, shared by the pair: what differs is the samples alone.
        label: `[b]`, of the real samples.
        fake_label: `[b]`, of the fake ones; `label` if not given.
    """
    x, levels, labels = _stacked(real, fake, sigma, noise, label, fake_label)
    logits = discriminator(x, levels, labels)
    check_logits(logits, len(x))
    return non_saturating.discriminator(*logits.chunk(2))


def score_matching(
    discriminator: Discriminator,
    denoiser: Denoiser,
    real: Tensor,
    sigma: Tensor,
    noise: Tensor,
    label: Tensor | None = None,
) -> Tensor:
    """`|(D(x_s, s) - x) / s + s grad logit(x_s, s)|^2 / d` with `x_s = x + s n`, `[b]`.

    That is `s^2 |score_theta + grad logit + n / s|^2` a coordinate, for the model's score
    `(D(x_s, s) - x_s) / s^2`. At the minimum the gradient is `E[x - D(x_s) | x_s] / s^2`, the
    difference of the data's score and the model's. The weight s^2 keeps the target's noise at
    about 1 up to the scale of the data; one that kept it there above (EDM's) would ask for
    gradients of a size that the discriminator's rescaled input does not offer, and trains worse.
    Source: Verine et al. 2025, arXiv:2503.16117.

    Args:
        discriminator: smooth (`activation: silu`), differentiated twice.
        denoiser: of the model to be guided, `(x, sigma, label) -> x0`; gets no gradient.
        real: `[b ...]`, clean.
        sigma: `[b]`, positive.
        noise: `[b ...]`.
        label: `[b]`.
    """
    x = noised(real, sigma, noise).detach()
    with torch.no_grad():
        estimate = denoiser(x, sigma, label)
    with torch.enable_grad(), full_precision(x), twice_differentiable():
        x = x.to(torch.promote_types(x.dtype, torch.float32)).requires_grad_(True)
        logits = discriminator(x, sigma, label)
        check_logits(logits, len(x))
        slope = input_gradient(logits, x)
    error = (estimate - real) / like(sigma, x) + like(sigma, x) * slope
    return reduce(error.square(), "b ... -> b", "mean")


class CrossEntropy(nn.Module):
    """`cross_entropy` as the loss of a discriminator: `forward` trains what is in here.

    Args:
        discriminator: see `hybridgen.protocols.Discriminator`; it must look at sigma.
        r1, r2: weights of the squared gradient at noised real and generated samples; each counts
            as `weight / 2 * E |grad|^2`.
    """

    def __init__(self, discriminator: nn.Module, *, r1: float = 0.0, r2: float = 0.0) -> None:
        super().__init__()
        check_weights(r1=r1, r2=r2)
        check_discriminator(discriminator)
        self.discriminator = discriminator
        self.r1, self.r2 = r1, r2

    def forward(
        self,
        real: Tensor,
        fake: Tensor,
        sigma: Tensor,
        noise: Tensor,
        label: Tensor | None = None,
        fake_label: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Scalars `total`, `cross_entropy`, and the penalties `r1` and `r2` if either counts."""
        penalised = max(self.r1, self.r2) > 0
        with full_precision(real), twice_differentiable(penalised):
            x, levels, labels = _stacked(real, fake, sigma, noise, label, fake_label)
            x = x.detach().requires_grad_(penalised)
            logits = self.discriminator(x, levels, labels)
            check_logits(logits, len(x))
            total = non_saturating.discriminator(*logits.chunk(2)).mean()
            parts = {"cross_entropy": total.detach()}
            if penalised:
                r1, r2 = (norm.mean() for norm in squared_gradient_norm(logits, x).chunk(2))
                total = total + self.r1 / 2 * r1 + self.r2 / 2 * r2
                parts |= {"r1": r1.detach(), "r2": r2.detach()}
        return {"total": total, **parts}


class ScoreMatching(nn.Module):
    """`score_matching` as the loss of a discriminator: `forward` trains what is in here.

    Args:
        discriminator: smooth, and it must look at sigma.
        denoiser: of the model to be guided; not a part of this module, so nothing trains it.
    """

    def __init__(self, discriminator: nn.Module, denoiser: Denoiser) -> None:
        super().__init__()
        check_discriminator(discriminator)
        self.discriminator = discriminator
        self._denoiser = (denoiser,)  # in a tuple, where `parameters()` does not look

    def forward(
        self, real: Tensor, sigma: Tensor, noise: Tensor, label: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The scalar `total`."""
        (denoiser,) = self._denoiser
        loss = score_matching(self.discriminator, denoiser, real, sigma, noise, label).mean()
        # A bias that no slope depends on gets a gradient too, 0: distributed training waits for it.
        unused = sum(p.sum() for p in self.discriminator.parameters() if p.requires_grad)
        return {"total": loss + 0 * unused}


def _stacked(
    real: Tensor,
    fake: Tensor,
    sigma: Tensor,
    noise: Tensor,
    label: Tensor | None,
    fake_label: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    check_pair(real, fake)
    x = torch.cat([noised(real, sigma, noise), noised(fake, sigma, noise)])
    if label is None:
        return x, torch.cat([sigma, sigma]), None
    return (
        x,
        torch.cat([sigma, sigma]),
        torch.cat([label, label if fake_label is None else fake_label]),
    )
