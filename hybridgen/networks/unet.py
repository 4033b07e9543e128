"""diffusers' U-Net, shaped so that noise levels and labels reach every block."""

import math
from collections.abc import Sequence

from diffusers.models.unets.unet_2d import UNet2DModel

from hybridgen.errors import InputError
from hybridgen.networks.conditioning import require_positive

_HEAD = 8
"""Channels of one attention head."""


def build_unet(
    *,
    resolution: int,
    channels: int,
    widths: Sequence[int],
    layers: int,
    attention: bool,
    dropout: float,
    labels: int | None,
) -> UNet2DModel:
    """A new `UNet2DModel` of pictures `[channels resolution resolution]`, both ways.

    Args:
        resolution: divisible by 2 for every width but the first.
        widths: channels at each resolution, the finest first.
        layers: residual blocks at each resolution.
        attention: whether the coarsest resolution has self-attention.
        dropout: of the residual blocks.
        labels: how many it tells apart; `None` for none.

    Raises:
        InputError: sizes that make no U-Net.
    """
    check_widths(widths)
    require_positive(layers=layers)
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
    return UNet2DModel(
        sample_size=resolution,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(widths),
        layers_per_block=layers,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        add_attention=attention,
        attention_head_dim=_HEAD,
        norm_num_groups=_groups(widths),
        dropout=dropout,
        num_class_embeds=labels,
    )


def check_widths(widths: Sequence[int]) -> None:
    """Refuse a U-Net without channels.

    Raises:
        InputError: no width, or one below 1.
    """
    if not widths:
        raise InputError("widths is empty: give the U-Net's channels at each resolution")
    require_positive(**{f"width {width}": width for width in widths})


def _groups(widths: Sequence[int]) -> int:
    """At most 8 groups to normalise over, of at least four channels each.

    Levels and labels reach a block as one number a channel, and in a group of one channel the
    normalisation takes it out again: the U-Net would not know the level.
    """
    groups = math.gcd(8, *widths)
    while groups > 1 and min(widths) < 4 * groups:
        groups //= 2
    return groups
