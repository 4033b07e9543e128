"""Whether a discriminator's probabilities mean what they say, at every noise level."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 10


def reliability(real: Tensor, fake: Tensor, bins: int = BINS) -> tuple[Tensor, Tensor, Tensor]:
    """The reliability diagram: predicted and observed shares of real samples, in bins.

    `P(real | x) = sigmoid(logit)` where real and generated samples are equally likely, so the two
    sets are weighed equally whatever their sizes. Bins of equal weight (quantiles), because the
    probabilities of a good guide at high noise all lie within a hundredth of one half.

    Args:
        real, fake: logits `[n]` and `[m]`.
        bins: at most; equal probabilities are never parted, so there may be fewer.

    Returns:
        The mean probability, the share of real samples, and the share of all weight, `[k]` each.
    """
    if min(len(real), len(fake)) < 1 or bins < 1:
        raise ValueError(
            f"need logits of both kinds and at least one bin, got {len(real)}, {len(fake)}, {bins}"
        )
    probability = torch.cat([real, fake]).double().sigmoid()
    is_real = torch.cat([torch.ones(len(real)), torch.zeros(len(fake))]).double()
    weight = torch.where(is_real > 0, 0.5 / len(real), 0.5 / len(fake)).double()
    distinct, index = probability.unique(return_inverse=True)
    mass = torch.zeros_like(distinct).index_add_(0, index, weight)
    # By the middle of each value's weight: equal probabilities must not be parted by a bin's edge.
    group = ((mass.cumsum(0) - mass / 2) * bins).long().clamp(max=bins - 1)[index]
    values = torch.stack([probability, is_real, torch.ones_like(is_real)])
    sums = torch.zeros(3, bins, dtype=torch.float64).index_add_(1, group, weight * values)
    predicted, observed, share = sums[:, sums[2] > 0]
    return predicted / share, observed / share, share


def expected_calibration_error(real: Tensor, fake: Tensor, bins: int = BINS) -> float:
    """`sum_b share_b |observed_b - predicted_b|` over the bins of `reliability`; 0 is perfect.

    Of n + m samples even the exact discriminator's is about `0.4 sqrt(bins / (n + m))`.
    Source: Naeini et al. 2015 (AAAI), equation 3, with bins of equal weight.
    """
    predicted, observed, share = reliability(real, fake, bins)
    return float((share * (observed - predicted).abs()).sum())


def calibration_figures(real: Tensor, fake: Tensor, levels: Tensor) -> list[dict[str, float]]:
    """Of each noise level: `sigma`, `bce` in nats (chance 1.3863), `calibration_error`, `accuracy`.

    Args:
        real, fake: held-out logits `[l n]` and `[l m]`.
        levels: `[l]`.
    """
    if real.ndim != 2 or fake.ndim != 2 or not len(real) == len(fake) == len(levels) > 0:
        raise ValueError(
            "expected logits [l n] and [l m] at levels [l], got "
            f"{list(real.shape)}, {list(fake.shape)} and {list(levels.shape)}"
        )
    return [
        {
            "sigma": sigma,
            "bce": cross_entropy(a, b),
            "calibration_error": expected_calibration_error(a, b),
            "accuracy": float((a > 0).double().mean() + (b <= 0).double().mean()) / 2,
        }
        for sigma, a, b in zip(levels.tolist(), real.double(), fake.double(), strict=True)
    ]


def cross_entropy(real: Tensor, fake: Tensor) -> float:
    """Of logits, real and generated summed, in nats; chance is `2 log 2`."""
    value = float(F.softplus(-real).mean() + F.softplus(fake).mean())
    return value if math.isfinite(value) else math.inf


def effect_size(one: Tensor, other: Tensor) -> float:
    """`(m_1 - m_2) / sqrt((v_1 + v_2) / 2)`, how many deviations the mean of `[n]` numbers lies
    above that of `[m]`; 0 if all are equal. Its standard error near 0 is `sqrt(1 / n + 1 / m)`.

    Source: Cohen 1988, Statistical Power Analysis, equation 2.5.1.
    """
    one, other = one.double(), other.double()
    spread = float((one.var() + other.var()) / 2) ** 0.5
    difference = float(one.mean() - other.mean())
    if difference == 0:
        return 0.0
    return difference / spread if spread > 0 else math.copysign(math.inf, difference)
