"""Whether a discriminator's logits mean what they say, and of what it has not seen as well."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridgen.metrics.intervals import Estimate, Z
from hybridgen.metrics.neighbours import memorisation

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


def overfitting_figures(training: Tensor, held_out: Tensor, fake: Tensor) -> dict[str, Estimate]:
    """How much better a discriminator knows the real examples that it was trained on.

    `overfit_share`: `(E D(train) - E D(held out)) / (E D(train) - E D(fake))`, 0 if it does not
    overfit, 1 if it takes what is new for generated. Its interval is by the delta method, and has
    no ends where the discriminator cannot tell training examples from generated ones.
    `overfit_rank`: see there. Each `floor` is what no overfitting gives.
    Source: Karras et al. 2020, arXiv:2006.06676, equation 1 (`r_v`).

    Args:
        training, held_out, fake: logits `[n]`, `[m]` and `[k]`, at least two of each.
    """
    sides = [x.detach().double() for x in (training, held_out, fake)]
    if min(map(len, sides)) < 2 or not bool(torch.cat(sides).isfinite().all()):
        raise ValueError(
            "need two finite logits of training, held-out and generated examples each, got "
            f"{', '.join(str(len(x)) for x in sides)}"
        )
    a, b, c = (float(x.mean()) for x in sides)
    u, v, w = (float(x.var()) / len(x) for x in sides)
    gap, share = a - c, (a - b) / (a - c) if a > c else 0.0
    variance = u + v - 2 * share * u + share**2 * (u + w)
    apart = gap > Z * math.sqrt(u + w)
    reach = Z * math.sqrt(variance) / gap if apart else math.inf
    return {
        "overfit_share": Estimate(value=share, low=share - reach, high=share + reach, floor=0.0),
        "overfit_rank": overfit_rank(*sides[:2]),
    }


def overfit_rank(training: Tensor, held_out: Tensor) -> Estimate:
    """The probability that a training example's logit `[n]` is above a held-out one's `[m]`.

    It is .5 if the discriminator does not overfit, 1 if it knows every example by heart, and the
    same for any rising function of the logits. The interval has the width of one that does not
    overfit, `sqrt((n + m + 1) / (12 n m))` for a standard error (Mann & Whitney 1947).
    """
    # By their negatives, so that a high logit is near: the same statistic as of distances.
    rank = float(memorisation(-training.double(), -held_out.double()).mean())
    n, m = len(training), len(held_out)
    width = Z * math.sqrt((n + m + 1) / (12 * n * m))
    low, high = max(0.0, rank - width), min(1.0, rank + width)
    return Estimate(value=rank, low=low, high=high, floor=0.5)
