"""Schedules of learning rate, betas and penalties, and the average of a model over training."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hybridgen.errors import InputError


class EMA:
    """An average of a model's weights and buffers in which the past fades with images seen.

    After `half_life` images the weights of then count half. Early in training the half-life is at
    most `ramp` times the images seen so far, so the random start is forgotten quickly.
    Source: Karras et al. 2022, arXiv:2206.00364, appendix F (half-life and ramp-up in images).

    `torch.optim.swa_utils.AveragedModel` computes the same, but walks through both models at every
    update, which a small network notices.

    Args:
        model: the unwrapped model, on its device for good by the first update; it is copied.
        half_life: in images (or points), positive.
        ramp: the fraction of the images seen that bounds the half-life, positive.

    Attributes:
        module: the averaged model, in eval mode and without gradients.
    """

    def __init__(self, model: nn.Module, half_life: float, ramp: float = 0.05) -> None:
        if half_life <= 0 or ramp <= 0:
            raise ValueError(f"half_life and ramp must be positive, got {half_life}, {ramp}")
        self.half_life, self.ramp = half_life, ramp
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self._model = model
        self._pairs: list[tuple[Tensor, Tensor]] | None = None

    def update(self, *, seen: int, images: int) -> None:
        """Blend the model in after a step on `images` images, `seen` in all.

        The first update copies it, and counters (a batch normalisation's) are always copied.
        """
        half_life = min(self.half_life, self.ramp * seen)
        keep = 0.5 ** (images / half_life) if seen > images else 0.0
        if self._pairs is None:
            # Not before the first update: on CPUs of several processes `accelerator.prepare` moves
            # the weights. From then on optimisers and loading write in place.
            tensors = self.module.state_dict().values(), self._model.state_dict().values()
            self._pairs = list(zip(*tensors, strict=True))
        weights = [pair for pair in self._pairs if pair[0].is_floating_point()]
        averaged, current = map(list, zip(*weights, strict=True))
        get_ema_multi_avg_fn(keep)(averaged, current, 0)
        for average, counter in self._pairs:
            if not average.is_floating_point():
                average.copy_(counter)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """From `start` to `end` along half a cosine, then constant.

    `end + (start - end) (1 + cos(pi u)) / 2`, u = progress / until, at most 1. Loshchilov & Hutter
    2016, arXiv:1608.03983, equation 5; R3GAN moves learning rate, penalty weight and beta2 so
    (Huang et al. 2024, arXiv:2501.05441).

    Attributes:
        start: value at the first step.
        end: value from `until` on; `None` keeps `start` throughout.
        until: the fraction of training at which the end is reached, in (0, 1].
    """

    start: float
    end: float | None = None
    until: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.until <= 1:
            raise InputError(f"a schedule's `until` is a fraction in (0, 1], got {self.until}")
        if min(self.start, self.end or 0.0) < 0 or not math.isfinite(self.start + (self.end or 0)):
            raise InputError(
                f"a schedule runs between finite values >= 0, got {self.start} and {self.end}"
            )

    @property
    def greatest(self) -> float:
        """The largest value it takes."""
        return max(self.start, self.start if self.end is None else self.end)

    def __call__(self, progress: float) -> float:
        """The value at `progress`, the fraction of training that is done, in [0, 1]."""
        if self.end is None:
            return self.start
        u = min(progress / self.until, 1.0)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * u)) / 2


def schedule(optimizer: torch.optim.Optimizer, rate: float, betas: tuple[float, float]) -> None:
    """Set Adam's learning rate and betas for the next step."""
    for group in optimizer.param_groups:
        group["lr"], group["betas"] = rate, betas
