"""LeCam: logits kept near the other side's average, for small data sets."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hybridgen.losses.discriminators import check_weights
from hybridgen.losses.reduction import process_mean, reduced


class LeCam(nn.Module):
    """`E (r - a_fake)^2 + E (f - a_real)^2`, a the moving averages of either side's logits.

    The averages are of all processes, move in training alone (a step at each call)
    and are saved. Source: Tseng et al. 2021, arXiv:2104.03310, equations 4 and 5.

    Args:
        weight: of the term in the discriminator's loss.
        decay: of the averages, in [0, 1).
        discriminators: how many logits or maps the discriminator answers with.
    """

    real_mean: Tensor
    fake_mean: Tensor

    def __init__(self, weight: float, *, decay: float = 0.99, discriminators: int = 1) -> None:
        super().__init__()
        check_weights(lecam=weight)
        if not 0 <= decay < 1 or discriminators < 1:
            raise ValueError(
                f"LeCam takes a decay in [0, 1) and at least one discriminator, got {decay} and "
                f"{discriminators}"
            )
        self.weight, self.decay = weight, decay
        self.register_buffer("real_mean", torch.zeros(discriminators))
        self.register_buffer("fake_mean", torch.zeros(discriminators))

    def forward(
        self,
        real: Sequence[Tensor],
        fake: Sequence[Tensor],
        *,
        update: bool = True,
        **weighting: Any,
    ) -> Tensor:
        """The unweighted term of a list of logits or maps, `[b ...]`.

        Args:
            update: move the averages first, if in training mode.
            weighting: see `hybridgen.losses.reduction.reduced`.
        """
        if len(real) != len(self.real_mean):
            raise ValueError(
                f"LeCam keeps averages of {len(self.real_mean)} discriminator(s), got logits of "
                f"{len(real)}: LeCam(weight, discriminators={len(real)})"
            )
        if self.training and update:
            for average, logits in ((self.real_mean, real), (self.fake_mean, fake)):
                now = torch.stack([reduced([each.detach()], **weighting) for each in logits])
                average.lerp_(process_mean(now).to(average), 1 - self.decay)
        means = self.real_mean.clone().unbind(), self.fake_mean.clone().unbind()
        on_real = [(r - mean).square() for r, mean in zip(real, means[1], strict=True)]
        on_fake = [(f - mean).square() for f, mean in zip(fake, means[0], strict=True)]
        return reduced(on_real, **weighting) + reduced(on_fake, **weighting)
