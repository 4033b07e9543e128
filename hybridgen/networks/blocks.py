"""What image networks are made of: resampling, residual blocks, initial weights, resolutions."""

import math
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from hybridgen.errors import InputError, quoted
from hybridgen.networks.conditioning import require_positive
from hybridgen.networks.settings import Activation, Normalisation

SLOPE = 0.2
"""Of every LeakyReLU; GELU and Swish were worse in Huang et al. 2024, arXiv:2501.05441."""

GAIN = math.sqrt(2 / (1 + SLOPE**2))
"""Of weights before a LeakyReLU, so that the pair keeps the second moment."""

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)

_GROUP = 16
_SILU = math.sqrt((1 + SLOPE**2) / 2 / 0.35578)


def activation_named(kind: Activation) -> Callable[[Tensor], Tensor]:
    """LeakyReLU of slope 0.2, or SiLU times 1.21, which passes the same second moment.

    One gain then serves both: `E silu(n)^2 = 0.3557` for standard normal n, and a LeakyReLU's is
    1.04 / 2.

    Raises:
        InputError: no activation has this name; the message lists those there are.
    """
    if kind not in get_args(Activation):
        raise InputError(f"no activation {kind!r}; there are {', '.join(get_args(Activation))}")
    return partial(F.leaky_relu, negative_slope=SLOPE) if kind == "leaky_relu" else _scaled_silu


def _scaled_silu(x: Tensor) -> Tensor:
    return _SILU * F.silu(x)


def upsample(x: Tensor) -> Tensor:
    """Twice the size by the filter [1,3,3,1] (bilinear): `[b c h w] -> [b c 2h 2w]`.

    The border repeats the outermost pixels, so a constant stays a constant.
    """
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Downsample(nn.Module):
    """Half the size by the filter [1,3,3,1] / 8 along both axes: `[b c h w] -> [b c h/2 w/2]`.

    The picture continues as zeros beyond its border.
    """

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", torch.outer(taps, taps), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, 1, 4, 4).to(x.dtype)
        return F.conv2d(x, kernel, stride=2, padding=1, groups=channels)


class ResidualBlock(nn.Module):
    """`x + conv1(act(conv3(act(conv1(x)))))`, the inner ones twice as wide: `[b c h w]` stays.

    `act` is a bias and an activation. The middle convolution works on groups of 16 channels (of
    the largest common divisor, if 16 does not divide). The last convolution starts at zero, the
    others at `N(0, gain^2 / fan_in)` with `gain = sqrt(2 / 1.04) blocks^(-1/4)`.

    Args:
        width: channels.
        blocks: how many blocks the whole network has.
        activation: `leaky_relu` or `silu`.
    """

    def __init__(self, *, width: int, blocks: int, activation: Activation = "leaky_relu") -> None:
        super().__init__()
        self.activate = activation_named(activation)
        inner = 2 * width
        gain = GAIN * blocks**-0.25
        self.widen = initialised(nn.Conv2d(width, inner, 1), gain)
        groups = inner // math.gcd(inner, _GROUP)
        self.mix = initialised(nn.Conv2d(inner, inner, 3, padding=1, groups=groups), gain)
        self.narrow = initialised(nn.Conv2d(inner, width, 1, bias=False), 0.0)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`bias [b 2c]`, if given, is added before the first activation."""
        h = self.widen(x)
        if bias is not None:
            h = h + rearrange(bias, "b c -> b c 1 1")
        h = self.mix(self.activate(h))
        return x + self.narrow(self.activate(h))


def initialised(layer: Layer, gain: float = 1.0) -> Layer:
    """Weights from `N(0, gain^2 / fan_in)`, biases 0; the layer itself."""
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, std=gain / math.sqrt(fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def convolution(dims: int) -> type[Any]:
    """The convolution over `dims` axes.

    Raises:
        InputError: there is none for more than three axes, or for none.
    """
    if dims not in (1, 2, 3):
        raise InputError(f"dims is {quoted(dims)}, expected 1 (sound), 2 (images) or 3 (volumes)")
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]


def normalised(layer: Layer, kind: Normalisation) -> Layer:
    """The layer itself, its weights normalised from now on.

    Raises:
        InputError: no normalisation has this name; the message lists those there are.
    """
    if kind not in get_args(Normalisation):
        kinds = ", ".join(get_args(Normalisation))
        raise InputError(f"no normalisation {quoted(kind)} of weights; there are {kinds}")
    if kind == "spectral":
        parametrizations.spectral_norm(layer)
    elif kind == "weight":
        parametrizations.weight_norm(layer)
    return layer


def norm_groups(widths: Sequence[int]) -> int:
    """At most 8 groups to normalise over, of at least four channels each.

    Levels and labels reach a U-Net's block as one number a channel, and in a group of one channel
    the normalisation takes it out again: the U-Net would not know the level, and an autoencoder
    not the brightness.
    """
    groups = math.gcd(8, *widths)
    while groups > 1 and min(widths) < 4 * groups:
        groups //= 2
    return groups


_SIZES = sorted(base << n for base in range(4, 8) for n in range(7) if base << n <= 256)


def resolutions(
    *, resolution: int, channels: int, width: int, least: int = 4
) -> tuple[int, tuple[int, ...]]:
    """The smallest resolution inside a network for `[channels resolution resolution]`, and widths.

    The resolution is halved while the result is whole and at least 4 (28, 14, 7). Each halving
    doubles the channels, up to 8 times `width` and to 512 (or `width`, if that is more).

    Args:
        least: rows of the smallest picture that will do.

    Returns:
        Rows of the base, and the channels at each resolution from the base to the full one.

    Raises:
        InputError: the resolution does not halve into a base (the message names those that do), or
            there are no channels or no width.
    """
    require_positive(width=width, channels=channels)
    sizes = [size for size in _SIZES if size >= least]
    if resolution not in sizes:
        place = bisect(sizes, resolution)
        nearest = " or ".join(map(str, sizes[max(0, place - 1) : place + 1]))
        raise InputError(
            f"images of {resolution}x{resolution} do not halve into a base of 4 to 7; "
            f"resize them to {nearest}"
        )
    cap = max(width, min(8 * width, 512))
    base, widths = resolution, [width]
    while base >= 8:
        base //= 2
        widths.insert(0, min(2 * widths[0], cap))
    return base, tuple(widths)


@contextmanager
def eval_mode(*modules: nn.Module | None) -> Iterator[None]:
    """Eval mode inside; afterwards every part of `modules` is in the mode it was in before."""
    parts = [part for module in modules if module is not None for part in module.modules()]
    modes = [part.training for part in parts]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


def in_chunks(
    function: Callable[..., Tensor], first: Tensor, *others: Tensor | None, size: int
) -> Tensor:
    """`function(first, *others)`, `size` rows at a time, so that the memory it takes is bounded.

    Args:
        function: its rows depend on the same rows of its arguments alone.
        first, others: `[b ...]`; a `None` is passed on as such.
    """
    rows = [slice(start, start + size) for start in range(0, max(1, len(first)), size)]
    return torch.cat(
        [function(first[r], *(None if x is None else x[r] for x in others)) for r in rows]
    )
