"""From one loss a logit to one number: over patches, samples and discriminators."""

from collections.abc import Sequence
from itertools import chain
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from hybridgen.maths.noise import like

Several = Literal["mean", "sum"]


def check_several(several: str) -> None:
    """Refuse another way to put several discriminators together with a `ValueError`."""
    if several not in get_args(Several):
        raise ValueError(f"several is one of {', '.join(get_args(Several))}, got {several!r}")


def processes() -> int:
    """How many take part in this training."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1


def process_mean(x: Tensor) -> Tensor:
    """The mean over all processes of numbers that carry no gradient."""
    x = x.detach()
    if processes() > 1:
        x = x.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(x)
        x = x / processes()
    return x


def reduced(
    losses: Sequence[Tensor],
    *,
    several: Several = "mean",
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    shared: bool = True,
) -> Tensor:
    """The mean over a map and the batch, then mean or sum over the list of discriminators.

    With weights the mean is `sum w l / sum w`, the lower sum over all processes.

    Args:
        losses: `[b]` or `[b ...]`, of each discriminator.
        several: over the list.
        sample_weight: `[b]`, not negative.
        mask: `[b *spatial]`, not negative; brought to each map's size by area.
        shared: whether all processes call this, and weigh together.
    """
    means = []
    for loss in losses:
        if sample_weight is None and mask is None:
            means.append(loss.mean())
            continue
        weight = _weight(loss, sample_weight, mask)
        total = process_mean(weight.sum()) if shared else weight.detach().sum()
        total = total.clamp(min=torch.finfo(loss.dtype).tiny)
        means.append((weight * loss).sum() / total)
    if len(means) == 1:
        return means[0]
    return torch.stack(means).mean() if several == "mean" else torch.stack(means).sum()


def _weight(loss: Tensor, sample_weight: Tensor | None, mask: Tensor | None) -> Tensor:
    """The weight of each entry of a loss, in its shape."""
    weight = torch.ones_like(loss)
    for name, values in (("sample_weight", sample_weight), ("mask", mask)):
        if values is None or values.device.type != "cpu":
            continue
        if not bool((values >= 0).all() and values.isfinite().all()):
            raise ValueError(
                f"{name} must be finite and not negative, got {float(values.min())} to "
                f"{float(values.max())}"
            )
    if sample_weight is not None:
        weight = weight * like(sample_weight, loss)
    return weight if mask is None else weight * _resized(mask, loss.shape)


def _resized(mask: Tensor, shape: torch.Size) -> Tensor:
    """A mask `[b *spatial]` at the size of logits `[b]`, `[b *spatial]`, `[b c *spatial]`, or with
    further axes, over which it is the same: those of a period or a frequency."""
    axes = mask.ndim - 1
    if len(shape) == 1:
        return reduce(mask.float(), "b ... -> b", "mean")
    if not 1 <= axes <= 3 or len(shape) <= axes:
        raise ValueError(
            f"a mask is [b *spatial], of one to three axes as the maps of logits have, got "
            f"{list(mask.shape)} for logits {list(shape)}"
        )
    first = 1 if len(shape) == axes + 1 else 2
    size, others = shape[first : first + axes], [1] * (len(shape) - first - axes)
    resized = F.interpolate(rearrange(mask.float(), "b ... -> b 1 ..."), size=size, mode="area")
    return resized.reshape(len(mask), *[1] * (first - 1), *size, *others).expand(shape)


def feature_matching(
    fake: Sequence[Sequence[Tensor]],
    real: Sequence[Sequence[Tensor]],
    *,
    normalised: bool = False,
    several: Several = "mean",
    sample_weight: Tensor | None = None,
    shared: bool = True,
) -> Tensor:
    """`mean |f - r|` of each layer, then mean or sum over all layers of all discriminators.

    The sum is HiFi-GAN's (Kong et al. 2020, arXiv:2010.05646, section 2.3, there times 2);
    normalised, the mean is EnCodec's (Defossez et al. 2022, arXiv:2210.13438, section 3.4).

    Args:
        fake, real: layers `[b ...]` of each discriminator, in pairs; real ones get no gradient.
        normalised: divide each layer's distance by its `mean |r|` over the batch of all processes.
        sample_weight: `[b]`.
        shared: see `reduced`.

    Raises:
        ValueError: features of other numbers or shapes.
    """
    shapes = [[[layer.shape for layer in each] for each in side] for side in (fake, real)]
    if shapes[0] != shapes[1] or not any(shapes[0]):
        numbers = [sum(map(len, side)) for side in shapes]
        raise ValueError(
            "features are matched layer by layer, and fake and real must have at least one and "
            f"equal shapes, as many samples among them, got {numbers[0]} and {numbers[1]} layers"
        )
    distances, sides = [], (chain.from_iterable(fake), chain.from_iterable(real))
    for fake_layer, real_layer in zip(*sides, strict=True):
        target = real_layer.detach().to(torch.promote_types(real_layer.dtype, torch.float32))
        distance = reduce((fake_layer.to(target) - target).abs(), "b ... -> b", "mean")
        if normalised:
            size = target.abs().mean()
            distance = distance / (process_mean(size) if shared else size).clamp(min=1e-8)
        distances.append(distance)
    return reduced(distances, several=several, sample_weight=sample_weight, shared=shared)
