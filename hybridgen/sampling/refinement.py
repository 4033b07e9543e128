"""Refinement: finished samples of a model q become samples of the data p by `log p - log q`.

The log ratio of a sample is the logit that a calibrated discriminator, trained on finished samples
of the same sampler, gives it at sigma 0. Samples are chosen, never changed, so what q never makes
stays missing. The three rules work on log ratios alone; `Refined` draws the proposals as well.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor

from hybridgen.maths.rng import rng_from
from hybridgen.protocols import Cost, Sampler

LogRatio = Callable[[Tensor, Tensor | None], Tensor]
How = Literal["rejection", "metropolis_hastings", "importance"]


def rejection(log_ratio: Tensor, log_bound: float, uniform: Tensor) -> Tensor:
    """Accept sample i if `uniform_i < exp(log_ratio_i - log_bound)`; what is accepted follows p.

    With `log_bound = log sup p/q` the fraction accepted is `exp(-log_bound)` on average. A smaller
    bound accepts more, and keeps q's proportions among the samples whose ratio exceeds it.
    Source: Azadi et al. 2019, arXiv:1810.06758, section 3.1.

    Args:
        log_ratio: `[n]`; minus infinity is never accepted.
        log_bound: the largest log ratio there is, or an estimate of it.
        uniform: `[n]`, drawn from [0, 1).

    Returns:
        `[n]`, true where accepted.

    Raises:
        ValueError: sizes that do not match, log ratios or a bound that are no numbers, uniforms
            outside [0, 1).
    """
    _check(log_ratio, uniform, "n", "n")
    if not math.isfinite(log_bound):
        raise ValueError(f"log_bound must be finite, got {log_bound}")
    return uniform.double().log() < log_ratio.double() - log_bound


def metropolis_hastings(log_ratio: Tensor, uniform: Tensor) -> Tensor:
    """Where each of n chains over k + 1 independent samples ends; needs no bound on the ratio.

    A chain starts at column 0 and moves to proposal j = 1..k with probability
    `min(1, exp(log_ratio_j - log_ratio_current))`. If p/q is at most M, the total variation from p
    is at most `(1 - 1/M)^k`; chains that start at real samples follow p from the first step on.
    Source: Turner et al. 2019, arXiv:1811.11357, algorithm 1; the rate: Mengersen & Tweedie 1996.

    Args:
        log_ratio: `[n k+1]`, one row a chain.
        uniform: `[n k]`, drawn from [0, 1).

    Returns:
        `[n]`, the column (int64, 0..k) of each chain's last state.

    Raises:
        ValueError: as `rejection`.
    """
    _check(log_ratio, uniform, "n k+1", "n k")
    chains, columns = log_ratio.shape
    ratios, draws = log_ratio.double(), uniform.double().log()
    index = torch.zeros(chains, dtype=torch.int64, device=log_ratio.device)
    current = ratios[:, 0]
    for proposal in range(1, columns):
        proposed = ratios[:, proposal]
        # Between two impossible states the difference is no number, and the chain stays.
        moves = draws[:, proposal - 1] < proposed - current
        current = torch.where(moves, proposed, current)
        index = index.masked_fill(moves, proposal)
    return index


def importance_choice(log_ratio: Tensor, uniform: Tensor) -> Tensor:
    """One of each row's candidates, column j with probability `softmax(log_ratio)_j`.

    What is chosen from k + 1 independent samples of q tends to p as k grows, and rows stay
    independent: nothing is repeated. Source: Rubin 1987, sampling importance resampling.

    Args:
        log_ratio: `[n k+1]`; a row of minus infinities chooses its first column.
        uniform: `[n]`, drawn from [0, 1); the column is where it falls in the row's distribution.

    Returns:
        `[n]`, the column (int64, 0..k).

    Raises:
        ValueError: as `rejection`.
    """
    _check(log_ratio, uniform, "n k+1", "n")
    ratios = log_ratio.double()
    highest = ratios.max(dim=1, keepdim=True).values
    weights = torch.where(highest.isneginf(), 1.0, (ratios - highest).exp())
    weights[:, 1:] = weights[:, 1:].masked_fill(highest.isneginf(), 0.0)
    reached = weights.cumsum(dim=1)
    # Divided by its own end, so that rounding leaves no gap below 1.
    below = reached / reached[:, -1:] <= rearrange(uniform.double(), "n -> n 1")
    return below.sum(dim=1)


def _check(log_ratio: Tensor, uniform: Tensor, axes: str, uniform_axes: str) -> None:
    """Refuse shapes other than these, log ratios that are no numbers, uniforms off [0, 1)."""
    if log_ratio.ndim != len(axes.split()) or log_ratio.numel() == 0:
        raise ValueError(
            f"expected log ratios [{axes}], not empty, got shape {list(log_ratio.shape)}"
        )
    wrong = int((torch.isnan(log_ratio) | torch.isposinf(log_ratio)).sum())
    if wrong:
        raise ValueError(
            f"{wrong} of {log_ratio.numel()} log ratios are nan or infinite; "
            "take the discriminator's raw logits of finite samples"
        )
    sizes = {"n": len(log_ratio), "k": log_ratio.shape[-1] - 1}
    shape = [sizes[axis] for axis in uniform_axes.split()]
    if list(uniform.shape) != shape:
        raise ValueError(f"expected uniforms of shape {shape}, got {list(uniform.shape)}")
    if not bool(((uniform >= 0) & (uniform < 1)).all()):
        raise ValueError("expected uniforms in [0, 1), as torch.rand draws them")


@dataclass(frozen=True, kw_only=True, eq=False)
class Refinement:
    """The refined samples of a batch.

    Attributes:
        samples: `[b ...]`.
        proposal: `[b]`, which proposal each is, 0 for the first.
        unaccepted: `[b]`, true where rejection came to its end and the last proposal was kept; all
            false for the other two, which always choose.
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
        how: `rejection` proposes until one is accepted; after the last round the last proposal is
            kept, so a share of samples (see `refine`) still follows q. `metropolis_hastings` moves
            along a chain of proposals. `importance` draws one of them by its weight. The latter two
            need no bound and make every proposal.
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
    def proposals(self) -> float:
        """Proposals made for a sample; of rejection their mean, `(1 - (1 - a)^(k+1)) / a`."""
        if self.how != "rejection":
            return self.rounds + 1
        share = self.acceptance
        if share is None:
            share = min(1.0, math.exp(-(self.log_bound or 0.0)))
        return (1 - (1 - share) ** (self.rounds + 1)) / share

    @property
    def calls(self) -> float:
        """Denoiser or generator calls, expected for rejection."""
        return self.cost.calls

    @property
    def cost(self) -> Cost:
        """Network calls, expected for rejection; a discriminator scores every proposal."""
        return (self.sampler.cost + Cost(discriminator_forward=1)) * self.proposals

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
        x, rows = x.clone(), torch.arange(len(x), device=x.device)
        proposal = torch.zeros_like(rows)
        if rejecting:
            rows = rows[~rejection(ratio, bound, _uniform(len(rows), rng))]
        for number in range(1, self.rounds + 1):
            if not len(rows):
                break
            shape = (len(rows), *self.noise_shape)
            fresh = torch.randn(shape, generator=rng, device=noise.device, dtype=noise.dtype)
            candidate, candidate_ratio = self._proposed(
                fresh, None if label is None else label[rows]
            )
            uniform = _uniform(len(rows), rng)
            if rejecting:
                x[rows], proposal[rows] = candidate, number
                rows = rows[~rejection(candidate_ratio, bound, uniform)]
                continue
            pair = torch.stack([ratio, candidate_ratio], dim=1)
            if self.how == "metropolis_hastings":
                moves = metropolis_hastings(pair, rearrange(uniform, "n -> n 1")) == 1
                ratio = torch.where(moves, candidate_ratio, ratio)
            else:
                # A chosen sample competes with the sum of the weights it was chosen among.
                moves = importance_choice(pair, uniform) == 1
                ratio = torch.logaddexp(ratio, candidate_ratio)
            x[moves], proposal[moves] = candidate[moves], number
        unaccepted = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        unaccepted[rows] = rejecting
        return Refinement(samples=x, proposal=proposal, unaccepted=unaccepted)

    def _proposed(self, noise: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """A proposal and its log ratio, `[b ...]` and `[b]`."""
        x = self.sampler(noise, label)
        ratio = self.log_ratio(x, label)
        if ratio.shape != (len(x),):
            raise ValueError(
                f"expected one log ratio a sample, [{len(x)}], got shape {list(ratio.shape)}"
            )
        return x, ratio.double()


def _uniform(count: int, rng: torch.Generator) -> Tensor:
    return torch.rand(count, generator=rng, device=rng.device, dtype=torch.float64)
