"""A guide's second objective; the first is `AdversarialLoss` of `non_saturating`.

The best discriminator of either is a log density ratio at every noise level, up to a number, and
`d logit / d x = score_p - score_q` is what guidance adds to a model's score. The adversarial loss,
on real and generated samples with the same noise, learns it from samples of both sides, and so
knows the logit itself too. Score matching learns it from real samples and the model's denoiser,
without generated samples: its logit is right up to a number that depends on sigma (and the label)
alone.
"""

import torch
from einops import reduce
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hybridgen.losses.answers import one_logit
from hybridgen.losses.denoising import noised
from hybridgen.losses.discriminators import check_discriminator
from hybridgen.maths.noise import like
from hybridgen.maths.penalties import input_gradient
from hybridgen.protocols import Denoiser, Discriminator


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
    # In full precision, and without fused attention, which has no double backward.
    autocast, attention = torch.autocast(x.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH)
    with torch.enable_grad(), autocast, attention:
        x = x.to(torch.promote_types(x.dtype, torch.float32)).requires_grad_(True)
        logits = one_logit(discriminator(x, sigma, label), len(x))
        slope = input_gradient(logits, x)
    error = (estimate - real) / like(sigma, x) + like(sigma, x) * slope
    return reduce(error.square(), "b ... -> b", "mean")


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
