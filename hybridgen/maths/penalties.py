"""Gradient penalties: how steep the discriminator is where the samples are.

All return one number a sample, so a caller weighs and averages them; none depends on the size of
the batch. The squared gradient is summed over all coordinates, so a weight that suits data of unit
scale suits data of scale s when divided by 1/s^2.

Of a map of p patches a sample it is the gradient of their sum, squared and divided by p: patches of
equal slope in different places give what one of them gives, however large the picture.
"""

import torch
from einops import reduce
from torch import Tensor

from hybridgen.maths.noise import like


def input_gradient(logits: Tensor, x: Tensor) -> Tensor:
    """`d sum_j logit_ij / d x_i` of each sample, `[b ...]`, differentiable once more.

    Summing the logits is exact only if sample i's logit depends on sample i alone, so the
    discriminator must not normalise across the batch.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient


def squared_gradient_norm(logits: Tensor, x: Tensor) -> Tensor:
    """`|d sum_j logit_ij / d x_i|^2 / p` of each sample, differentiable once more.

    On real samples this is R1, on generated ones R2 (Mescheder et al. 2018, arXiv:1801.04406).

    Args:
        logits: `[b]`, or `[b ...]` with p patches a sample; computed from `x`.
        x: `[b ...]`, requiring gradients.

    Returns:
        `[b]`, non-negative, in float32 or better.
    """
    gradient = input_gradient(logits, x)
    gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    return reduce(gradient.square(), "b ... -> b", "sum") / logits[0].numel()


def squared_slope(logits: Tensor, moved: Tensor, step: float) -> Tensor:
    """`(sum_j logit_j(x + e n) - logit_j(x))^2 / (e^2 p)`, n standard normal, of each sample.

    R1 and R2 without double backward: its mean over n is the squared gradient norm, up to terms of
    order e^2 in the curvature; for a linear discriminator `E_n (w n)^2 = |w|^2` exactly.
    Source: the approximated R1 of Lin et al. 2025, arXiv:2501.08316, divided by e^2.

    Args:
        logits: `[b]` or `[b ...]`, at x.
        moved: the same, at `x + step * n`.
        step: e, in the units of x.
    """
    slope = (moved - logits) / step
    return (
        slope.square() if slope.ndim == 1 else slope.flatten(1).sum(1).square() / slope[0].numel()
    )


def one_centred(logits: Tensor, x: Tensor) -> Tensor:
    """`(|d sum_j logit_j / d x| / sqrt(p) - 1)^2` of each sample: GP, evaluated at interpolates.

    Source: Gulrajani et al. 2017, arXiv:1704.00028, equation 3.
    """
    # The root has an infinite slope at 0: without the tiny term one flat sample makes the
    # whole discriminator's gradient NaN.
    norm = (squared_gradient_norm(logits, x) + 1e-12).sqrt()
    return (norm - 1).square()


def interpolates(real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """`u real + (1 - u) fake` on the segment between each pair; `mix [b]` holds u in [0, 1]."""
    u = like(mix, real)
    return u * real + (1 - u) * fake
