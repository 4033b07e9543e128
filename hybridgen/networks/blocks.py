"""What image networks are made of: resampling, residual blocks, initial weights, resolutions."""

import math
from bisect import bisect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, TypeVar, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from hybridgen.errors import InputError
from hybridgen.networks.conditioning import require_positive

SLOPE = 0.2
"""Of every LeakyReLU; GELU and Swish were worse in Huang et al. 2024, arXiv:2501.05441."""

GAIN = math.sqrt(2 / (1 + SLOPE**2))
"""Of weights before a LeakyReLU, so that the pair keeps the second moment."""

Activation = Literal["leaky_relu", "silu"]
"""Between a discriminator's layers. SiLU is smooth: a loss on the discriminator's gradient, as
score matching is, needs a second derivative, and that of a LeakyReLU is zero wherever it exists."""

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)

_GROUP = 16
_SILU = math.sqrt((1 + SLOPE**2) / 2 / 0.35578)


def activate(x: Tensor, kind: Activation) -> Tensor:
    """LeakyReLU of slope 0.2, or SiLU times 1.21, which passes the same second moment.

    One gain then serves both: `E silu(n)^2 = 0.3557` for standard normal n, and a LeakyReLU's is
    1.04 / 2.
    """
    return F.leaky_relu(x, SLOPE) if kind == "leaky_relu" else _SILU * F.silu(x)


def check_activation(kind: str) -> None:
    """Refuse a name that no activation has with an `InputError` that lists those there are."""
    if kind not in get_args(Activation):
        raise InputError(f"no activation {kind!r}; there are {', '.join(get_args(Activation))}")


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
        check_activation(activation)
        self.activation: Activation = activation
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
        h = self.mix(activate(h, self.activation))
        return x + self.narrow(activate(h, self.activation))


def initialised(layer: Layer, gain: float = 1.0) -> Layer:
    """Weights from `N(0, gain^2 / fan_in)`, biases 0; the layer itself."""
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, std=gain / math.sqrt(fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


_SIZES = sorted(base << halvings for base in range(4, 8) for halvings in range(1, 7))
_SIZES = [size for size in _SIZES if size <= 256]


class Resolutions(NamedTuple):
    """Square resolutions with their numbers of channels, smallest picture first.

    The resolution is halved while the result is whole and at least 4 (28, 14, 7). Each halving
    doubles the channels, up to 8 times `width` and to 512 (or `width`, if that is more).

    Attributes:
        sizes: rows of the picture, from the base to the full resolution.
        widths: channels at each of them.
    """

    sizes: tuple[int, ...]
    widths: tuple[int, ...]


def resolutions(*, resolution: int, channels: int, width: int) -> Resolutions:
    """The halved resolutions of images `[channels resolution resolution]`, `width` at the top.

    Raises:
        InputError: the resolution does not halve into a base (the message names those that do),
            the images are neither grey nor in colour, or the width is not positive.
    """
    require_positive(width=width)
    if channels not in (1, 3):
        raise InputError(f"images have {channels} channels, expected 1 or 3; convert them")
    if resolution not in _SIZES:
        place = bisect(_SIZES, resolution)
        nearest = " or ".join(map(str, _SIZES[max(0, place - 1) : place + 1]))
        raise InputError(
            f"images of {resolution}x{resolution} do not halve into a base of 4 to 7; "
            f"resize them to {nearest}"
        )
    sizes = [resolution]
    while sizes[0] >= 8:
        sizes.insert(0, sizes[0] // 2)
    cap = max(width, min(8 * width, 512))
    widths = [min(width * 2**halvings, cap) for halvings in range(len(sizes))]
    return Resolutions(sizes=tuple(sizes), widths=tuple(reversed(widths)))


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
