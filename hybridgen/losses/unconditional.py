"""An adapter for critics that know nothing of noise levels or labels."""

import torch
from einops import reduce
from torch import Tensor, nn


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
