"""Validation of a guide on held-out samples, always with the same noise, and early stopping.

One half of the samples chooses among the discriminators that a training passes through, and the
noise levels at which each is asked. The other half says how good the one chosen is there: the best
of many looks good on the samples that chose it, even if it has learnt nothing. At levels where it
is not asked it changes nothing, so whatever it says there counts as nothing.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from scipy.special import ndtr, stdtrit
from torch import Tensor, nn

from hybridgen.losses.answers import one_logit
from hybridgen.losses.denoising import noised
from hybridgen.losses.score_matching import score_matching
from hybridgen.maths.rng import rng_for
from hybridgen.networks.blocks import in_chunks
from hybridgen.protocols import Denoiser, Discriminator
from hybridgen.sampling.guidance import LOWEST

CHANCE = 2 * math.log(2)
"""The cross-entropy of a constant logit of 0, on real and on fake samples summed, in nats."""
_AT_ONCE = 1_000
_DRAWS = "exam"
"""Names the noise; another name is other noise, and recorded figures would not be met again."""


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """A discriminator's held-out result, a mean over the noise levels of its window.

    Attributes:
        bce: cross-entropy in nats, of real and generated samples summed; `CHANCE` is chance.
        gain: how far the loss that was trained is below that of a constant logit.
        standard_error: of the gain, over samples.
        degrees: of freedom of the standard error.
    """

    bce: float
    gain: float
    standard_error: float
    degrees: float = math.inf

    @property
    def significant(self) -> bool:
        """Whether the gain exceeds chance, see `exceeds_chance`."""
        return exceeds_chance(self.gain, self.standard_error, self.degrees)

    @property
    def sentence(self) -> str:
        """The gain in words, for a person."""
        word = "significant" if self.significant else "not significant"
        gain = f"{self.gain:.4f} +- {self.standard_error:.4f}"
        return f"the guide's gain is {word}: {gain} over knowing nothing, on held-out samples"


class HeldOutValidation:
    """Held-out samples at a few noise levels, with the same noise in every validation.

    With a denoiser the loss is `score_matching`, else cross-entropy. Score matching leaves the
    logit undecided up to a number at each level; it is chosen on the choosing half of the samples
    before any probability is computed.

    Args:
        real, fake: `[n ...]` and `[m ...]`, at least four of each; even rows choose, odd ones
            say how good the choice is.
        levels: noise levels `[l]`.
        label, fake_label: `[n]` and `[m]`.
        denoiser: of the model to be guided, for score matching.
        seed: names the noise.

    Attributes:
        real, fake: the samples and their labels, rows as above.
    """

    def __init__(
        self,
        real: Tensor,
        fake: Tensor,
        levels: Tensor,
        *,
        label: Tensor | None = None,
        fake_label: Tensor | None = None,
        denoiser: Denoiser | None = None,
        seed: int = 0,
    ) -> None:
        if min(len(real), len(fake)) < 4:
            raise ValueError(
                f"a validation needs at least four samples of each kind, got {len(real)} real and "
                f"{len(fake)} generated ones"
            )
        self.levels, self._denoiser, self._seed = levels, denoiser, seed
        self.real, self.fake = (real, label), (fake, fake_label)

    @torch.no_grad()
    def logits(self, discriminator: Discriminator) -> tuple[Tensor, Tensor]:
        """Logits of the real `[l n]` and generated `[l m]` samples, float64 on the CPU."""
        answer = _on_noised(discriminator)

        def logits(x: Tensor, *others: Any) -> Tensor:
            return one_logit(answer(x, *others), len(x))

        real, fake = (self._at_levels(logits, side).cpu().double() for side in ("real", "fake"))
        if self._denoiser is None:
            return real, fake
        offset = offsets(real[:, ::2], fake[:, ::2])
        return real + offset, fake + offset

    def loss(self, discriminator: Discriminator) -> float:
        """The loss that is trained, less that of a constant logit, on the choosing half: a mean
        over all levels, of which those outside the window count as a constant logit's.
        """
        gains = self._gains(discriminator)
        inside = self._significant_levels(gains)
        gain, _, _ = _summed([gain[inside, ::2].mean(0) for gain in gains])
        return -gain * len(self.levels[inside]) / len(self.levels)

    def outcome(self, discriminator: Discriminator) -> ValidationResult:
        """The result inside the window, on the half that chose nothing."""
        gains = self._gains(discriminator)
        inside = self._significant_levels(gains)
        # Averaged over levels first: one sample's losses at two levels are not independent.
        gain, error, degrees = _summed([gain[inside, 1::2].mean(0) for gain in gains])
        real, fake = (logits[inside, 1::2] for logits in self.logits(discriminator))
        bce = float(F.softplus(-real).mean() + F.softplus(fake).mean())
        return ValidationResult(bce=bce, gain=gain, standard_error=error, degrees=degrees)

    def window(self, discriminator: Discriminator, top: float = math.inf) -> tuple[float, float]:
        """The noise levels `(low, high)` of significant gain, on the choosing half; below `top`.

        From the lowest to the highest level whose gain exceeds chance, and half the way (in the
        logarithm) to the next ones; never below `LOWEST`. All levels from there on if there is no
        such level.
        """
        levels = self.levels.cpu().double().tolist()
        inside = self._significant_levels(self._gains(discriminator))
        first, stop = inside.start, inside.stop
        if inside == slice(0, len(levels)):
            return LOWEST, max(top, 2 * LOWEST)
        low = math.sqrt(levels[first - 1] * levels[first]) if first else 0.0
        high = math.sqrt(levels[stop - 1] * levels[stop]) if stop < len(levels) else top
        return max(low, LOWEST), max(high, 2 * LOWEST)

    def _significant_levels(self, gains: Sequence[Tensor]) -> slice:
        """From the first to the last level with significant gain, on the choosing half; all levels
        if there is none."""
        at_levels = zip(*(gain[:, ::2] for gain in gains), strict=True)
        significant = [n for n, each in enumerate(at_levels) if exceeds_chance(*_summed(each))]
        return (
            slice(significant[0], significant[-1] + 1)
            if significant
            else slice(0, len(self.levels))
        )

    def _gains(self, discriminator: Discriminator) -> list[Tensor]:
        """How far its loss is below that of a constant logit, `[l n]` for each kind of samples."""
        if self._denoiser is not None:
            return [self._constant_losses - self._matched(discriminator)]
        real, fake = self.logits(discriminator)
        return [math.log(2) - F.softplus(-real), math.log(2) - F.softplus(fake)]

    def _matched(self, discriminator: Discriminator) -> Tensor:
        """Score matching's loss of each real sample at each level, `[l n]`."""

        def loss(x: Tensor, *others: Any) -> Tensor:
            estimate = others[-1]
            return score_matching(discriminator, lambda *_: estimate, x, *others[:-1]).detach()

        return self._at_levels(loss, "real", self._estimates).cpu().double()

    @cached_property
    def _constant_losses(self) -> Tensor:
        """`_matched` of a logit without slope, `[l n]`."""
        return self._matched(lambda x, sigma, label=None: 0 * x.flatten(1).sum(1))

    @cached_property
    @torch.no_grad()
    def _estimates(self) -> Tensor:
        """The denoiser's estimates of the noised real samples, the same in all validations."""
        return self._at_levels(_on_noised(self._denoiser), "real")

    def _at_levels(
        self, function: Callable[..., Tensor], side: str, estimates: Tensor | None = None
    ) -> Tensor:
        """`function(clean, sigma, noise, label)` of one side's samples, `[l n ...]`.

        `estimates [l n ...]`, if any, are its last argument.
        """
        clean, label = self.real if side == "real" else self.fake
        rows = []
        for number, sigma in enumerate(self.levels.tolist()):
            rng = rng_for(self._seed, _DRAWS, side, number)
            noise = torch.randn(clean.shape, generator=rng).to(clean)
            others = [clean.new_full((len(clean),), sigma), noise, label]
            others += [] if estimates is None else [estimates[number]]
            rows.append(in_chunks(function, clean, *others, size=_AT_ONCE))
        return torch.stack(rows)


def _on_noised(network: Any) -> Callable[..., Tensor]:
    """A discriminator or denoiser as a function of clean samples, their level, noise and label."""
    return lambda x, sigma, noise, label: network(noised(x, sigma, noise), sigma, label)


def exceeds_chance(gain: float, error: float, degrees: float) -> bool:
    """Whether a gain is more than two of its standard errors, as far as one of many samples goes:
    Student's quantile of the same probability, 2.3 %, is greater where they are few."""
    return gain > float(stdtrit(degrees, ndtr(2.0))) * error


def _summed(kinds: Sequence[Tensor]) -> tuple[float, float, float]:
    """The sum of the means of independent sets of numbers, its standard error, and degrees of
    freedom: those of the smallest set, which are no more than there are."""
    error = math.sqrt(sum(float(kind.var()) / len(kind) for kind in kinds))
    return sum(float(kind.mean()) for kind in kinds), error, min(map(len, kinds)) - 1


def offsets(real: Tensor, fake: Tensor) -> Tensor:
    """The numbers `[l 1]` to add to all levels' logits `[l n]`, `[l m]` for least cross-entropy.

    It solves `mean sigmoid(-real - c) = mean sigmoid(fake + c)` by bisection: the difference of
    the two sides falls in c.
    """
    both = torch.cat([real, fake], dim=1)
    low, high = -both.amax(1, keepdim=True) - 40, 40 - both.amin(1, keepdim=True)
    for _ in range(60):
        middle = (low + high) / 2
        missed, taken = (-real - middle).sigmoid(), (fake + middle).sigmoid()
        rising = missed.mean(1, keepdim=True) > taken.mean(1, keepdim=True)
        low, high = torch.where(rising, middle, low), torch.where(rising, high, middle)
    return (low + high) / 2


class BestCheckpoint:
    """The best discriminator so far on the held-out samples, for early stopping.

    Attributes:
        module: a copy of it, in eval mode.
        loss: its held-out loss less that of a constant logit.
        step: of the training at which it was.
        patience_used: validations since then.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = copy.deepcopy(module)
        self.loss, self.step, self.patience_used = math.inf, 0, 0

    def update(self, module: nn.Module, loss: float, step: int) -> None:
        """Keep a copy of `module` if it is better than all before."""
        self.patience_used += 1
        if loss < self.loss:
            self.module.load_state_dict(module.state_dict())
            self.loss, self.step, self.patience_used = loss, step, 0

    def state_dict(self) -> dict[str, float]:
        """The numbers; the module is saved by itself."""
        return {"loss": self.loss, "step": self.step, "patience_used": self.patience_used}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        vars(self).update({name: state[name] for name in self.state_dict()})

    def stop(self, step: int, steps: int, patience: int) -> bool:
        """Whether a training of `steps` with this patience ends with `step`."""
        return step == steps or self.patience_used >= patience
