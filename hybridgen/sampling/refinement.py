"""Refinement: finished samples of a model q become samples of the data p by `log p - log q`.

The log ratio of a sample is the logit that a calibrated discriminator, trained on finished samples
of the same sampler, gives it at sigma 0. Samples are chosen, never changed, so what q never makes
stays missing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from hybridgen.maths.rng import rng_from
from hybridgen.protocols import Cost, Sampler
from hybridgen.sampling.settings import How

LogRatio = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Refinement:
    """The refined samples of a batch.

    Attributes:
        samples: `[b ...]`.
        proposal: `[b]`, which proposal each is, 0 for the first.
        unaccepted: `[b]`, true where rejection came to its end and the last proposal was kept; all
            false for the other two, which always choose. The last two are on the CPU.
    """

    samples: Tensor
    proposal: Tensor
    unaccepted: Tensor


@dataclass(frozen=True, eq=False)
class Refined:
    """Several proposals of a sampler for each sample, of which `log p - log q` chooses one.

    The noise given makes the first proposal, so refined and unrefined samples begin alike; that
    of the others is drawn from a generator seeded by it: the same batch of noise, the same samples.
    Two proposals are in memory at a time, however many rounds there are.

    Attributes:
        sampler: draws from q.
        log_ratio: `(x [b ...], label [b] or None) -> log p(x) - log q(x)`, `[b]`, such as
            `hybridgen.evaluation.runs.load_guide(folder).log_ratio`.
        how: `rejection` accepts a proposal if `u < exp(log_ratio - log_bound)`, u uniform in
            [0, 1). With `log_bound = log sup p/q` what is accepted follows p, and its share is
            `exp(-log_bound)` on average; a smaller bound accepts more, and keeps q's proportions
            among the samples whose ratio exceeds it. After the last round the last proposal is
            kept, so a share of samples (see `refine`) still follows q. Source: Azadi et al. 2019,
            arXiv:1810.06758, section 3.1.
            `metropolis_hastings` moves along a chain to each proposal with probability
            `min(1, exp(log_ratio_proposed - log_ratio_current))`. If p/q is at most M, the total
            variation from p after k rounds is at most `(1 - 1/M)^k`. Source: Turner et al. 2019,
            arXiv:1811.11357, algorithm 1; the rate: Mengersen & Tweedie 1996.
            `importance` draws one of all proposals, number j with probability
            `softmax(log_ratio)_j`; what it draws tends to p with more rounds. Source: Rubin 1987,
            sampling importance resampling.
            The latter two need no bound and make every proposal.
        rounds: proposals after the first; for rejection at most.
        log_bound: the largest log ratio, for rejection.
        acceptance: the share of proposals that rejection accepts, if it was measured, for `cost`;
            else `exp(-log_bound)`, which it is for an exact ratio and bound.
    """

    sampler: Sampler
    log_ratio: LogRatio
    how: How = "rejection"
    rounds: int = 10
    log_bound: float | None = None
    acceptance: float | None = None

    def __post_init__(self) -> None:
        if self.how not in get_args(How):
            raise ValueError(f"no refinement {self.how!r}; there are {', '.join(get_args(How))}")
        if self.rounds < 1:
            raise ValueError(
                f"refinement takes at least 1 round, got {self.rounds}; for none use the sampler"
            )
        bounded = self.log_bound is not None and math.isfinite(self.log_bound)
        if self.how == "rejection" and not bounded:
            raise ValueError(
                "rejection needs a finite log_bound, the largest log ratio, got "
                f"{self.log_bound}; give it, or choose metropolis_hastings or importance"
            )
        if self.acceptance is not None and not 0 < self.acceptance <= 1:
            raise ValueError(f"acceptance is a share above 0, got {self.acceptance}")

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """That of the sampler."""
        return self.sampler.noise_shape

    @property
    def cost(self) -> Cost:
        """Network calls of one sample; a discriminator scores every proposal.

        Rejection makes `(1 - (1 - a)^(k+1)) / a` proposals in k rounds on average, the others k+1.
        """
        proposals: float = self.rounds + 1
        if self.how == "rejection":
            share = self.acceptance
            if share is None:
                share = min(1.0, math.exp(-(self.log_bound or 0.0)))
            proposals = (1 - (1 - share) ** proposals) / share
        return (self.sampler.cost + Cost(discriminator_forward=1)) * proposals

    def __call__(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """`noise [b *noise_shape]`, `label [b]` -> samples `[b ...]`."""
        return self.refine(noise, label).samples

    @torch.no_grad()
    def refine(self, noise: Tensor, label: Tensor | None = None) -> Refinement:
        """Samples, and which proposal each of them is.

        Raises:
            ValueError: noise of another shape, log ratios that are not `[b]` or no numbers.
        """
        rng, rejecting = rng_from(noise), self.how == "rejection"
        bound = self.log_bound or 0.0
        x, ratio = self._proposed(noise, label)
        # The choices are made on the CPU, in float64, which not every accelerator has.
        x, rows = x.clone(), torch.arange(len(x))
        proposal = torch.zeros_like(rows)
        if rejecting:
            rows = rows[_uniform(ratio, rng).log() >= ratio - bound]
        for number in range(1, self.rounds + 1):
            if not len(rows):
                break
            shape = (len(rows), *self.noise_shape)
            fresh = torch.randn(shape, generator=rng, device=noise.device, dtype=noise.dtype)
            labels = None if label is None else label[rows.to(label.device)]
            candidate, proposed = self._proposed(fresh, labels)
            uniform = _uniform(proposed, rng)
            if rejecting:
                x[rows.to(x.device)], proposal[rows] = candidate, number
                rows = rows[uniform.log() >= proposed - bound]
                continue
            # Between two impossible states the difference is no number, and nothing moves.
            if self.how == "metropolis_hastings":
                moves = uniform.log() < proposed - ratio
                ratio = torch.where(moves, proposed, ratio)
            else:
                # A chosen sample competes with the sum of the weights it was chosen among.
                moves = uniform >= (ratio - proposed).sigmoid()
                ratio = torch.logaddexp(ratio, proposed)
            x[moves.to(x.device)], proposal[moves] = candidate[moves.to(x.device)], number
        unaccepted = torch.zeros(len(x), dtype=torch.bool)
        unaccepted[rows] = rejecting
        return Refinement(samples=x, proposal=proposal, unaccepted=unaccepted)

    def _proposed(self, noise: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """A proposal and its log ratio, `[b ...]` and `[b]` in float64 on the CPU."""
        x = self.sampler(noise, label)
        ratio = self.log_ratio(x, label).cpu().double()
        if ratio.shape != (len(x),):
            raise ValueError(
                f"expected one log ratio a sample, [{len(x)}], got shape {list(ratio.shape)}"
            )
        wrong = int((ratio.isnan() | ratio.isposinf()).sum())
        if wrong:
            raise ValueError(
                f"{wrong} of {len(ratio)} log ratios are nan or infinite; "
                "take the discriminator's raw logits of finite samples"
            )
        return x, ratio


def _uniform(ratio: Tensor, rng: torch.Generator) -> Tensor:
    """Numbers from [0, 1), one for each of `ratio [b]`, float64 on the CPU."""
    precise = torch.float64 if rng.device.type == "cpu" else torch.float32
    uniform = torch.rand(len(ratio), generator=rng, device=rng.device, dtype=precise)
    return uniform.cpu().double()
