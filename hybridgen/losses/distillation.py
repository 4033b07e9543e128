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

from hybridgen.maths.noise import like
from hybridgen.maths.objectives import non_saturating

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
    student, `[b]`, without gradient and of mean 1 over these samples: micro-batches and processes
    are normalised each by itself.

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
    tuned: Tensor, start: Tensor, x0: Tensor, sigma: Tensor, density: Tensor | float
) -> Tensor:
    """`(|T - x0|^2 - |S - x0|^2) / (sigma^2 density)`, summed over coordinates, `[b]`: an unbiased
    estimate, in nats, of `log p_S(x0) - log p_T(x0)` by the answers of two denoisers S and T.

    Of exact denoisers `log p_S - log p_T` is the integral of `E |T - x0|^2 - E |S - x0|^2` over
    `d log sigma / sigma^2`, with the mean over the noise in their common input. As a logit of a
    game between data and samples of T it makes S its own discriminator.
    Source: Guo et al. 2005, arXiv:cs/0412108, and Kong et al. 2023, arXiv:2302.03792
    (the integral); Zheng et al. 2025 (DDO), arXiv:2503.01103 (the game).

    Args:
        tuned, start: S and T, `[b ...]`: answers to the same noisy input; only the first need have
            a gradient.
        sigma: `[b]`, drawn so that `log sigma` has the
        density: `[b]`, or everywhere the same. Where it is 0 the integral leaves levels out.

    Returns:
        `[b]`, in float32 or finer.

    Raises:
        ValueError: shapes differ.
    """
    if not tuned.shape == start.shape == x0.shape:
        shapes = ", ".join(str(list(x.shape)) for x in (tuned, start, x0))
        raise ValueError(f"two answers and data must have one shape, got {shapes}")
    precise = torch.promote_types(tuned.dtype, torch.float32)
    # (T - S) (T + S - 2 x0): without the cancellation of two squares.
    tuned, start, x0 = (x.to(precise) for x in (tuned, start, x0))
    gain = ((start - tuned) * (start + tuned - 2 * x0)).flatten(1).sum(1)
    return gain / (sigma.to(precise).square() * density)


def direct_discriminative_loss(
    real: Tensor, fake: Tensor, *, sharpness: float = 1.0, fake_weight: float = 1.0
) -> Tensor:
    """`softplus(-b r(real)) + a softplus(b r(fake))`, `[b]`: the cross-entropy of a game between
    data and samples of T whose logit is `b r`, with `r = log p_S - log p_T` of S.

    At a = b = 1 its least value is at `r = log p_data - log p_T`, where S is the data's. Other a
    and b ask S for a ratio that no density has, and the best density is another: with a smaller b
    it lies beyond the data as seen from T, and with a larger a far beyond it.
    Source: Zheng et al. 2025 (DDO), arXiv:2503.01103.

    Args:
        real, fake: r `[b]`, such as `log_likelihood_ratio`'s.
        sharpness: b.
        fake_weight: a.
    """
    on_real, on_fake = non_saturating.discriminator(sharpness * real, sharpness * fake)
    return on_real + fake_weight * on_fake
