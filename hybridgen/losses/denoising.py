"""What a denoiser minimises."""

import torch
from torch import Tensor

from hybridgen.maths.noise import like, loss_weight


def denoising_loss(estimate: Tensor, x0: Tensor, sigma: Tensor, data_std: float) -> Tensor:
    """`weight(sigma) |D(x0 + sigma n, sigma) - x0|^2` per sample, averaged over coordinates.

    Its minimum over D is the posterior mean, whatever the weight. With EDM's weight an untrained,
    zero network has loss 1 at every level (for data of root mean square `data_std`).
    Source: Karras et al. 2022, arXiv:2206.00364, equations 2 and 8.

    Args:
        estimate: `[b ...]`, the denoiser's answer.
        x0: `[b ...]`, the clean data.
        sigma: `[b]`.
        data_std: of the data.

    Returns:
        `[b]`, in float32.

    Raises:
        ValueError: estimate and data differ in shape.
    """
    if estimate.shape != x0.shape:
        raise ValueError(
            f"estimate and data must have one shape, got {list(estimate.shape)} and "
            f"{list(x0.shape)}"
        )
    precise = torch.promote_types(estimate.dtype, torch.float32)
    error = (estimate.to(precise) - x0.to(precise)).square().flatten(1).mean(1)
    return loss_weight(sigma.to(precise), data_std) * error


def noised(x0: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """`x0 + sigma n`: data `[b ...]` at level `sigma [b]`, in variance-exploding scale."""
    return x0 + like(sigma, x0).to(x0.dtype) * noise
