"""What one share of a batch costs a denoiser, alone or with a discriminator beside it."""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hybridgen.losses.adaptive import adaptive_weight
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.losses.denoising import denoising_loss, noised
from hybridgen.maths.noise import LogNormal
from hybridgen.training.adversarial_term import (
    AdversarialTerm,
    TermNoise,
    discriminator_pair,
    fake_inputs,
)

Losses = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Denoising:
    """The denoising loss of one share.

    Attributes:
        denoiser: as prepared for training.
        classes: the label that stands for "none".
        noise: from standard normal numbers to noise levels.
        data_std: of the data.
    """

    denoiser: nn.Module
    classes: int
    noise: LogNormal
    data_std: float

    def __call__(
        self,
        x0: Tensor,
        label: Tensor | None,
        noise: Tensor,
        normal: Tensor,
        dropped: Tensor,
    ) -> Losses:
        """`total`, from data, labels, noise, numbers of the levels, and which labels to hide."""
        x, sigma, known = self.inputs(x0, label, noise, normal, dropped)
        error = self.error(self.denoiser(x, sigma, known), x0, sigma)
        return {"total": error, "denoising": error.detach()}

    def inputs(
        self, x0: Tensor, label: Tensor | None, noise: Tensor, normal: Tensor, dropped: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the denoiser sees: noisy data, its level, and the labels that were not dropped."""
        sigma = self.noise(normal)
        if label is not None:
            label = torch.where(dropped, torch.full_like(label, self.classes), label)
        return noised(x0, sigma, noise), sigma, label

    def error(self, estimate: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
        """The mean weighted error, a scalar."""
        return denoising_loss(estimate, x0, sigma, self.data_std).mean()


@dataclass(frozen=True, eq=False)
class Hybrid:
    """The denoising loss of one share, the game that is added to it, and the discriminator's own
    loss.

    Attributes:
        plain: what is prepared as `denoising.denoiser`, for what needs no gradient.
        term: the settings of the game.
        adversarial: the discriminator's loss, as prepared for training.
        lender: what is prepared there; lends its discriminator to the denoiser.
    """

    denoising: Denoising
    plain: Any
    term: AdversarialTerm
    adversarial: nn.Module
    adversarial_loss: AdversarialLoss
    accelerator: Accelerator

    def __call__(
        self,
        weight: float,
        calls: int,
        rng: torch.Generator,
        x0: Tensor,
        label: Tensor | None,
        noise: Tensor,
        normal: Tensor,
        dropped: Tensor,
        *draws: Tensor,
    ) -> Losses:
        """`total` for the denoiser, `discriminator` for the discriminator, on one set of
        estimates; and parts.

        Args:
            weight: of the game at this step; with 0 the denoiser does not hear of it.
            calls: the length of the chain at this step.
            rng: draws what the penalties need.
        """
        x, sigma, known = self.denoising.inputs(x0, label, noise, normal, dropped)
        numbers = TermNoise(*draws)
        # Evenly spaced, so that the parts of a batch together take what the whole batch would.
        few = len(numbers.uniform)
        places = torch.arange(few, device=x0.device) * len(x0) // few
        real, wanted = x0[places], None if label is None else label[places]
        with self.accelerator.autocast():
            asked, level = fake_inputs(
                self.term, self.plain, real, wanted, numbers, self.denoising.noise, calls
            )
        # One call for both: distributed training sees one forward for its one backward.
        labels = None if known is None or wanted is None else torch.cat([known, wanted])
        answer = self.denoising.denoiser(torch.cat([x, asked]), torch.cat([sigma, level]), labels)
        error = self.denoising.error(answer[: len(x0)], x0, sigma)
        fake, real, level = discriminator_pair(self.term, answer[len(x0) :], real, level, numbers)
        discriminator = self.adversarial(real, fake, level, wanted, rng=rng)
        losses = {"total": error, "denoising": error.detach()}
        if weight > 0:
            with self.accelerator.autocast():
                game = self.adversarial_loss.generator_loss(fake, real, level, wanted)
            pull = error.new_tensor(weight)
            if self.term.adaptive:
                pull = pull * adaptive_weight(
                    error, game, self.plain.last_layer, mean=self._over_processes
                )
            losses |= {"total": error + pull * game, "generator": game.detach(), "weight": pull}
        own = discriminator.pop("total")  # after its parts, which name better what went wrong
        return losses | discriminator | {"discriminator": own}

    def _over_processes(self, gradient: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return gradient
        return self.accelerator.reduce(gradient, reduction="mean")  # type: ignore[return-value]
