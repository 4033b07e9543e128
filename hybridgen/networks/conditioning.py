"""What every network knows about labels and noise levels, and the checks at its border."""

from collections.abc import Sequence
from typing import get_args

import torch
from einops import rearrange
from torch import Tensor, nn

from hybridgen.errors import InputError
from hybridgen.maths.noise import like
from hybridgen.networks.settings import Prior

_FREQUENCIES = 12
_SMALLEST_SIGMA = 0.002


def require_positive(**settings: int) -> None:
    """Refuse sizes below one, by their names, with an `InputError`."""
    for name, value in settings.items():
        if value < 1:
            raise InputError(f"{name} is {value}, but must be at least 1; choose a larger one")


def require_classes(classes: int) -> None:
    """Refuse a negative number with an `InputError`; 0 is a network that knows no labels."""
    if classes < 0:
        raise InputError(f"classes is {classes}, expected 0 (no labels) or their number")


def check_input(x: Tensor, shape: tuple[int, ...], name: str) -> None:
    """Refuse a batch that is not `[b *shape]` with a `ValueError`."""
    if x.shape[1:] != shape:
        expected = " ".join(["b", *map(str, shape)])
        raise ValueError(f"{name} has shape {list(x.shape)}, but this network expects [{expected}]")


def check_map(x: Tensor, dims: int, channels: int, *, least: int = 1) -> None:
    """Refuse, with a `ValueError`, a batch that is not `[b channels ...]` with `dims` axes more of
    at least `least` entries each.
    """
    if x.ndim != dims + 2 or x.shape[1] != channels or min(x.shape[2:]) < least:
        axes = ("t", "h w", "d h w")[dims - 1]
        raise ValueError(
            f"x has shape {list(x.shape)}, but this discriminator expects [b {channels} {axes}] "
            f"with {axes} of at least {least}: enlarge x, or build one of other settings"
        )


def check_condition(condition: Tensor | None, channels: int, x: Tensor) -> None:
    """Refuse, with a `ValueError`, a condition of `x [b c ...]` that is not `[b channels ...]`, or
    one where the network takes none (`channels` is 0).
    """
    expected = [len(x), channels, *x.shape[2:]] if channels else None
    if expected != (shape := None if condition is None else list(condition.shape)):
        raise ValueError(
            f"the condition has shape {shape}, but this discriminator with "
            f"condition_channels={channels} expects {expected}: resize it, or build another one"
        )


def check_label(label: Tensor | None, classes: int, batch: int) -> None:
    """Refuse a label where the network knows none, and its absence where it needs one.

    The range is left to the embedding: looking at the values would stall an accelerator.

    Raises:
        ValueError: `label` is missing, unwanted, not `[b]`, or not integers.
    """
    if classes == 0:
        if label is not None:
            raise ValueError("this network has classes=0 but got labels; pass label=None")
        return
    if label is None:
        raise ValueError(f"this network has {classes} classes but got label=None; pass labels [b]")
    if label.shape != (batch,) or label.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"labels have shape {list(label.shape)} and type {label.dtype}, "
            f"expected integers of shape [{batch}]"
        )


def require_sigma(sigma: Tensor | None, x: Tensor) -> Tensor:
    """The noise levels `[b]` of `x [b ...]`; a `ValueError` if they are not."""
    if sigma is None or sigma.shape != (len(x),):
        got = None if sigma is None else list(sigma.shape)
        raise ValueError(
            f"sigma has shape {got}, but a noise-conditional discriminator needs [{len(x)}]"
        )
    return sigma


def label_or_null(label: Tensor | None, x: Tensor, classes: int, null: int | None) -> Tensor | None:
    """The labels `[b]` of `x [b ...]`, checked; if none are given, the id `null` for each."""
    if label is None and classes and null is not None:
        return torch.full((len(x),), null, device=x.device)
    check_label(label, classes, len(x))
    return label


class LabelledNoise(nn.Module):
    """A learned vector per class, joined to the latent noise: `[b latent] -> [b size]`.

    Without classes the noise passes unchanged. A vector has `min(classes, 64)` entries, and
    starts at the scale of the noise; `size` is the length of the two joined. With a uniform prior
    the noise is made uniform in [-1, 1] first, `2 Phi(z) - 1`, so that whoever samples draws
    standard normal noise whatever the generator.
    """

    def __init__(self, *, latent: int, classes: int, prior: Prior = "normal") -> None:
        super().__init__()
        require_positive(latent=latent)
        require_classes(classes)
        if prior not in get_args(Prior):
            raise InputError(f"prior is {prior!r}; choose one of {', '.join(get_args(Prior))}")
        self.prior = prior
        extra = min(classes, 64)
        self.latent, self.classes, self.size = latent, classes, latent + extra
        self.embedding = nn.Embedding(classes, extra) if classes else None

    def forward(self, noise: Tensor, label: Tensor | None) -> Tensor:
        check_input(noise, (self.latent,), "noise")
        check_label(label, self.classes, len(noise))
        if self.prior == "uniform":
            noise = torch.erf(noise * 0.5**0.5)
        if self.embedding is None:
            return noise
        return torch.cat([noise, self.embedding(label).to(noise.dtype)], dim=1)


class ProjectionHead(nn.Module):
    """`w . h + v_label . h` (and a bias): features `[b f]` to logits `[b]`.

    The second term is there only with classes. Source: Miyato & Koyama 2018, arXiv:1802.05637,
    equation 3 with a linear psi.
    """

    def __init__(self, *, features: int, classes: int, bias: bool = True) -> None:
        super().__init__()
        require_classes(classes)
        self.classes = classes
        self.linear = nn.Linear(features, 1, bias=bias)
        self.embedding = nn.Embedding(classes, features) if classes else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=features**-0.5)

    def forward(self, h: Tensor, label: Tensor | None) -> Tensor:
        check_label(label, self.classes, len(h))
        logits = rearrange(self.linear(h), "b 1 -> b")
        if self.embedding is None:
            return logits
        return logits + (self.embedding(label) * h).sum(1)


class MapHead(nn.Module):
    """`w * h + w_label * h`, convolved (and a bias): features `[b c ...]` to logits `[b 1 ...]`.

    The second term is there only with classes: `ProjectionHead` at every place of a map.

    Args:
        convolution: to `1 + classes` channels: w, then the w of each label.
        classes: number of labels; 0 for none.
    """

    def __init__(self, convolution: nn.Module, *, classes: int) -> None:
        super().__init__()
        self.classes, self.convolution = classes, convolution

    def forward(self, h: Tensor, label: Tensor | None) -> Tensor:
        check_label(label, self.classes, len(h))
        shared, *others = self.convolution(h).split([1, self.classes], dim=1)
        if label is None:
            return shared
        index = like(label.long(), shared).expand_as(shared)
        return shared + others[0].gather(1, index)


def noise_features(sigma: Tensor) -> Tensor:
    """Fourier features of the log-noise level `asinh(sigma / 0.002)`, finite at 0: `[b] -> [b 24]`.

    The level is `log(sigma) + 6.9` wherever noise can be seen and 0 without noise. Wavelengths
    are half-octaves from 25 to 0.55, so that the range up to sigma 80 (11.3) is unambiguous.
    """
    level = torch.asinh(sigma.float() / _SMALLEST_SIGMA)
    frequencies = 0.25 * 2 ** (torch.arange(_FREQUENCIES, device=sigma.device) / 2)
    angles = torch.outer(level, frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class NoiseConditioning(nn.Module):
    """A discriminator's view of the noise level: rescaled input, and a bias in every block.

    The biases start at zero, so a new discriminator treats all levels alike.

    Args:
        sizes: channels of each block's bias.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.linear = nn.Linear(2 * _FREQUENCIES, sum(sizes))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, sigma: Tensor | None) -> tuple[Tensor, Sequence[Tensor]]:
        """`x / sqrt(1 + sigma^2)` (unit variance if the data has it) and a `[b size]` per block.

        Raises:
            ValueError: `sigma` is not `[b]`.
        """
        sigma = require_sigma(sigma, x)
        rescaled = x * like(torch.rsqrt(1 + sigma.float().square()).to(x.dtype), x)
        features = noise_features(sigma).to(self.linear.weight.dtype)
        return rescaled, self.linear(features).split(self.sizes, dim=1)
