"""The exponential moving average of a model: what is sampled from and saved."""

from pathlib import Path

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average:
    """An average of a model's weights and buffers in which the past fades with images seen.

    After `half_life` images the weights of then count half. Early in training the half-life is at
    most `ramp` times the images seen so far, so the random start is forgotten quickly.
    Source: Karras et al. 2022, arXiv:2206.00364, appendix F (half-life and ramp-up in images).

    Args:
        model: the unwrapped model; it is copied, and the copy is in eval mode.
        half_life: in images (or points), positive.
        ramp: the fraction of the images seen that bounds the half-life, positive.
    """

    def __init__(self, model: nn.Module, half_life: float, ramp: float = 0.05) -> None:
        if half_life <= 0 or ramp <= 0:
            raise ValueError(f"half_life and ramp must be positive, got {half_life}, {ramp}")
        self.half_life, self.ramp = half_life, ramp
        self._model = model
        self._averaged = AveragedModel(model, use_buffers=True)
        self._averaged.eval().requires_grad_(False)

    @property
    def module(self) -> nn.Module:
        """The averaged model, in eval mode and without gradients."""
        return self._averaged.module

    def update(self, *, seen: int, images: int) -> None:
        """Blend the model in after a step on `images` images, `seen` in all."""
        half_life = min(self.half_life, self.ramp * seen)
        self._averaged.multi_avg_fn = get_ema_multi_avg_fn(0.5 ** (images / half_life))
        self._averaged.update_parameters(self._model)

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the averaged model the way its own class does."""
        self._averaged.module.save_pretrained(folder)  # type: ignore[operator]

    def load_state_dict(self, weights: dict[str, Tensor]) -> None:
        """Go on from saved weights of the averaged model."""
        self._averaged.module.load_state_dict(weights)
        self._averaged.n_averaged.fill_(1)  # 0 would let the next update overwrite them
