"""What a discriminator must be to have an adversarial loss; all refusals are `ValueError`."""

import inspect
import math

import torch
from einops import reduce
from torch import Tensor, nn


def check_weights(**weights: float) -> None:
    """Refuse a penalty weight that is negative or not finite."""
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"the penalty weight {name} must be finite and >= 0, got {weight}")


def check_discriminator(discriminator: nn.Module) -> None:
    """Refuse a discriminator that normalises across the batch or is called in another way."""
    for name, module in discriminator.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"the discriminator's layer {name!r} is a {type(module).__name__}: real and fake "
                "share one batch and a penalty needs each logit to depend on its own sample, so "
                "use no normalisation, GroupNorm or spectral_norm instead"
            )
    signature = inspect.signature(discriminator.forward)
    try:
        signature.bind("x", "sigma", "label")
    except TypeError:
        raise ValueError(
            f"a discriminator is called as (x, sigma, label) and "
            f"{type(discriminator).__name__}.forward takes {signature}: wrap a discriminator that "
            "knows neither in hybridgen.Unconditional(discriminator)"
        ) from None


def check_finite_difference(step: float | None, *, augmented: bool) -> None:
    """Refuse an impossible step, and a random augmentation between the two points compared."""
    if step is not None and not 0 < step < math.inf:
        raise ValueError(f"finite_difference is a step > 0 in data units, got {step}")
    if step is not None and augmented:
        raise ValueError(
            "finite differences compare one discriminator at two close points, and a random "
            "augmentation moves them apart: leave out finite_difference or augment"
        )


class Unconditional(nn.Module):
    """`discriminator(x)` with the signature `(x, sigma, label)`; sigma and label are ignored.

    A discriminator that returns a map of patch logits `[b 1 h w]` is averaged to one logit a
    sample, so PatchGAN discriminators fit as they are. Such a discriminator cannot guide a sampler:
    it does not know how noisy its input is.

    Args:
        discriminator: any module `x [b ...] -> [b]`, `[b 1]` or `[b ...]`.
    """

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        logits: Tensor = self.discriminator(x)
        if logits.ndim == 0 or len(logits) != len(x):
            raise ValueError(
                f"the wrapped discriminator must return logits of {len(x)} samples, got a tensor "
                f"of shape {list(logits.shape)}: do not reduce over the batch"
            )
        return reduce(logits, "b ... -> b", torch.mean) if logits.ndim > 1 else logits
