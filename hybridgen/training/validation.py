"""What a guide is asked about samples it has not seen: always the same question.

One half of the samples chooses among the discriminators that a training passes through, the other
half judges the one chosen: the best of many looks good on the samples that chose it, whatever it
knows.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from hybridgen.losses.denoising import noised
from hybridgen.losses.score_matching import score_matching
from hybridgen.maths.rng import rng_for
from hybridgen.protocols import Denoiser, Discriminator

CHANCE = 2 * math.log(2)
"""The cross-entropy of a discriminator that knows nothing, on real and on fake summed, in nats."""
LOWEST = 0.0447
"""The noise level below which a guide is not asked: gradients there are the least certain."""
_AT_ONCE = 1_000


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """A discriminator's held-out result, a mean over the noise levels.

    Attributes:
        bce: cross-entropy in nats, of real and generated samples summed; `CHANCE` is chance.
        gain: how far the loss that was trained is below that of a discriminator which knows
            nothing.
        standard_error: of the gain, over samples.
    """

    bce: float
    gain: float
    standard_error: float

    @property
    def significant(self) -> bool:
        """Whether the gain is more than two of its standard errors."""
        return self.gain > 2 * self.standard_error

    @property
    def sentence(self) -> str:
        """What a person should take from it."""
        word = "significant" if self.significant else "not significant"
        gain = f"{self.gain:.4f} +- {self.standard_error:.4f}"
        return f"the guide's gain is {word}: {gain} over knowing nothing, on held-out samples"


class _Question(NamedTuple):
    clean: Tensor
    sigma: Tensor
    noise: Tensor
    label: Tensor | None


class HeldOutValidation:
    """Held-out samples, noised in the same way whenever they are shown, at a few levels.

    With a denoiser the loss examined is `score_matching`, else `cross_entropy`. Score matching
    leaves a number at each level of the logit undecided; it is chosen on the choosing half of the
    samples before any probability is told.

    Args:
        real, fake: `[n ...]` and `[m ...]`, at least four of each; even rows choose, odd ones
            judge.
        levels: noise levels `[l]`.
        label, fake_label: `[n]` and `[m]`.
        denoiser: of the model to be guided, for score matching.
        seed: names the noise.

    Attributes:
        real, fake: the samples and their labels; as above, even rows choose and odd ones judge.
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
        """What it says of real `[l n]` and generated `[l m]` samples, on the CPU."""
        real, fake = (
            torch.stack(
                [
                    torch.cat(
                        [
                            discriminator(noised(q.clean, q.sigma, q.noise), q.sigma, q.label)
                            for q in level
                        ]
                    )
                    for level in self._questions(side)
                ]
            )
            .double()
            .cpu()
            for side in ("real", "fake")
        )
        if self._denoiser is None:
            return real, fake
        offset = rearrange(_offsets(real[:, ::2], fake[:, ::2]), "l -> l 1")
        return real + offset, fake + offset

    def loss(self, discriminator: Discriminator) -> float:
        """The loss that is trained, less that of knowing nothing, on the choosing half."""
        return -self._gain(discriminator, 0)[0]

    def outcome(self, discriminator: Discriminator) -> ValidationResult:
        """The result on the judging half."""
        gain, error = self._gain(discriminator, 1)
        real, fake = (logits[:, 1::2] for logits in self.logits(discriminator))
        bce = float(F.softplus(-real).mean() + F.softplus(fake).mean())
        return ValidationResult(bce=bce, gain=gain, standard_error=error)

    def window(self, discriminator: Discriminator) -> tuple[float, float]:
        """The noise levels `(low, high)` between which it knows anything, by the choosing half.

        From the lowest to the highest level whose gain is more than two standard errors, and half
        the way (in the logarithm) to the next ones; never below `LOWEST`. All levels from there on
        if there is no such level.
        """
        gains = self._gains(discriminator)
        known = []
        for number in range(len(self.levels)):
            mean, error = _summed([gain[number, ::2] for gain in gains])
            known.append(mean > 2 * error)
        if not any(known):
            return LOWEST, math.inf
        levels = self.levels.double().tolist()
        first, last = known.index(True), len(known) - 1 - known[::-1].index(True)
        low = math.sqrt(levels[first - 1] * levels[first]) if first else 0.0
        high = math.sqrt(levels[last] * levels[last + 1]) if last + 1 < len(levels) else math.inf
        return max(low, LOWEST), max(high, 2 * LOWEST)

    def _gain(self, discriminator: Discriminator, half: int) -> tuple[float, float]:
        """The mean gain over knowing nothing, and its standard error over samples."""
        # The levels of a sample are not apart.
        return _summed([gain.mean(0)[half::2] for gain in self._gains(discriminator)])

    def _gains(self, discriminator: Discriminator) -> list[Tensor]:
        """How much less it loses than knowing nothing, `[l n]` for each kind of samples."""
        if self._denoiser is not None:
            return [self._of_nothing - self._matched(discriminator)]
        real, fake = self.logits(discriminator)
        return [math.log(2) - F.softplus(-real), math.log(2) - F.softplus(fake)]

    def _matched(self, discriminator: Discriminator) -> Tensor:
        """Score matching's loss of each real sample at each level, `[l n]`."""
        rows = []
        for level, estimates in zip(self._questions("real"), self._estimates, strict=True):
            losses = [
                score_matching(
                    discriminator, lambda *_, e=estimate: e, q.clean, q.sigma, q.noise, q.label
                )
                for q, estimate in zip(level, estimates, strict=True)
            ]
            rows.append(torch.cat(losses).detach().double().cpu())
        return torch.stack(rows)

    @cached_property
    def _of_nothing(self) -> Tensor:
        return self._matched(lambda x, sigma, label=None: 0 * x.flatten(1).sum(1))

    @cached_property
    @torch.no_grad()
    def _estimates(self) -> list[list[Tensor]]:
        """What the denoiser makes of the real samples: asked once, it does not change."""
        if self._denoiser is None:
            return []
        return [
            [self._denoiser(noised(q.clean, q.sigma, q.noise), q.sigma, q.label) for q in level]
            for level in self._questions("real")
        ]

    def _questions(self, side: str) -> Iterator[list[_Question]]:
        """For each level the noised samples of one side, in parts that fit into memory."""
        clean, label = self.real if side == "real" else self.fake
        for number, sigma in enumerate(self.levels.tolist()):
            rng = rng_for(self._seed, "exam", side, number)
            noise = torch.randn(clean.shape, generator=rng).to(clean)
            yield [
                _Question(
                    clean[part],
                    clean.new_full((len(clean[part]),), sigma),
                    noise[part],
                    None if label is None else label[part],
                )
                for part in (slice(i, i + _AT_ONCE) for i in range(0, len(clean), _AT_ONCE))
            ]


def _summed(kinds: list[Tensor]) -> tuple[float, float]:
    """The sum of the means of independent sets of numbers, and its standard error."""
    error = math.sqrt(sum(float(kind.var()) / len(kind) for kind in kinds))
    return sum(float(kind.mean()) for kind in kinds), error


def _offsets(real: Tensor, fake: Tensor) -> Tensor:
    """The number to add to each level's logits `[l n]`, `[l m]` for the least cross-entropy.

    `mean sigmoid(-real - c) = mean sigmoid(fake + c)`; the difference falls in c, so halving finds
    it: `[l]`.
    """
    low, high = real.new_full((len(real), 1), -100.0), real.new_full((len(real), 1), 100.0)
    for _ in range(60):
        middle = (low + high) / 2
        missed = (-real - middle).sigmoid().mean(1) - (fake + middle).sigmoid().mean(1)
        rising = rearrange(missed > 0, "l -> l 1")
        low, high = torch.where(rising, middle, low), torch.where(rising, high, middle)
    return rearrange((low + high) / 2, "l 1 -> l")


class BestCheckpoint:
    """The best discriminator so far by the held-out samples, and how long ago it was.

    Attributes:
        module: a copy of it, in eval mode.
        loss: its held-out loss less that of knowing nothing.
        step: when it was.
        waited: looks since.
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
        return {"loss": self.loss, "step": self.step, "waited": self.patience_used}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.loss, self.step, self.patience_used = state["loss"], state["step"], state["waited"]

    def stop(self, step: int, steps: int, patience: int) -> bool:
        """Whether a training of `steps` with this patience ends with `step`."""
        return step == steps or self.patience_used >= patience
