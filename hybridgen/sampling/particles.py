"""Sequential Monte Carlo: a batch on its way from noise, of which a discriminator chooses."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hybridgen.errors import RunError
from hybridgen.losses.answers import one_logit
from hybridgen.maths.rng import rng_for, rng_from
from hybridgen.protocols import Cost, Discriminator
from hybridgen.sampling.guidance import LOWEST, Guided, check_guide, check_window
from hybridgen.sampling.samplers import Heun, check_noise, check_samples


@dataclass(frozen=True, eq=False)
class Particles:
    """Samples of the data p from a model of q, by choosing among the members of a batch.

    A discriminator trained to the optimum has logit `log p(x; sigma) - log q(x; sigma)` at every
    level, so a batch that follows q all the way is one of p where each member has the weight
    `exp(logit)`. Along the way weights grow by the ratios of one level to the one before, and once
    their effective number, `(sum w)^2 / sum w^2`, falls below a share of the batch, members are
    drawn again in proportion to them (systematic resampling). No gradient is taken; what q never
    makes stays missing, and a batch holds copies: give the sampler a `churn`, by which they part.
    With more members the result tends to p, up to the sampler's own error, which weights enlarge.
    Labels are kept: only members of one class compete. Source: Del Moral et al. 2006, "Sequential
    Monte Carlo samplers", with q's own sampler as the kernel.

    Attributes:
        sampler: of q, of an unguided denoiser.
        discriminator: noise-conditional and calibrated; raw logits are used.
        scale: the power of the ratio: at 0 the batch stays one of q.
        window: noise levels, low included and high excluded, at which members are weighed; the
            weights of the last level there hold to the end.
        threshold: share of a class's members below which their effective number leads to a choice.
    """

    sampler: Heun
    discriminator: Discriminator
    scale: float = 1.0
    window: tuple[float, float] = (LOWEST, math.inf)
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_guide(self.sampler.denoiser, self.discriminator)
        check_window(self.window)
        denoiser: Any = self.sampler.denoiser
        while denoiser is not None and not isinstance(denoiser, Guided):
            denoiser = getattr(denoiser, "denoiser", None)
        if self.sampler.churn == 0:
            raise ValueError("without churn copies stay copies: give the sampler one, such as 8")
        if denoiser is not None:
            raise ValueError(
                "the sampler's denoiser is guided by a discriminator, so its samples are not those "
                "that ratios to it are of: give the denoiser as it is"
            )
        if not math.isfinite(self.scale) or not 0 < self.threshold <= 1:
            raise ValueError(
                "expected a finite scale and a threshold in (0, 1], got "
                f"{self.scale} and {self.threshold}"
            )

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """The shape of one sample's noise."""
        return self.sampler.noise_shape

    @property
    def cost(self) -> Cost:
        """The sampler's calls, and one of the discriminator at each level of the window."""
        weighed = sum(self._weighs(level) for level in self.sampler.sigmas.tolist()[1:])
        return self.sampler.cost + Cost(discriminator_forward=weighed)

    @torch.no_grad()
    def __call__(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """`noise [b *noise_shape]`, standard normal; `label [b]` -> samples `[b *noise_shape]`.

        The same batch of noise gives the same samples; a sample belongs to its batch.

        Raises:
            ValueError: noise of another shape.
            RunError: samples or logits stopped being finite; the message names the level.
        """
        check_noise(noise, self.noise_shape)
        levels, draws = self.sampler.sigmas.tolist(), rng_from(noise)
        choices = rng_for(draws.initial_seed(), "choices")
        classes = torch.zeros(len(noise)) if label is None else label.cpu()
        group = classes.unique(return_inverse=True)[1]
        x = noise.to(torch.promote_types(noise.dtype, torch.float32)) * levels[0]
        # The choices are made on the CPU, in float64, which not every accelerator has.
        weight = before = torch.zeros(len(x), dtype=torch.float64)
        finite = []
        for now, after in pairwise(levels):
            x = self.sampler.step(x, now, after, label, draws)
            finite.append(torch.isfinite(x).all())
            if self._weighs(after):
                ratio = self.scale * self._logit(x, after, label)
                if not bool(ratio.isfinite().all()):
                    raise RunError(
                        f"the discriminator's logits at noise level {after:.3g} are not finite: "
                        "check it, and whether samples still are"
                    )
                weight, before = weight + ratio - before, ratio
                rows, weight = resample(weight, group, self.threshold, choices)
                x, before = x[rows.to(x.device)], before[rows]
        check_samples(finite, levels)
        rows, _ = resample(weight, group, 1.0, choices)
        return x[rows.to(x.device)].to(noise.dtype)

    def _weighs(self, sigma: float) -> bool:
        return self.window[0] <= sigma < self.window[1] and sigma > 0

    def _logit(self, x: Tensor, sigma: float, label: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            level = x.new_full((len(x),), sigma)
            return one_logit(self.discriminator(x, level, label), len(x)).cpu().double()


def resample(
    log_weight: Tensor, group: Tensor, threshold: float, draws: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Members of each group again, in proportion to their weights, where few of them count.

    Systematic resampling: of a group of n, member i is taken `n w_i` times, rounded up or down, of
    weights w of sum 1 (Kitagawa 1996). A group whose effective number `1 / sum w^2` is at least
    `threshold n` stays.

    Args:
        log_weight: `[b]`, float64, of any height.
        group: `[b]`, whole numbers from 0 without a gap.

    Returns:
        Whose place each member takes, `[b]`, of its own group; and log weights, 0 where a group was
        drawn anew.
    """
    count = int(group.max()) + 1
    zeros = log_weight.new_zeros(count)
    size = zeros.index_add(0, group, torch.ones_like(log_weight))
    top = zeros.scatter_reduce(0, group, log_weight, "amax", include_self=False)
    weight = (log_weight - top[group]).exp()
    weight = weight / zeros.index_add(0, group, weight)[group]
    effective = 1 / zeros.index_add(0, group, weight.square())
    # Groups lie side by side on one line, each as long as it has members.
    order = group.argsort(stable=True)
    ends = (weight * size[group])[order].cumsum(0)
    start = torch.rand((), generator=draws, dtype=torch.float64)
    chosen = torch.searchsorted(ends, start + torch.arange(len(order)), right=True)
    rows = torch.empty_like(order)
    rows[order] = order[chosen.clamp(max=len(order) - 1)]
    anew = (effective < threshold * size)[group]
    return torch.where(anew, rows, torch.arange(len(order))), log_weight * ~anew
