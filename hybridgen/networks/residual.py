"""Residual networks without normalisation, after R3GAN (Huang et al. 2024, arXiv:2501.05441).

Every convolution keeps the second moment of its input at construction, and every block is the
identity then, so depth needs no normalisation. Activations are kept in channels-last layout:
it halves the time of a double backward on a CPU.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from hybridgen.networks import blocks, conditioning
from hybridgen.networks.settings import Prior


class ResidualGenerator(ModelMixin, ConfigMixin):
    """`(noise [b latent], label [b] or None) -> images [b c h w]`, linear at the end.

    Args:
        latent: entries of a noise vector.
        resolution: rows of the square image.
        channels: of the image, or of a latent.
        width: channels at full resolution; see `hybridgen.networks.blocks.resolutions`.
        depth: residual blocks at each resolution.
        classes: number of labels; 0 for none.
        prior: of the noise, see `LabelledNoise`.
    """

    @register_to_config
    def __init__(
        self,
        *,
        latent: int = 64,
        resolution: int = 8,
        channels: int = 1,
        width: int = 32,
        depth: int = 2,
        classes: int = 0,
        prior: Prior = "normal",
    ) -> None:
        super().__init__()
        conditioning.require_positive(depth=depth)
        base, widths = blocks.resolutions(resolution=resolution, channels=channels, width=width)
        self.entry = conditioning.LabelledNoise(latent=latent, classes=classes, prior=prior)
        self.constant = nn.Parameter(torch.randn(widths[0], base, base))
        self.modulate = blocks.initialised(nn.Linear(self.entry.size, widths[0], bias=False))
        self.depth = depth
        self.blocks = _blocks(widths, depth)
        self.narrow = _transitions(widths)
        self.out = blocks.initialised(nn.Conv2d(width, channels, 1, bias=False))

    def forward(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        scale = self.modulate(self.entry(noise, label))
        h = self.constant * rearrange(scale, "b c -> b c 1 1")
        h = h.contiguous(memory_format=torch.channels_last)
        for i, block in enumerate(self.blocks):
            if i > 0 and i % self.depth == 0:
                h = blocks.upsample(self.narrow[i // self.depth - 1](h))
            h = block(h)
        return self.out(h).contiguous()


class ResidualDiscriminator(ModelMixin, ConfigMixin):
    """`(x [b c h w], sigma [b], label [b] or None) -> logits [b]`.

    At the base a depth-wise convolution as large as the picture leaves one number a channel: a
    product and a sum, written so because they are faster to differentiate twice.

    Args:
        resolution: rows of the square image.
        channels: of the image, or of a latent.
        width: channels at full resolution; see `hybridgen.networks.blocks.resolutions`.
        depth: residual blocks at each resolution.
        classes: number of labels; 0 for none.
        noise_conditional: whether it looks at `sigma`.
        activation: `leaky_relu` or, for a loss on the discriminator's gradient, `silu`.
    """

    @register_to_config
    def __init__(
        self,
        *,
        resolution: int = 8,
        channels: int = 1,
        width: int = 32,
        depth: int = 2,
        classes: int = 0,
        noise_conditional: bool = False,
        activation: blocks.Activation = "leaky_relu",
    ) -> None:
        super().__init__()
        conditioning.require_positive(depth=depth)
        base, widths = blocks.resolutions(resolution=resolution, channels=channels, width=width)
        widths = widths[::-1]
        self.shape = (channels, resolution, resolution)
        self.entry = blocks.initialised(nn.Conv2d(channels, width, 1, bias=False))
        self.depth = depth
        self.blocks = _blocks(widths, depth, activation)
        self.downsample = blocks.Downsample()
        self.widen = _transitions(widths)
        last = widths[-1]
        self.collect = nn.Parameter(torch.randn(last, base, base) / base)
        self.head = conditioning.ProjectionHead(features=last, classes=classes, bias=False)
        blocks.initialised(self.head.linear)
        sizes = [2 * width for width in widths for _ in range(depth)]
        self.noise = conditioning.NoiseConditioning(sizes) if noise_conditional else None

    def forward(
        self, x: Tensor, sigma: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        conditioning.check_input(x, self.shape, "x")
        x, biases = (x, None) if self.noise is None else self.noise(x, sigma)
        h = self.entry(x).contiguous(memory_format=torch.channels_last)
        for i, block in enumerate(self.blocks):
            if i > 0 and i % self.depth == 0:
                h = self.widen[i // self.depth - 1](self.downsample(h))
            h = block(h, None if biases is None else biases[i])
        return self.head((h * self.collect).sum((2, 3)), label)


def _blocks(
    widths: Sequence[int], depth: int, activation: blocks.Activation = "leaky_relu"
) -> nn.ModuleList:
    """`depth` blocks at each resolution, in the order they are passed."""
    total = depth * len(widths)
    return nn.ModuleList(
        blocks.ResidualBlock(width=width, blocks=total, activation=activation)
        for width in widths
        for _ in range(depth)
    )


def _transitions(widths: Sequence[int]) -> nn.ModuleList:
    """Between resolutions, a 1x1 convolution where the number of channels changes."""
    return nn.ModuleList(
        nn.Identity() if a == b else blocks.initialised(nn.Conv2d(a, b, 1, bias=False))
        for a, b in pairwise(widths)
    )
