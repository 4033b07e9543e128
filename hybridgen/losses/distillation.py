"""What post-training of a finished denoiser minimises, beside an adversarial loss.

The student samples in few calls. It is pulled towards the teacher's distribution by two denoisers,
the teacher and a follower that has learnt the student's samples: the difference of their answers is
that of two scores. A fine-tuned denoiser needs neither: its own likelihood ratio to the model that
it started from is the discriminator.
"""

from typing import Literal

import torch
from einops import reduce
from torch import Tensor

from hybridgen.losses.denoising import denoising_loss
from hybridgen.maths.noise import like

Divergence = Literal["reverse_kl", "forward_kl", "jensen_shannon"]


def matching_direction(
    sample: Tensor, follower: Tensor, teacher: Tensor, weight: Tensor | None = None
) -> Tensor:
    """`(F(y, u) - T(y, u)) / mean |x - T(y, u)|` of samples x, with `y = x + u n`: `[b ...]`.

    Since `score = (D - y) / u^2` this is, up to a positive number a sample, the gradient at y of
    the KL divergence of the teacher's noisy distribution from the student's. It has no gradient
    of its own, and samples follow it through `distribution_matching`. Where the teacher answers
    the sample itself the mean is 0, and is taken as 1e-6.
    Source: Yin et al. 2024 (DMD), arXiv:2311.18828, equations 7 and 8.

    Args:
        sample: x `[b ...]`, the student's.
        follower: `F(y, u) [b ...]`, of a denoiser that has learnt the student's samples.
        teacher: `T(y, u) [b ...]`.
        weight: `[b]` such as `divergence_weight`'s.
    """
    with torch.no_grad():
        scale = reduce((sample - teacher).abs(), "b ... -> b", "mean").clamp(min=1e-6)
        return (follower - teacher) * like((1.0 if weight is None else weight) / scale, sample)


def distribution_matching(sample: Tensor, direction: Tensor) -> Tensor:
    """`|x - stopgrad(x - direction)|^2 / 2` a coordinate, `[b]`: its gradient at the samples
    `x [b ...]` is `direction [b ...]` over the number of coordinates.
    """
    error = sample - (sample - direction).detach()
    return reduce(error.square(), "b ... -> b", "mean") / 2


def divergence_weight(logit: Tensor, divergence: Divergence) -> Tensor:
    """What `matching_direction` is multiplied by to follow another divergence of teacher and
    student, `[b]`, of mean 1 over the batch and without gradient.

    With the density ratio `r = p(y, u) / q(y, u)` of real to generated noisy samples, which is
    `exp(logit)` of the best discriminator: 1 for the reverse KL divergence, r for the forward one,
    which reaches for modes that the student lacks, `r / (1 + r)` for Jensen-Shannon's.
    Source: Xu et al. 2025 (f-distill), arXiv:2502.15681, table 1.

    Args:
        logit: `[b]`, of noisy samples at their levels.
    """
    logit = logit.detach()
    if divergence == "reverse_kl":
        return torch.ones_like(logit)
    if divergence == "forward_kl":
        return logit.softmax(0) * len(logit)
    return torch.sigmoid(logit) / torch.sigmoid(logit).mean()


def log_likelihood_ratio(
    tuned: Tensor, start: Tensor, x0: Tensor, sigma: Tensor, data_std: float
) -> Tensor:
    """An estimate of `log p_tuned(x0) - log p_start(x0)`, up to a positive factor: how much better
    a denoiser cleans `x0 [b ...]` than the one that it started from, `[b]`.

    The difference of two denoising losses with the same noise at the level `sigma [b]`, whose mean
    over levels is that of two bounds of the likelihood. As a logit of a game between data and
    samples of the start it makes the denoiser its own discriminator.
    Source: Zheng et al. 2025 (DDO), arXiv:2503.01103, equations 9 to 13.

    Args:
        tuned, start: `[b ...]`, both denoisers' answers to the same noisy input; only the first
            need have a gradient.
        data_std: of the data.
    """
    losses = (denoising_loss(answer, x0, sigma, data_std) for answer in (start, tuned))
    before, now = losses
    return before - now
