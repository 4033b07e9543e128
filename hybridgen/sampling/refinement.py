"""Samplers refined by a density ratio: several proposals for each sample, one of them chosen."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor

from hybridgen.maths.rng import rng_from
from hybridgen.protocols import Cost, Sampler
from hybridgen.sampling.acceptance import importance_choice, metropolis_hastings, rejection

LogRatio = Callable[[Tensor, Tensor | None], Tensor]
How = Literal["rejection", "metropolis_hastings", "importance"]


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
        if self.how == "rejection" and (
            self.log_bound is None or not math.isfinite(self.log_bound)
        ):
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
        step = self._until_accepted if self.how == "rejection" else self._chosen_among_all
        rng = rng_from(noise)
        x, ratio = self._proposed(noise, label)
        return step(x.clone(), ratio, noise, label, rng)

    def _until_accepted(
        self,
        x: Tensor,
        ratio: Tensor,
        noise: Tensor,
        label: Tensor | None,
        rng: torch.Generator,
    ) -> Refinement:
        proposal = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        rows = torch.arange(len(x), device=x.device)  # those that wait for an acceptance
        for number in range(self.rounds + 1):
            if number > 0:
                x[rows], ratio = self._again(noise, label, rows, rng)
                proposal[rows] = number
            rows = rows[~rejection(ratio, self.log_bound or 0.0, _uniform(len(rows), rng))]
            if not len(rows):
                break
        unaccepted = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        unaccepted[rows] = True
        return Refinement(samples=x, proposal=proposal, unaccepted=unaccepted)

    def _chosen_among_all(
        self,
        x: Tensor,
        ratio: Tensor,
        noise: Tensor,
        label: Tensor | None,
        rng: torch.Generator,
    ) -> Refinement:
        proposal = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        everyone = torch.arange(len(x), device=x.device)
        for number in range(1, self.rounds + 1):
            candidate, candidate_ratio = self._again(noise, label, everyone, rng)
            pair, uniform = torch.stack([ratio, candidate_ratio], dim=1), _uniform(len(x), rng)
            if self.how == "metropolis_hastings":
                moves = metropolis_hastings(pair, rearrange(uniform, "n -> n 1")) == 1
                ratio = torch.where(moves, candidate_ratio, ratio)
            else:
                # A chosen sample competes with the sum of the weights it was chosen among.
                moves = importance_choice(pair, uniform) == 1
                ratio = torch.logaddexp(ratio, candidate_ratio)
            x[moves], proposal[moves] = candidate[moves], number
        return Refinement(
            samples=x, proposal=proposal, unaccepted=torch.zeros_like(proposal, dtype=torch.bool)
        )

    def _again(
        self, noise: Tensor, label: Tensor | None, rows: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        shape = (len(rows), *self.noise_shape)
        fresh = torch.randn(shape, generator=rng, device=noise.device, dtype=noise.dtype)
        return self._proposed(fresh, None if label is None else label[rows])

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
