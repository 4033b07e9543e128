"""What an adversarial loss refuses, each in one sentence that says what to do; all `ValueError`."""

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


def check_critic(critic: nn.Module) -> None:
    """Refuse a critic that normalises across the batch or is called in another way."""
    for name, module in critic.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"the critic's layer {name!r} is a {type(module).__name__}: real and fake share "
                "one batch and a penalty needs each logit to depend on its own sample, so use "
                "no normalisation, GroupNorm or spectral_norm instead"
            )
    signature = inspect.signature(critic.forward)
    try:
        signature.bind("x", "sigma", "label")
    except TypeError:
        raise ValueError(
            f"a critic is called as (x, sigma, label) and {type(critic).__name__}.forward takes "
            f"{signature}: wrap a critic that knows neither in hybridgen.Unconditional(critic)"
        ) from None


def check_pair(real: Tensor, fake: Tensor) -> None:
    """Refuse real and fake batches of different shapes."""
    if real.shape != fake.shape:
        raise ValueError(
            f"real and fake are compared in pairs and must have one shape, got "
            f"{list(real.shape)} and {list(fake.shape)}"
        )


def check_finite_difference(step: float | None, *, augmented: bool) -> None:
    """Refuse an impossible step, and a random augmentation between the two points compared."""
    if step is not None and not 0 < step < math.inf:
        raise ValueError(f"finite_difference is a step > 0 in data units, got {step}")
    if step is not None and augmented:
        raise ValueError(
            "finite differences compare one critic at two close points, and a random "
            "augmentation moves them apart: leave out finite_difference or augment"
        )


def check_logits(logits: Tensor, samples: int) -> None:
    """Refuse an answer of the critic that is not one logit a sample."""
    if logits.shape != (samples,):
        raise ValueError(
            f"a critic returns one logit a sample, [{samples}], and this one returned "
            f"{list(logits.shape)}: average or flatten it, or wrap the critic in "
            "hybridgen.Unconditional, which does"
        )


class Unconditional(nn.Module):
    """`critic(x)` with the signature `(x, sigma, label)`; sigma and label are ignored.

    A critic that returns a map of patch logits `[b 1 h w]` is averaged to one logit a sample, so
    PatchGAN critics fit as they are. Such a critic cannot guide a sampler: it does not know how
    noisy its input is.

    Args:
        critic: any module `x [b ...] -> [b]`, `[b 1]` or `[b ...]`.
    """

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        logits: Tensor = self.critic(x)
        if logits.ndim == 0 or len(logits) != len(x):
            raise ValueError(
                f"the wrapped critic must return logits of {len(x)} samples, got a tensor of "
                f"shape {list(logits.shape)}: do not reduce over the batch"
            )
        return reduce(logits, "b ... -> b", torch.mean) if logits.ndim > 1 else logits
