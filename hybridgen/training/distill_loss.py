"""The losses of one round of distillation: of the student and of those that pull at it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from einops import reduce
from torch import Tensor, nn

from hybridgen.losses.adaptive import AdversarialWeight
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.losses.denoising import denoising_loss, noised
from hybridgen.losses.distillation import (
    distribution_matching,
    divergence_weight,
    matching_direction,
)
from hybridgen.maths.noise import like
from hybridgen.training.optim import TrainingSetup
from hybridgen.training.settings import DistillTraining
from hybridgen.training.terms import Matching, StudentTerm

Losses = dict[str, Tensor]


class Draws(NamedTuple):
    """The random numbers of one round: normal, `[b k ...]` for a path of k levels and `[b ...]`
    for noise; normal and uniform, `[b]`, for levels.

    `real` and `fake` are noised to the game's levels, of which a share is `clean`; the follower
    learns and is compared with noise of its own.
    """

    path: Tensor
    real: Tensor
    fake: Tensor
    learnt: Tensor
    matched: Tensor
    learnt_level: Tensor
    matched_level: Tensor
    game_level: Tensor
    clean: Tensor

    @classmethod
    def of(cls, setup: TrainingSetup, levels: int, x: Tensor, rng: torch.Generator) -> "Draws":
        """A process's share, of samples like `x [? ...]`."""
        shape, batch = x.shape[1:], setup.config.batch
        normal = partial(setup.normal, rng, batch, x)
        numbers = {"generator": rng, "device": x.device, "dtype": x.dtype}
        return cls(
            path=normal(levels, *shape),
            real=normal(*shape),
            fake=normal(*shape),
            learnt=normal(*shape),
            matched=normal(*shape),
            learnt_level=normal(),
            matched_level=setup.share(torch.rand(batch, **numbers)),
            game_level=setup.share(torch.rand(batch, **numbers)),
            clean=setup.share(torch.rand(batch, **numbers)),
        )


class Pairs(NamedTuple):
    """Inputs at each of k levels, and what the teacher's sampler makes of them from there,
    `[k n ...]`, with labels in turn if there are classes."""

    start: Tensor
    sample: Tensor

    def rows(self, uniform: Tensor, label: Tensor | None, classes: int) -> Tensor:
        """Places `[b]` of pairs with the labels `[b]`, from numbers `[b]` uniform in [0, 1)."""
        each = max(classes, 1)
        turn = (uniform * (self.start.shape[1] // each)).long()
        return turn * each + (0 if label is None else label)


@dataclass(frozen=True, eq=False)
class Distillation:
    """The losses of one round on a micro-batch: of student, follower and discriminator.

    All learn from the ends of the student's own path down the levels, where only the last estimate
    has a gradient (Yin et al. 2024, DMD2, arXiv:2405.14867, section 4.5), and for a share of the
    batch from inputs of pairs in its place, while these have a weight. All denoisers are in
    eval mode, because a sampler has no dropout.

    Attributes:
        student, follower, adversarial: not prepared.
        teacher: answers beside the follower.
        levels: falling, those that the student's sampler visits.
        low: the level that an estimate counts as, as its scheduler has it: what is added to reach
            level s is `sqrt(s^2 - low^2)`.
        data_std: of the data.
        strength: the weight of the adversarial term.
    """

    student: Any
    teacher: Any
    follower: Any
    adversarial: AdversarialLoss | None
    levels: Sequence[float]
    data_std: float
    config: DistillTraining
    term: StudentTerm
    matching: Matching
    strength: AdversarialWeight
    accelerator: Accelerator
    low: float = 0.0

    def path(self, noise: Tensor, place: int, label: Tensor | None) -> Tensor:
        """The student's input `[b ...]` at `levels[place]`, from its own estimates above it.

        Args:
            noise: `[b k ...]`, standard normal, for each level.
        """
        x = self.levels[0] * noise[:, 0]
        with torch.no_grad(), self.accelerator.autocast():
            for i in range(place):
                estimate = self.student(x, x.new_full((len(x),), self.levels[i]), label)
                added = math.sqrt(self.levels[i + 1] ** 2 - self.low**2)
                x = estimate + added * noise[:, i + 1]
        return x

    def __call__(
        self,
        prepared: dict[str, nn.Module],
        place: int,
        rng: torch.Generator,
        moves: bool,
        regression: float,
        real: Tensor,
        label: Tensor | None,
        start: Tensor | None,
        target: Tensor | None,
        paired: Tensor | None,
        *draws: Tensor,
    ) -> Losses:
        """`total` of the student if it `moves`, `follower`, `discriminator`, and their parts.

        Args:
            prepared: the models by name, as prepared for training; without those that neither
                learn nor pull.
            place: of the level in which the path ends.
            rng: draws what the penalties need.
            moves: whether the student does.
            regression: its weight.
            start, target: `[b ...]`, inputs at that level and what the teacher makes of them.
            paired: `[b]`, weights of their errors, of mean 1 over the whole batch; 0 where the
                student goes on from its own path.
            draws: see `Draws`.
        """
        drawn, losses, parts = Draws(*draws), {}, {}
        if start is not None and paired is not None and regression > 0:
            x = start.to(real)
            if len(prepared) > 1:
                path = self.path(drawn.path, place, label)
                x = torch.where(like(paired, x) > 0, x, path)
        else:
            x = self.path(drawn.path, place, label)
        with torch.set_grad_enabled(moves):
            sample = prepared["student"](x, x.new_full((len(x),), self.levels[place]), label)
        total = sample.new_zeros(())
        if "follower" in prepared:
            level = self.config.noise(drawn.learnt_level)
            noisy = noised(sample.detach(), level, drawn.learnt), level, label
            error = denoising_loss(
                prepared["follower"](*noisy), sample.detach(), level, self.data_std
            )
            losses["follower"] = error.mean()
            if moves:
                pull = distribution_matching(sample, self.direction(sample, label, drawn)).mean()
                parts["matching"], total = pull.detach(), total + self.matching.weight * pull
        if moves and target is not None and paired is not None:
            error = reduce((sample - target).square(), "b ... -> b", "mean")
            error = (error * paired).mean()
            parts["regression"], total = error.detach(), total + regression * error
        if self.adversarial is not None and "discriminator" in prepared:
            level = self.term.noise(drawn.game_level)
            level = torch.where(drawn.clean < self.term.clean, 0.0, level)
            compared = {
                "real": noised(real, level, drawn.real),
                "fake": noised(sample, level, drawn.fake),
                "sigma": level,
                "label": label,
            }
            detached = {**compared, "fake": compared["fake"].detach()}
            answer = prepared["discriminator"](**detached, rng=rng)
            losses["discriminator"] = answer.pop("total")
            parts |= answer
            if moves and self.strength.scheduled > 0:
                with self.accelerator.autocast():
                    game = self.adversarial.generator_loss(**compared)
                last_layer = getattr(
                    self.student, "last_layer", None
                )  # not of a pipeline's network
                output = sample if last_layer is None else None
                weight = self.strength(total, game, last_layer, output=output)
                total = total + weight * game
                parts |= {"generator": game.detach(), "weight": weight}
        if moves:
            losses["total"] = total
        return parts | losses  # after their parts, which name better what went wrong

    def direction(self, sample: Tensor, label: Tensor | None, draws: Draws) -> Tensor:
        """Where follower and teacher disagree about the samples `[b ...]`, see
        `matching_direction`."""
        with torch.no_grad(), self.accelerator.autocast():
            level = self.matching.noise(draws.matched_level)
            noisy = noised(sample.detach(), level, draws.matched), level, label
            follower, teacher, weight = self.follower(*noisy), self.teacher(*noisy), None
            if self.adversarial is not None and self.matching.divergence != "reverse_kl":
                logit = self.adversarial.discriminator(*noisy)
                weight = divergence_weight(logit.float(), self.matching.divergence)
            return matching_direction(sample, follower, teacher, weight)
