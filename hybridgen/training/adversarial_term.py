"""The adversarial term of diffusion training: where its fakes come from, and how much it weighs."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from hybridgen.errors import InputError
from hybridgen.losses.denoising import noised
from hybridgen.maths.noise import karras_sigmas, like
from hybridgen.networks.blocks import eval_mode
from hybridgen.protocols import Denoiser
from hybridgen.training.optim import Cosine

Source = Literal["clean", "renoised", "chain"]
HARMLESS = 0.25
"""Noise in units of the data's deviation up to which a posterior mean passes for data: on the
two-component mixture of `tests/oracles.py` the Kolmogorov distance between the two is .044 at
.15 deviations, .08 at .25, .135 at .5 and .46 at 2.5."""
LEAST_LEVEL = 0.75
"""Of `renoised`, as a share of the estimate's level; below, a posterior mean gives itself away."""


@dataclass(frozen=True, kw_only=True)
class AdversarialTerm:
    """A discriminator's part in the training of a diffusion model; off without a `source`.

    Attributes:
        source: where the fake comes from. `clean`: the clean estimate at levels up to `highest`,
            compared as it is. `renoised`: the estimate at any level, noised again to three
            quarters of it or more, and the data with the same noise. `chain`: the end of a short
            sampling chain, with a gradient through its last step.
        weight: of the term beside the denoising loss, once warm-up and ramp are over.
        adaptive: multiply the weight so that both losses pull equally on the last layer.
        warm_up: steps in which the discriminator trains and the term does not reach the denoiser.
        ramp: steps in which the weight then rises to its full value.
        share: samples of the term as a fraction of the batch.
        highest: the largest level of `clean`; the smallest is `lowest`.
        lowest: the last level of a `chain`, from which its last step leads to 0.
        calls: lengths of a `chain`, in denoiser calls, one drawn in each step.
        high: the first level of a `chain`.
        objective: a name in `hybridgen/maths/objectives.py`.
        learning_rate: of the discriminator.
        r1: weight of the squared gradient on real samples.
        r2: weight of the squared gradient on generated samples.
        finite_difference: estimate r1 and r2 with steps of this size, without double backward.
        force: allow `clean` at high noise.
    """

    source: Source | None = None
    weight: float = 0.1
    adaptive: bool = False
    warm_up: int = 200
    ramp: int = 500
    share: float = 0.25
    highest: float = 0.1
    lowest: float = 0.02
    calls: tuple[int, ...] = (4, 6)
    high: float = 80.0
    objective: str = "relativistic"
    learning_rate: Cosine = field(default_factory=lambda: Cosine(start=1e-3, end=5e-5))
    r1: Cosine = field(default_factory=lambda: Cosine(start=0.1))
    r2: Cosine = field(default_factory=lambda: Cosine(start=0.1))
    finite_difference: float | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.source not in (None, *get_args(Source)):
            raise InputError(
                f"no adversarial.source {self.source!r}; there are {', '.join(get_args(Source))}"
            )
        if not 0 <= self.weight < math.inf or min(self.warm_up, self.ramp) < 0:
            raise InputError(
                "adversarial.weight, warm_up and ramp must be finite and not negative, got "
                f"{self.weight}, {self.warm_up} and {self.ramp}"
            )
        if not 0 < self.share <= 1:
            raise InputError(f"adversarial.share must lie in (0, 1], got {self.share}")
        name = "highest" if self.source == "clean" else "high"
        if not 0 < self.lowest < getattr(self, name) < math.inf:
            raise InputError(
                f"adversarial.lowest must be positive and below {name}, which is finite, got "
                f"{self.lowest} and {getattr(self, name)}"
            )
        if not self.calls or min(self.calls) < 2:
            raise InputError(f"adversarial.calls must each be at least 2, got {self.calls}")

    def validate_noise_range(self, finest: float) -> None:
        """Refuse clean estimates at levels where even a perfect denoiser's give themselves away.

        Args:
            finest: the smallest deviation that the data has, such as a mode's; where it is not
                known, the deviation of all the data, which is the least that can be asked.

        Raises:
            InputError: see above; not if `force`.
        """
        limit = HARMLESS * finest
        if self.source == "clean" and self.highest > limit and not self.force:
            raise InputError(
                f"clean estimates at noise up to {self.highest} would be compared with data, but "
                f"above {limit:g} even a perfect denoiser's are posterior means that a "
                "discriminator can tell from data, so the term would fight the score: lower "
                "adversarial.highest, choose adversarial.source chain, or set adversarial.force "
                "true"
            )

    def weight_at(self, number: int) -> float:
        """The weight in step `number`, counted from 1; 0 during the warm-up."""
        risen = (number - self.warm_up) / max(self.ramp, 1)
        return self.weight * min(max(risen, 0.0), 1.0)


class TermNoise(NamedTuple):
    """The random numbers of one step for the term: `[k ...]`, `[k ...]`, `[k]`, `[k]`."""

    noise: Tensor
    second: Tensor
    normal: Tensor
    uniform: Tensor


def fake_inputs(
    term: AdversarialTerm,
    denoiser: Denoiser,
    x0: Tensor,
    label: Tensor | None,
    draws: TermNoise,
    levels: Callable[[Tensor], Tensor],
    calls: int,
) -> tuple[Tensor, Tensor]:
    """The denoiser's inputs for the term: noisy samples `[k ...]` and their level `[k]`.

    Args:
        denoiser: walks the chain down, without gradients.
        x0, label: data, `[k ...]` and `[k]`.
        levels: from standard normal numbers to the levels at which the denoiser trains.
        calls: the chain's length this time.
    """
    if term.source == "chain":
        sigmas = karras_sigmas(calls, term.lowest, term.high)[:-1].tolist()
        x = sigmas[0] * draws.noise
        with torch.no_grad(), eval_mode(denoiser if isinstance(denoiser, nn.Module) else None):
            for now, after in pairwise(sigmas):
                estimate = denoiser(x, draws.uniform.new_full((len(x),), now), label)
                x = estimate + after / now * (x - estimate)  # Euler down the flow, which is DDIM
        return x, draws.uniform.new_full((len(x),), sigmas[-1])
    if term.source == "clean":
        sigma = term.lowest * (term.highest / term.lowest) ** draws.uniform
    else:
        sigma = levels(draws.normal)
    return noised(x0, sigma, draws.noise), sigma


def discriminator_pair(
    term: AdversarialTerm, estimate: Tensor, x0: Tensor, sigma: Tensor, draws: TermNoise
) -> tuple[Tensor, Tensor, Tensor]:
    """The denoiser's estimate from `fake_inputs`, data, and the noise level `[k]` of both.

    Renoised, that level is uniform between `0.75 sigma` and `sigma`; the noise is the same on both
    sides, so that all the discriminator can see is the estimate. That of a perfect denoiser is a
    posterior mean, which less noise would not hide: on the mixture of `tests/oracles.py` the
    Kolmogorov distance to data, at sigma 5, is .37 if noised to half a unit, and below .07 from
    three quarters of sigma on, whatever sigma is. In DMD2 (arXiv:2405.14867) and LADD
    (arXiv:2403.12015) the fakes are samples of a generator, and any level will do.
    """
    if term.source != "renoised":
        return estimate, x0, torch.zeros_like(sigma)
    level = (LEAST_LEVEL + (1 - LEAST_LEVEL) * draws.uniform) * sigma
    again = like(level, x0) * draws.second
    return estimate + again, x0 + again, level
