"""Denoisers: EDM's preconditioning around a U-Net for images or a network for points."""

import math
from typing import Any, cast

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn

from hybridgen.errors import InputError
from hybridgen.maths.noise import Scalings, clamp_level, like, scalings
from hybridgen.networks import conditioning
from hybridgen.networks.blocks import norm_groups
from hybridgen.networks.mlp import FourierFeatures

_HEAD = 8
"""Channels of one attention head."""
_TURN = 100.0
"""Radians of the U-Net's highest frequency per unit of `log(sigma) / 4`."""


def _check(classes: int, data_std: float) -> None:
    conditioning.require_classes(classes)
    if not 0 < data_std < math.inf:
        raise InputError(f"data_std must be positive and finite, got {data_std}")


def raw_answer(
    denoiser: "ImageDenoiser | PointDenoiser", x: Tensor, sigma: Tensor, label: Tensor | None
) -> tuple[Scalings, Tensor]:
    """The denoiser's `raw` of `inner x`, and all the scalings; no label given means "none"."""
    conditioning.check_input(x, denoiser.shape, "x")
    label = conditioning.label_or_null(label, x, denoiser.classes, denoiser.classes)
    c = scalings(clamp_level(sigma), denoiser.config["data_std"])
    return c, denoiser.raw(like(c.inner, x) * x, sigma, label)


def _preconditioned(
    denoiser: "ImageDenoiser | PointDenoiser", x: Tensor, sigma: Tensor, label: Tensor | None
) -> Tensor:
    """`skip x + out F(inner x)` with the denoiser's `raw` as F."""
    c, raw = raw_answer(denoiser, x, sigma, label)
    return like(c.skip, x) * x + like(c.out, x) * raw


class ImageDenoiser(ModelMixin, ConfigMixin):
    """`(x [b c h w], sigma [b], label [b] or None) -> x0 [b c h w]` around `UNet2DModel`.

    Args:
        resolution: rows of the square image, divisible by `patch` and by 2 for every width but
            the first.
        channels: of the image.
        widths: channels at each resolution, the finest first; each halves the picture.
        patch: pixels a side that the U-Net sees as one, with `patch^2` times the channels; 2 makes
            it three times as fast.
        layers: residual blocks at each resolution.
        attention: whether the coarsest resolution has self-attention.
        dropout: rate of the residual blocks' dropout, against overfitting few images.
        classes: number of labels; 0 for none. One more id, `classes`, stands for "none".
        data_std: root mean square of the data's values; 0.5 is EDM's value for images in [-1, 1].
    """

    @register_to_config
    def __init__(
        self,
        *,
        resolution: int = 8,
        channels: int = 1,
        widths: tuple[int, ...] = (32, 64),
        patch: int = 1,
        layers: int = 1,
        attention: bool = False,
        dropout: float = 0.0,
        classes: int = 0,
        data_std: float = 0.5,
    ) -> None:
        super().__init__()
        conditioning.require_positive(resolution=resolution, patch=patch)
        _check(classes, data_std)
        self.shape, self.classes = (channels, resolution, resolution), classes
        if not widths:
            raise InputError("widths is empty: give the U-Net's channels at each resolution")
        sizes = {f"width {width}": width for width in widths}
        conditioning.require_positive(layers=layers, **sizes)
        if resolution % (deepest := patch * 2 ** (len(widths) - 1)):
            raise InputError(
                f"patches of {patch} and {len(widths)} widths reduce the picture by {deepest}, "
                f"which does not divide {resolution}: give fewer widths or resize"
            )
        if attention and widths[-1] < _HEAD:
            raise InputError(
                f"attention needs at least {_HEAD} channels at the coarsest resolution, got "
                f"{widths[-1]}: give a larger last width"
            )
        if not 0 <= dropout < 1:
            raise InputError(f"dropout is a rate in [0, 1), got {dropout}")
        down, up = ["DownBlock2D"] * len(widths), ["UpBlock2D"] * len(widths)
        if attention:
            down[-1], up[0] = "AttnDownBlock2D", "AttnUpBlock2D"
        self.unet = UNet2DModel(
            sample_size=resolution // patch,
            in_channels=channels * patch**2,
            out_channels=channels * patch**2,
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            add_attention=attention,
            attention_head_dim=_HEAD,
            norm_num_groups=norm_groups(widths),
            dropout=dropout,
            num_class_embeds=classes + 1 if classes else None,
        )
        self.unpatch = nn.PixelShuffle(patch)

    @property
    def last_layer(self) -> Tensor:
        """The weight that every output passes last, for an adaptive weight."""
        return cast(Any, self.unet).conv_out.weight

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return _preconditioned(self, x, sigma, label)

    def keep_encoder(self) -> int:
        """Drop the way up: `raw` answers features `[b c h w]` of the middle block, normalised and
        activated, from now on.

        Returns:
            c.
        """
        unet = cast(Any, self.unet)
        channels = unet.config.block_out_channels[-1]
        unet.up_blocks = nn.ModuleList()
        unet.conv_norm_out = nn.GroupNorm(unet.config.norm_num_groups, channels)
        unet.conv_out = self.unpatch = nn.Identity()
        return channels

    def raw(self, scaled: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        """The U-Net's answer F to input of unit variance."""
        patches = F.pixel_unshuffle(scaled, self.config["patch"])
        level = _TURN * (clamp_level(sigma).log() / 4)
        answer = self.unet(patches, level, class_labels=label).sample
        return self.unpatch(answer)


class PointDenoiser(ModelMixin, ConfigMixin):
    """`(x [b d], sigma [b], label [b] or None) -> x0 [b d]`: an MLP on Fourier features.

    A plain MLP is too smooth to see modes a hundredth as wide as the data; it is given frequencies
    down to `min_wavelength` (see `hybridgen.networks.mlp.FourierFeatures`).

    Args:
        dimension: entries of a point.
        width: units of a hidden layer.
        depth: hidden layers, each with a residual connection and a bias that knows sigma.
        frequencies: a coordinate, geometric from wavelength 8 to `min_wavelength`.
        min_wavelength: the shortest, in units of the data's standard deviation.
        classes: number of labels; 0 for none. One more id, `classes`, stands for "none".
        data_std: root mean square of a coordinate.
    """

    @register_to_config
    def __init__(
        self,
        *,
        dimension: int = 2,
        width: int = 128,
        depth: int = 3,
        frequencies: int = 8,
        min_wavelength: float = 0.1,
        classes: int = 0,
        data_std: float = 1.0,
    ) -> None:
        super().__init__()
        conditioning.require_positive(width=width, depth=depth)
        _check(classes, data_std)
        self.shape, self.classes = (dimension,), classes
        self.features = FourierFeatures(
            dimension=dimension, frequencies=frequencies, min_wavelength=min_wavelength
        )
        self.entry = nn.Linear(self.features.size, width)
        self.level = nn.Linear(24, width * (depth + 1))
        self.embedding = nn.Embedding(classes + 1, width) if classes else None
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Linear(width, dimension)
        nn.init.zeros_(self.out.bias)

    @property
    def last_layer(self) -> Tensor:
        """The weight that every output passes last, for an adaptive weight."""
        return self.out.weight

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return _preconditioned(self, x, sigma, label)

    def keep_encoder(self) -> int:
        """Drop the last layer: `raw` answers the hidden units `[b c]` before it from now on.

        Returns:
            c.
        """
        channels, self.out = self.out.in_features, cast(Any, nn.Identity())
        return channels

    def raw(self, scaled: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        """The network's answer F to input of unit variance."""
        h = self.entry(self.features(scaled))
        level = conditioning.noise_features(sigma).to(h.dtype)
        biases = self.level(level).chunk(len(self.hidden) + 1, dim=1)
        h = h + biases[0]
        if self.embedding is not None:
            h = h + self.embedding(label)
        for layer, bias in zip(self.hidden, biases[1:], strict=True):
            h = h + layer(F.silu(h + bias))
        return self.out(F.silu(h))
