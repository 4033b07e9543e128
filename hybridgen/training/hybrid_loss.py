"""The loss of one micro-batch of a denoiser, alone or with a discriminator beside it."""

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
    """The denoising loss of a micro-batch.

    Attributes:
        network: the denoiser, not prepared; it knows its weights.
        classes: the label that stands for "none".
        noise: from standard normal numbers to noise levels.
        data_std: of the data.
    """

    network: Any
    classes: int
    noise: LogNormal
    data_std: float

    @property
    def models(self) -> dict[str, nn.Module]:
        """What is trained, by name."""
        return {"denoiser": self.network}

    def __call__(
        self,
        denoiser: nn.Module,
        x0: Tensor,
        label: Tensor | None,
        noise: Tensor,
        normal: Tensor,
        dropped: Tensor,
    ) -> Losses:
        """`total`, from data, labels, noise, numbers of the levels, and which labels to hide.

        Args:
            denoiser: as prepared for training.
        """
        x, sigma, label = self.inputs(x0, label, noise, normal, dropped)
        error = self.error(denoiser(x, sigma, label), x0, sigma)
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
    """The denoising loss with the adversarial term, and beside it the discriminator's own loss.

    Attributes:
        denoising: the loss that the term is added to.
        term: where the discriminator's fakes come from, and what the term weighs.
        adversarial: the discriminator's loss, not prepared; lends its discriminator.
    """

    denoising: Denoising
    term: AdversarialTerm
    adversarial: AdversarialLoss
    accelerator: Accelerator

    @property
    def models(self) -> dict[str, nn.Module]:
        """What is trained, by name."""
        return {**self.denoising.models, "discriminator": self.adversarial}

    def __call__(
        self,
        denoiser: nn.Module,
        discriminator_loss: nn.Module,
        weight: float,
        calls: int,
        rng: torch.Generator,
        x0: Tensor,
        label: Tensor | None,
        noise: Tensor,
        normal: Tensor,
        dropped: Tensor,
        *term_noise: Tensor,
    ) -> Losses:
        """`total` for the denoiser, `discriminator` for the discriminator, and parts of both.

        Both learn from one set of estimates.

        Args:
            denoiser, discriminator_loss: as prepared for training.
            weight: of the term at this step; with 0 it does not reach the denoiser.
            calls: the length of the chain at this step.
            rng: draws what the penalties need.
            term_noise: see `TermNoise`.
        """
        plain, draws = self.denoising.network, TermNoise(*term_noise)
        x, sigma, dropped_label = self.denoising.inputs(x0, label, noise, normal, dropped)
        # Evenly spaced, so that all micro-batches together take what the whole batch would.
        few = len(draws.uniform)
        rows = torch.arange(few, device=x0.device) * len(x0) // few
        real, real_label = x0[rows], None if label is None else label[rows]
        with self.accelerator.autocast():
            fake_x, level = fake_inputs(
                self.term, plain, real, real_label, draws, self.denoising.noise, calls
            )
        # One call for both: distributed training sees one forward for its one backward.
        labels = None
        if dropped_label is not None and real_label is not None:
            labels = torch.cat([dropped_label, real_label])
        estimates = denoiser(torch.cat([x, fake_x]), torch.cat([sigma, level]), labels)
        error = self.denoising.error(estimates[: len(x0)], x0, sigma)
        fake, real, level = discriminator_pair(self.term, estimates[len(x0) :], real, level, draws)
        discriminator = discriminator_loss(real, fake, level, real_label, rng=rng)
        losses = {"total": error, "denoising": error.detach()}
        if weight > 0:
            with self.accelerator.autocast():
                adversarial = self.adversarial.generator_loss(fake, real, level, real_label)
            factor = error.new_tensor(weight)
            if self.term.adaptive:
                layer, mean = plain.last_layer, self._over_processes
                factor = factor * adaptive_weight(error, adversarial, layer, mean=mean)
            losses["total"] = error + factor * adversarial
            losses |= {"generator": adversarial.detach(), "weight": factor}
        total = discriminator.pop("total")  # after its parts, which name better what went wrong
        return losses | discriminator | {"discriminator": total}

    def _over_processes(self, gradient: Tensor) -> Tensor:
        return self.accelerator.reduce(gradient, reduction="mean")  # type: ignore[return-value]
