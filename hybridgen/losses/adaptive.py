"""How strongly an auxiliary loss should pull, read off the gradients themselves."""

from collections.abc import Callable

import torch
from torch import Tensor


def adaptive_weight(
    loss: Tensor,
    adversarial: Tensor,
    last_layer: Tensor,
    *,
    limit: float = 1e4,
    mean: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> Tensor:
    """`|d loss / d w| / (|d adversarial / d w| + 1e-4)` at a model's last layer, at most `limit`.

    Multiplied by it, the adversarial term pulls on the last layer as hard as the main loss does,
    whatever the scale of the discriminator's logits. An untrained discriminator has tiny
    gradients, hence a large weight: train the discriminator from the start and ramp the product up.
    Source: Esser et al. 2020, arXiv:2012.09841, equation 7.

    Args:
        loss: the main loss, a scalar.
        adversarial: `AdversarialLoss.generator_loss(...)`, a scalar.
        last_layer: the weight w of the layer both losses pass through last, such as
            `decoder.conv_out.weight`.
        limit: the largest weight.
        mean: averages a gradient over processes that each hold a share of the batch.

    Returns:
        A scalar without gradient. The graphs are kept for the backward pass.
    """
    pull, push = (
        mean(torch.autograd.grad(part, last_layer, retain_graph=True)[0].float()).norm()
        for part in (loss, adversarial)
    )
    return (pull / (push + 1e-4)).clamp(max=limit).detach()
