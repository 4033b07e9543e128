"""The loss of one micro-batch of a denoiser, alone or with a discriminator beside it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from hybridgen.losses.adaptive import AdversarialWeight
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.losses.denoising import denoising_loss, noised
from hybridgen.networks.blocks import eval_mode
from hybridgen.training.adversarial_term import TermNoise, discriminator_pair, fake_inputs
from hybridgen.training.settings import LogNormal
from hybridgen.training.terms import AdversarialTerm

Losses = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Denoising:
    """The denoising loss of a micro-batch.

    Attributes:
        network: the denoiser, not prepared; the label that stands for "none" is its `classes`.
        noise: from standard normal numbers to noise levels.
        data_std: of the data.
    """

    network: Any
    noise: LogNormal
    data_std: float

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
        error = denoising_loss(denoiser(x, sigma, label), x0, sigma, self.data_std).mean()
        return {"total": error, "denoising": error.detach()}

    def inputs(
        self, x0: Tensor, label: Tensor | None, noise: Tensor, normal: Tensor, dropped: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the denoiser sees: noisy data, its level, and the labels that were not dropped."""
        sigma = self.noise(normal)
        if label is not None:
            none = torch.full_like(label, getattr(self.network, "classes", 0))
            label = torch.where(dropped, none, label)
        return noised(x0, sigma, noise), sigma, label


@dataclass(frozen=True, eq=False)
class Hybrid:
    """The denoising loss with the adversarial term, and beside it the discriminator's own loss.

    Attributes:
        denoising: the loss that the term is added to.
        term: where the discriminator's fakes come from, and what the term weighs.
        adversarial: the discriminator's loss, not prepared; lends its discriminator.
        strength: the term's weight at each step; where it is 0 the term does not reach the
            denoiser.
    """

    denoising: Denoising
    term: AdversarialTerm
    adversarial: AdversarialLoss
    accelerator: Accelerator
    strength: AdversarialWeight

    @cached_property
    def _drops_out(self) -> bool:
        parts = self.denoising.network.modules()
        return any(isinstance(part, _DropoutNd) and part.p > 0 for part in parts)

    def __call__(
        self,
        denoiser: nn.Module,
        discriminator_loss: nn.Module,
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
        if self._drops_out:
            # A sampler has no dropout, and a chain that ends in one would be another model's. This
            # graph joins that of the prepared denoiser, whose backward exchanges gradients of both.
            with self.accelerator.autocast(), eval_mode(plain):
                few_estimates = plain(fake_x, level, real_label)
            estimate = denoiser(x, sigma, dropped_label)
        else:  # one call for both is faster
            labels = None
            if dropped_label is not None and real_label is not None:
                labels = torch.cat([dropped_label, real_label])
            estimates = denoiser(torch.cat([x, fake_x]), torch.cat([sigma, level]), labels)
            estimate, few_estimates = estimates[: len(x0)], estimates[len(x0) :]
        error = denoising_loss(estimate, x0, sigma, self.denoising.data_std).mean()
        fake, real, level = discriminator_pair(self.term, few_estimates, real, level, draws)
        pair = {"real": real, "fake": fake, "sigma": level, "label": real_label}
        discriminator = discriminator_loss(**pair, rng=rng)
        losses = {"total": error, "denoising": error.detach()}
        if self.strength.scheduled > 0:
            with self.accelerator.autocast():
                adversarial = self.adversarial.generator_loss(**pair)
            last_layer = plain.last_layer if self.term.adaptive else None
            weight = self.strength(error, adversarial, last_layer)
            losses["total"] = error + weight * adversarial
            losses |= {"generator": adversarial.detach(), "weight": weight}
        total = discriminator.pop("total")  # after its parts, which name better what went wrong
        return losses | discriminator | {"discriminator": total}
