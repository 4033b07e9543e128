"""A calibrated log density ratio of clean samples from a trained discriminator's logit, and whether
the logit is of examples that the discriminator knows by heart."""

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor, nn

from hybridgen.data.augment import packed
from hybridgen.data.images import quantised
from hybridgen.data.source import Source
from hybridgen.evaluation.sharing import gathered, rows_of
from hybridgen.losses.answers import one_logit
from hybridgen.losses.discriminators import PerSample
from hybridgen.metrics.calibration import cross_entropy, overfit_rank
from hybridgen.networks.blocks import eval_mode, in_chunks
from hybridgen.protocols import Discriminator
from hybridgen.sampling.guidance import configured
from hybridgen.settings import Level, Range, Settings
from hybridgen.training.validation import HeldOutValidation

BOUND = 0.95
"""The share of generated samples whose log ratio is below the bound.

The largest ratio would have rejection refuse nearly all; among those above the bound it keeps the
model's proportions. Source: Azadi et al. 2019, arXiv:1810.06758, section 3.2, gamma.
"""
_EXAMPLES, _LEVEL = 256, 0.05
"""What `overfitting` looks at."""


@dataclass(frozen=True, kw_only=True)
class Calibration(Settings):
    """How a logit becomes a log ratio, as `guide.json` keeps it.

    Attributes:
        sigma: the noise level at which the discriminator is called.
        slope: not negative, so that an uninformative discriminator gets 0 and changes nothing.
        offset: added after the slope.
        log_bound: what 95 % of generated samples are below, for rejection.
        acceptance: the share of generated samples that rejection then accepts.
    """

    sigma: Level
    slope: Annotated[float, Range(0, math.inf, "[)")]
    offset: Annotated[float, Range(-math.inf, math.inf, "()")]
    log_bound: Annotated[float, Range(-math.inf, math.inf, "()")]
    acceptance: Annotated[float, Range(0, 1, "(]")]


@dataclass(frozen=True, kw_only=True, eq=False)
class LogRatio:
    """`slope * discriminator(x, sigma, label) + offset`, an estimate of `log p(x) - log q(x)`.

    Images are taken as they would be saved, in 256 values, as in the discriminator's training.
    """

    discriminator: Discriminator
    calibration: Calibration

    def __call__(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Clean samples `[b ...]`, `label [b]` -> log ratios `[b]`, float64 on the CPU."""
        logit = clean_logits(self.discriminator, x, self.calibration.sigma, label)
        return self.calibration.slope * logit + self.calibration.offset


def calibrated(
    discriminator: Discriminator, validation: HeldOutValidation
) -> tuple[Calibration, dict[str, float]]:
    """The best calibration at any of the validation's levels, and its figures.

    The discriminator is called with clean samples and the level. Slope, offset and level are those
    of the least cross-entropy of one half of the samples; the figures are of the other half, in
    nats, before and after. Bound and acceptance are of all generated samples of the validation.
    Source: Platt 1999, and Turner et al. 2019, arXiv:1811.11357, section 3.2.
    """
    candidates = []
    for sigma in validation.levels.tolist():
        sets = (validation.real, validation.fake)
        real, fake = (clean_logits(discriminator, x, sigma, label) for x, label in sets)
        slope, offset = platt(real[::2], fake[::2])
        loss = cross_entropy(slope * real[::2] + offset, slope * fake[::2] + offset)
        candidates.append((loss, sigma, slope, offset, real, fake))
    _, sigma, slope, offset, real, fake = min(candidates, key=lambda candidate: candidate[0])
    ratios = slope * fake + offset
    log_bound = float(ratios.quantile(BOUND))
    acceptance = float((ratios - log_bound).exp().clamp(max=1).mean())
    line = {"sigma": sigma, "slope": slope, "offset": offset}
    calibration = Calibration(**line, log_bound=log_bound, acceptance=acceptance)
    return calibration, {
        **{f"log_ratio_{name}": value for name, value in asdict(calibration).items()},
        "log_ratio_bce_raw": cross_entropy(real[1::2], fake[1::2]),
        "log_ratio_bce": cross_entropy(slope * real[1::2] + offset, ratios[1::2]),
    }


@torch.no_grad()
def clean_logits(
    discriminator: Discriminator, x: Tensor, sigma: float, label: Tensor | None = None
) -> Tensor:
    """Logits of clean samples as if they had noise of deviation `sigma`; `[b]`, float64 on the CPU,
    because not every accelerator has it."""
    x = quantised(x).to(x) if x.ndim > 2 else x
    sigmas = x.new_full((len(x),), sigma)

    def logits(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        return one_logit(discriminator(x, sigma, label), len(x))

    return in_chunks(logits, x, sigmas, label, size=1_000).cpu().double()


@torch.no_grad()
def overfitting(
    discriminator: nn.Module,
    source: Source,
    *,
    pack: int = 1,
    seed: int = 0,
    accelerator: Any = None,
) -> float | None:
    """`overfit_rank` of a discriminator's logits of training and of held-out examples: about .5 if
    it knows none by heart.

    It is called on at most 256 of either, of which each process takes its share; as if they had
    noise of deviation .05 where it knows levels; or on so many packs, if it looks at those.
    Source: after Karras et al. 2020, arXiv:2006.06676, section 3 (held-out logits).

    Returns:
        `None` for data that is drawn without end, or with fewer than 16 held-out examples.
    """
    if source.size is None:
        return None
    network, sides = PerSample(discriminator), []
    like = next(discriminator.parameters())
    sigma = _LEVEL if configured(discriminator, "noise_conditional") is True else 0.0

    def logits(x: Tensor, label: Tensor | None) -> Tensor:
        x, label = x.to(like.device), None if label is None else label.to(like.device)
        return network(x, x.new_full((len(x),), sigma), label).cpu().double()

    for part in ("train", "held_out"):
        x, label = source.reference(part, _EXAMPLES * pack, seed)
        if pack > 1:
            x, label = packed(x[: len(x) // pack * pack], pack), None
        if len(x) < 16:
            return None
        rows = rows_of(len(x), accelerator)
        label = label[rows] if label is not None and source.classes else None
        with eval_mode(discriminator):
            share = in_chunks(logits, x[rows], label, size=_EXAMPLES)
        sides.append(gathered(share, len(x), accelerator))
    return overfit_rank(*sides).value


def platt(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Slope (at least 0) and offset of the logits' least cross-entropy; `[n]` and `[m]`.

    Real and generated samples weigh equally. Targets are Platt's `(k + 1) / (k + 2)` and
    `1 / (k + 2)` in the place of 1 and 0, k the smaller of n and m, so that logits which part the
    two sets entirely get a finite slope, and uninformative logits get slope and offset 0.
    Source: Platt 1999, Probabilistic outputs for support vector machines, section 2.2.
    """
    both = torch.cat([real, fake]).cpu().double()
    if not bool(both.isfinite().all()):
        raise ValueError("the logits of a calibration must be finite: the discriminator diverged")
    # In units of their spread, where one step of the search fits all.
    middle, unit = float(both.mean()), float(both.std())
    if not unit > 1e-12 * float(both.abs().max()):  # what rounding leaves of equal logits
        return 0.0, 0.0
    real, fake = ((both - middle) / unit).split([len(real), len(fake)])
    down = 1 / (min(len(real), len(fake)) + 2)

    def loss(line: tuple[float, float]) -> tuple[float, tuple[float, float]]:
        slope, offset = line
        a, b = slope * real + offset, slope * fake + offset
        value = (F.softplus(-a) + down * a).mean() + (F.softplus(b) - down * b).mean()
        on_real, on_fake = a.sigmoid() - 1 + down, b.sigmoid() - down
        steep = (on_real * real).mean() + (on_fake * fake).mean()
        return float(value), (float(steep), float(on_real.mean() + on_fake.mean()))

    bounds = [(0.0, None), (None, None)]
    slope, offset = minimize(loss, (1.0, 0.0), jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(slope) / unit, float(offset - slope * middle / unit)
