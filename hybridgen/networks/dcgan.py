"""Plain strided convolutions after DCGAN (Radford et al. 2015, arXiv:1511.06434).

The generator is the recipe of 2015: batch normalisation, ReLU, tanh, weights `N(0, 0.02^2)`.
The discriminator departs from it where a gradient penalty asks for it: no normalisation, and so
weights that keep the second moment instead (He et al. 2015, arXiv:1502.01852). Both have one
3x3 layer more at the base, or an 8x8 picture would pass a single convolution.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from hybridgen.networks import blocks, conditioning
from hybridgen.networks.settings import Activation, Normalisation, Prior


class DcganGenerator(ModelMixin, ConfigMixin):
    """`(noise [b latent], label [b] or None) -> images [b c h w]` within [-1, 1].

    Batch normalisation makes a sample depend on its batch in training mode, but not in eval mode.

    Args:
        latent: entries of a noise vector.
        resolution: rows of the square image.
        channels: of the image, or of a latent.
        width: channels at half the resolution, doubled as `hybridgen.networks.blocks` says.
        classes: number of labels; 0 for none.
        prior: of the noise, see `LabelledNoise`.
    """

    @register_to_config
    def __init__(
        self,
        *,
        latent: int = 64,
        resolution: int = 32,
        channels: int = 1,
        width: int = 32,
        classes: int = 0,
        prior: Prior = "normal",
    ) -> None:
        super().__init__()
        base, widths = blocks.resolutions(
            resolution=resolution, channels=channels, width=width, least=8
        )
        widths = widths[1:]
        self.entry = conditioning.LabelledNoise(latent=latent, classes=classes, prior=prior)
        first = nn.ConvTranspose2d(self.entry.size, widths[0], base, bias=False)
        mix = nn.Conv2d(widths[0], widths[0], 3, padding=1, bias=False)
        grow = [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False) for a, b in pairwise(widths)]
        norms = [nn.BatchNorm2d(c) for c in (widths[0], *widths)]
        out = nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1)
        for layer in (first, mix, *grow, out):
            nn.init.normal_(layer.weight, std=0.02)
        for norm in norms:
            nn.init.normal_(norm.weight, mean=1.0, std=0.02)
        self.layers = nn.ModuleList([first, mix, *grow])
        self.norms, self.out = nn.ModuleList(norms), out

    def forward(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        h = rearrange(self.entry(noise, label), "b z -> b z 1 1")
        for layer, norm in zip(self.layers, self.norms, strict=True):
            h = F.relu(norm(layer(h)))
            h = h.contiguous(memory_format=torch.channels_last)
        return self.out(h).tanh().contiguous()


class DcganDiscriminator(ModelMixin, ConfigMixin):
    """`(x [b c h w], sigma [b], label [b] or None) -> logits [b]`.

    Args:
        resolution: rows of the square image.
        channels: of the image, or of a latent.
        width: channels at half the resolution, doubled as `hybridgen.networks.blocks` says.
        classes: number of labels; 0 for none.
        noise_conditional: whether it looks at `sigma`.
        activation: `leaky_relu` or, for a loss on the discriminator's gradient, `silu`.
        norm: of the weights of every layer, but not of those of labels and noise levels.
    """

    @register_to_config
    def __init__(
        self,
        *,
        resolution: int = 32,
        channels: int = 1,
        width: int = 32,
        classes: int = 0,
        noise_conditional: bool = False,
        activation: Activation = "leaky_relu",
        norm: Normalisation = "none",
    ) -> None:
        super().__init__()
        base, widths = blocks.resolutions(
            resolution=resolution, channels=channels, width=width, least=8
        )
        widths = widths[:0:-1]
        self.shape = (channels, resolution, resolution)
        self.activate = blocks.activation_named(activation)
        layers = [nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise((channels, *widths))]
        layers.append(nn.Conv2d(widths[-1], widths[-1], 3, padding=1))
        self.layers = nn.ModuleList(
            blocks.normalised(blocks.initialised(layer, blocks.GAIN), norm) for layer in layers
        )
        self.head = conditioning.ProjectionHead(features=widths[-1] * base**2, classes=classes)
        blocks.normalised(self.head.linear, norm)
        sizes = [*widths, widths[-1]]
        self.noise = conditioning.NoiseConditioning(sizes) if noise_conditional else None

    def forward(
        self, x: Tensor, sigma: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        conditioning.check_input(x, self.shape, "x")
        h, biases = (x, None) if self.noise is None else self.noise(x, sigma)
        for i, layer in enumerate(self.layers):
            h = layer(h).contiguous(memory_format=torch.channels_last)
            if biases is not None:
                h = h + rearrange(biases[i], "b c -> b c 1 1")
            h = self.activate(h)
        return self.head(rearrange(h, "b c h w -> b (c h w)"), label)
