"""Fixture A: data p and a wrong model q in one dimension, where every right answer is known.

Denoiser and discriminator are closed forms at every noise level, so a sampler that misses p has
made the mistake itself. `W1_FLOOR` and `KS_FLOOR` are about what 20 000 draws of p itself score.
Over 200 seeds their means are .017 and .006, and W1 passes .036 one time in twenty, because chance
gives one mode more than its half. So seeds are fixed, and what can be compared path by path is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
from einops import rearrange
from torch import Tensor, nn

from hybridgen.maths.mixtures import GaussianMixture
from hybridgen.maths.noise import karras_sigmas
from hybridgen.maths.rng import rng_for
from hybridgen.protocols import Answer, Cost


def one_dimensional(weights: list[float], means: list[float], stds: list[float]) -> GaussianMixture:
    """A mixture in one dimension, from plain numbers."""
    return GaussianMixture(
        torch.tensor(weights, dtype=torch.float64),
        rearrange(torch.tensor(means, dtype=torch.float64), "k -> k 1"),
        torch.tensor(stds, dtype=torch.float64),
    )


P = one_dimensional([0.5, 0.5], [-2.0, 2.0], [0.3, 0.3])
Q = one_dimensional([0.8, 0.2], [-1.7, 2.2], [0.45, 0.40])
N = 20_000
REFERENCE = 200_000
W1_FLOOR, KS_FLOOR = 0.017, 0.007
# The largest p/q, at x = 1.743: what exact rejection sampling divides by.
BOUND = 4.4357
# (sigma, least cross-entropy of real p and generated q, KL of p from q) at that noise level.
CROSS_ENTROPIES = [
    (0.0447, 1.1359, 0.490),
    (0.5, 1.2401, 0.306),
    (1.0, 1.2999, 0.187),
    (2.0, 1.3501, 0.077),
    (5.0, 1.3785, 0.016),
    (80.0, 1.3863, 7e-5),
]


def denoise(mixture: GaussianMixture, x: Tensor, sigma: Tensor | float) -> Tensor:
    """`E[x0 | x0 + sigma n = x] = x + sigma^2 score`, `[b d] -> [b d]`.

    Source: Tweedie's formula, e.g. Efron 2011; Karras et al. 2022, arXiv:2206.00364, eq. 3.
    """
    level = torch.as_tensor(sigma).to(x).expand(len(x))
    return x + rearrange(level, "b -> b 1") ** 2 * mixture.score(x, sigma)


def jensen_shannon(p: Tensor, q: Tensor) -> float:
    """`JS(p, q) = KL(p | m)/2 + KL(q | m)/2`, `m = (p + q)/2`, of two histograms; 0 to log 2.

    The value of the minimax game at its best discriminator is `2 JS - log 4`
    (Goodfellow et al. 2014, arXiv:1406.2661, theorem 1).
    """
    p, q = p.double() / p.sum(), q.double() / q.sum()
    m = (p + q) / 2
    # Where p is 0 its term is 0 whatever m is; m is 0 only where both are.
    safe = m.clamp_min(torch.finfo(m.dtype).tiny)
    halves = torch.special.xlogy(p, p / safe) + torch.special.xlogy(q, q / safe)
    return float(halves.sum() / 2)


def exact_denoiser(mixture: GaussianMixture = Q) -> Callable[..., Tensor]:
    """`E[x0 | x0 + sigma n = x]` of the mixture, as a `Denoiser`."""
    return lambda x, sigma, label=None: denoise(mixture, x, sigma)


def exact_discriminator(
    real: GaussianMixture = P, model: GaussianMixture = Q
) -> Callable[..., Tensor]:
    """`log p_sigma - log q_sigma`, as a `Discriminator`."""
    return lambda x, sigma, label=None: real.log_ratio(model, x, sigma)


def unit_noise(count: int = N, *, seed: int = 0) -> Tensor:
    """`[n 1]`, standard normal, float64."""
    return torch.randn(count, 1, generator=rng_for("fixture a", seed), dtype=torch.float64)


def draws(mixture: GaussianMixture, count: int = N, *, seed: int = 0) -> Tensor:
    """Independent samples of the mixture, `[n 1]`, float64."""
    return mixture.sample(count, rng_for("draws", seed))[0].double()


def cumulative(mixture: GaussianMixture, x: Tensor, sigma: float = 0.0) -> Tensor:
    """`P(X <= x)` under noise sigma, `[n] -> [n]`."""
    stds = (mixture.stds**2 + sigma**2).sqrt()
    z = (rearrange(x, "n -> n 1") - mixture.means[:, 0]) / stds
    return torch.special.ndtr(z) @ mixture.weights


def w1(samples: Tensor, mixture: GaussianMixture = P) -> float:
    """Wasserstein-1: the mean distance of 20 000 quantiles to those of 200 000 draws; `[n 1]`."""
    levels = (torch.arange(N, dtype=torch.float64) + 0.5) / N
    reference = draws(mixture, REFERENCE, seed=-1)[:, 0]
    return float((_quantiles(samples[:, 0], levels) - _quantiles(reference, levels)).abs().mean())


def ks(samples: Tensor, mixture: GaussianMixture = P) -> float:
    """Kolmogorov-Smirnov: the largest distance of the empirical to the exact CDF; `[n 1]`."""
    ordered = samples[:, 0].double().sort().values
    steps = torch.arange(len(ordered) + 1, dtype=torch.float64) / len(ordered)
    exact = cumulative(mixture, ordered)
    return float(torch.maximum((exact - steps[:-1]).abs(), (exact - steps[1:]).abs()).max())


def mass_right_of_zero(samples: Tensor) -> float:
    """Half in p, a fifth in q: what the weights of the two modes came out as."""
    return float((samples > 0).double().mean())


@dataclass
class Counted:
    """A denoiser or discriminator that counts its calls, each of them one evaluation."""

    function: Callable[..., Tensor]
    calls: int = 0

    def cost(self, sigma: float) -> Cost:
        return Cost(denoiser=1)

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls += 1
        return self.function(x, sigma, label)


def _quantiles(x: Tensor, levels: Tensor) -> Tensor:
    ordered = x.double().sort().values
    position = (levels * len(ordered) - 0.5).clamp(0, len(ordered) - 1)
    below = position.floor().long()
    above = (below + 1).clamp_max(len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], position - below)


def heun_scheduler(
    low: float = 0.002, high: float = 80.0, table: int = 200
) -> HeunDiscreteScheduler:
    """Heun's method on the noise levels of `karras_sigmas(steps, low, high)`, rho 7.

    `HeunDiscreteScheduler` makes its levels from a table of betas, so the whole grid is written
    as one: `beta_i = 1 - abar_i / abar_{i-1}` with `abar = 1 / (1 + sigma^2)`. Any other scheduler
    made by `.from_config(scheduler.config)` covers the same levels. It is for denoisers of this
    package, which know sigma and no timesteps.

    Raises:
        ValueError: not `0.001 <= low < high <= 1000`; beyond, float32 betas have no digits left.
    """
    if not 0.001 <= low < high <= 1000:
        raise ValueError(f"need 0.001 <= low < high <= 1000, got {low=}, {high=}")
    sigmas = karras_sigmas(table, low, high)[:-1].flip(0)
    kept = 1 / (1 + sigmas.square())
    before = kept.roll(1)
    before[0] = 1
    return HeunDiscreteScheduler(
        num_train_timesteps=table,
        trained_betas=(1 - kept / before).tolist(),
        use_karras_sigmas=True,
    )


class Attentive(nn.Module):
    """A discriminator whose pixels attend to one another through torch's fused kernel."""

    def __init__(self):
        super().__init__()
        self.entry = nn.Linear(1, 8)
        self.out = nn.Linear(8, 1)

    def forward(self, x, sigma, label=None):
        h = self.entry(x.flatten(1)[..., None])[:, None]
        h = nn.functional.scaled_dot_product_attention(h, h, h)
        return self.out(h).mean((1, 2, 3))


class Codec(nn.Module):
    """Two discriminators of sounds `[b 1 t]`, which hand back features."""

    def __init__(self):
        super().__init__()
        self.first = nn.ModuleList([nn.Conv1d(1, 3, 5, 2), nn.Conv1d(1, 3, 3, 3)])
        self.last = nn.ModuleList([nn.Conv1d(3, 1, 3), nn.Conv1d(3, 1, 3)])
        self.labels = nn.Embedding(3, 1)

    def forward(self, x, sigma, label=None):
        hidden = [F.leaky_relu(layer(x), 0.1) for layer in self.first]
        logits = [layer(each) for layer, each in zip(self.last, hidden, strict=True)]
        if label is not None:
            logits = [each + self.labels(label)[:, :, None] for each in logits]
        return Answer(logits, [list(pair) for pair in zip(hidden, logits, strict=True)])
