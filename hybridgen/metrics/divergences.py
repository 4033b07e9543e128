"""How far two distributions of known densities are apart: what bounds and losses are held against.

All figures are means over both of them: `E_p f(t) + E_q g(t)` of the log ratio
`t = log p - log q`, the optimal discriminator's logit. So one table serves quadrature and samples.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridgen.maths.mixtures import GaussianMixture
from hybridgen.maths.rng import rng_for
from hybridgen.metrics.intervals import Estimate, Z

REACH, POINTS = 12.0, 4_001
"""Of a grid around each component: standard deviations to either side, and places."""


def _absolute(t: Tensor) -> Tensor:
    """`|p - q| / (p + q) / 2`: total variation is the sum of its means over p and over q."""
    return torch.tanh(t.abs() / 2) / 2


TERMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "kl": (lambda t: t, torch.zeros_like),
    "reverse_kl": (torch.zeros_like, lambda t: -t),
    "jsd": (
        lambda t: (math.log(2) - F.softplus(-t)) / 2,
        lambda t: (math.log(2) - F.softplus(t)) / 2,
    ),
    "total_variation": (_absolute, _absolute),
    "value": (lambda t: -F.softplus(-t), lambda t: -F.softplus(t)),
}
"""Of each divergence f and g. `kl` is `KL(p, q)` and `reverse_kl` is `KL(q, p)`, in nats; `jsd` is
Jensen and Shannon's in nats, at most log 2; `total_variation` is at most 1. `value` is the game's,
`V(D) = E_p log D + E_q log (1 - D)` for `D = sigmoid(t)`: with the log ratio `2 jsd - log 4`, with
another logit below it.
Source: Goodfellow et al. 2014, arXiv:1406.2661, equation 1 and theorem 1.
"""


def exact_divergences(
    log_p: Tensor, log_q: Tensor, x: Tensor, logit: Tensor | None = None
) -> dict[str, float]:
    """The figures of `TERMS` of two densities on a line, by the trapezoid rule.

    Args:
        log_p, log_q: `[n]`, log densities in nats, minus infinity where there is nothing.
        x: `[n]`, rising; outside it both densities are taken for nothing.
        logit: `[n]`, of a discriminator, whose value of the game is then `value_of_logit`.

    Raises:
        ValueError: other shapes, or places that do not rise.
    """
    if not log_p.shape == log_q.shape == x.shape or x.ndim != 1 or bool((x.diff() <= 0).any()):
        raise ValueError(
            "expected log densities and rising places, all [n], got "
            f"{list(log_p.shape)}, {list(log_q.shape)} and {list(x.shape)}: sort the places"
        )
    log_p, log_q, x = log_p.double(), log_q.double(), x.double()

    logits = {name: log_p - log_q for name in TERMS}
    figures = {name: _integrand(name, log_p.exp(), log_q.exp(), t) for name, t in logits.items()}
    if logit is not None:
        figures["value_of_logit"] = _integrand("value", log_p.exp(), log_q.exp(), logit.double())
    return {name: float(torch.trapezoid(y, x)) for name, y in figures.items()}


def histogram_divergences(p: Tensor, q: Tensor) -> dict[str, float]:
    """The figures of `TERMS` of two histograms `[n]` over the same cells, normalised here.

    Of two distributions none is greater than what it is of their densities: cells hide differences,
    and make none (the data processing inequality).
    """
    if p.shape != q.shape or p.ndim != 1 or not min(float(p.sum()), float(q.sum())) > 0:
        raise ValueError(
            f"expected two histograms [n], neither empty, got {list(p.shape)} and {list(q.shape)}"
        )
    p, q = p.double() / p.sum(), q.double() / q.sum()
    return {name: float(_integrand(name, p, q, p.log() - q.log()).sum()) for name in TERMS}


def _integrand(name: str, p: Tensor, q: Tensor, t: Tensor) -> Tensor:
    """`p f(t) + q g(t)`, `[n]`. What has no weight may have an infinite ratio: chosen, not
    multiplied by zero."""
    sides = zip((p, q), TERMS[name], strict=True)
    on_p, on_q = (torch.where(w > 0, w * term(t), 0.0) for w, term in sides)
    return on_p + on_q


def sampled_divergences(
    real: Tensor, fake: Tensor, logits: tuple[Tensor, Tensor] | None = None
) -> dict[str, Estimate]:
    """The same from samples of p and of q, by their log ratios, with 95 % intervals.

    The intervals are `value -+ 1.96 standard errors`, not cut at what the figure can be. They miss
    what the samples miss: a divergence of few, rare samples needs many of them.

    Args:
        real, fake: `log p - log q` at samples of p `[n]` and of q `[m]`.
        logits: of a discriminator, at the same places.

    Raises:
        ValueError: fewer than two samples of either.
    """
    if min(len(real), len(fake)) < 2:
        raise ValueError(f"need two samples of either kind, got {len(real)} and {len(fake)}")

    def estimate(name: str, sides: tuple[Tensor, Tensor]) -> Estimate:
        terms = [term(t.double()) for term, t in zip(TERMS[name], sides, strict=True)]
        value = sum(float(x.mean()) for x in terms)
        reach = Z * math.sqrt(sum(float(x.var()) / len(x) for x in terms))
        return Estimate(value=value, low=value - reach, high=value + reach)

    figures = {name: estimate(name, (real, fake)) for name in TERMS}
    return figures if logits is None else figures | {"value_of_logit": estimate("value", logits)}


def quadrature_places(*mixtures: GaussianMixture) -> Tensor:
    """Where to look at one-dimensional mixtures: `[n]`, rising, float64.

    Twelve standard deviations to either side of every mean, in steps of .006 of them: figures of
    one and less are then right to about 1e-6, and greater ones to three parts in a million.
    """
    steps = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64)
    places = [m.means + torch.outer(m.stds, steps) for m in mixtures]
    return torch.cat([each.flatten() for each in places]).unique()


def mixture_divergences(
    p: GaussianMixture,
    q: GaussianMixture,
    logit: Callable[[Tensor], Tensor] | None = None,
    *,
    samples: int = 100_000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """The figures of `TERMS` of two mixtures, exact on a line and sampled in more dimensions.

    Exact figures have intervals without width. Deterministic; nobody's random state changes.

    Args:
        logit: a discriminator's, `[b d] -> [b]`; see `exact_divergences`.
        samples: of each mixture, in more than one dimension.
    """
    if p.dimension != q.dimension:
        raise ValueError(
            f"mixtures of one dimension are compared, got {p.dimension} and {q.dimension}"
        )
    if p.dimension == 1:
        x = quadrature_places(p, q)
        points = x[:, None]
        answer = None if logit is None else logit(points)
        figures = exact_divergences(p.log_density(points), q.log_density(points), x, answer)
        return {name: Estimate(value=v, low=v, high=v) for name, v in figures.items()}
    pair = (p.sample(samples, rng_for("p", seed)), q.sample(samples, rng_for("q", seed)))
    real, fake = (points.double() for points, _ in pair)
    answers = None if logit is None else (logit(real), logit(fake))
    return sampled_divergences(p.log_ratio(q, real), p.log_ratio(q, fake), answers)
