"""Small networks for 8x8 digits in the manner of 2014 to 2019, beside the package's."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from hybridgen.losses.discriminators import Unconditional
from hybridgen.maths.rng import rng_from
from hybridgen.networks.blocks import GAIN, initialised, normalised, upsample
from hybridgen.networks.dcgan import DcganDiscriminator, DcganGenerator
from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator

LATENT = 64
"""Entries of a noise vector."""


class FlatGenerator(nn.Module):
    """`(noise [b latent], label) -> images [b 1 8 8]` by a fully connected network."""

    def __init__(self, *, width: int = 256, depth: int = 3) -> None:
        super().__init__()
        self.network = MlpGenerator(latent=LATENT, dimension=64, width=width, depth=depth)

    def forward(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        return rearrange(self.network(noise), "b (h w) -> b 1 h w", h=8).tanh()


class Block(nn.Module):
    """`x + conv(relu(conv(relu(x))))`, He et al. 2016, arXiv:1603.05027: `[b c h w]` stays."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = (initialised(nn.Conv2d(width, width, 3, padding=1), gain) for gain in (1.4, 0.7))
        self.first, self.second = layers

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class ResnetGenerator(nn.Module):
    """`(noise [b latent], label) -> images [b 1 8 8]`, a block before doubling and one after."""

    def __init__(self, *, width: int = 24) -> None:
        super().__init__()
        self.entry = initialised(nn.Linear(LATENT, width * 16))
        self.before, self.after = Block(width), Block(width)
        self.out = initialised(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        h = rearrange(self.entry(noise), "b (c h w) -> b c h w", h=4, w=4)
        return self.out(F.relu(self.after(upsample(self.before(h))))).tanh()


class SpectralResnet(nn.Module):
    """`(x [b 1 8 8], sigma, label) -> logits [b]`, every layer's weights divided by their largest
    singular value. Source: Miyato et al. 2018, arXiv:1802.05957, section 4 and table 4."""

    def __init__(self, *, width: int = 24) -> None:
        super().__init__()
        self.entry = nn.Conv2d(1, width, 3, padding=1)
        self.before, self.after = Block(width), Block(width)
        self.head = nn.Linear(width, 1)
        normalised(self.entry, "spectral")
        for block in (self.before, self.after):
            normalised(block.first, "spectral")
            normalised(block.second, "spectral")
        normalised(self.head, "spectral")

    def forward(
        self, x: Tensor, sigma: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        h = F.avg_pool2d(self.before(self.entry(x)), 2)
        return self.head(F.relu(self.after(h)).sum((2, 3)))[:, 0]


def modulated(weight: Tensor, h: Tensor, style: Tensor) -> Tensor:
    """A convolution of `h [b c h w]` times `style [b c]`, over the deviation that this gives
    independent inputs of unit variance. Source: arXiv:1912.04958, equations 1 and 3."""
    variance = style.square() @ weight.square().sum((2, 3)).T
    scaled = F.conv2d(h * style[:, :, None, None], weight, padding="same")
    return scaled * (variance + 1e-8).rsqrt()[:, :, None, None]


class StyleGenerator(nn.Module):
    """`(noise [b latent], label) -> images [b 1 8 8]`: a mapping network, a learned constant, and
    at each of three layers a style and noise of its own, which the latents decide. Source: Karras
    et al. 2018, arXiv:1812.04948, with `modulated` convolutions instead of its normalisation."""

    def __init__(self, *, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        self.mapping = MlpGenerator(latent=LATENT, dimension=width, width=width, depth=depth)
        for layer in self.mapping.modules():
            if isinstance(layer, nn.Linear):
                initialised(layer, GAIN)  # smaller weights, and all noise would mean one style
        self.constant = nn.Parameter(torch.randn(width, 4, 4))
        self.styles = nn.ModuleList(initialised(nn.Linear(width, width)) for _ in range(3))
        self.weights = nn.Parameter(torch.randn(3, width, width, 3, 3) / (3 * width**0.5))
        self.biases = nn.Parameter(torch.zeros(3, width, 1, 1))
        self.strengths = nn.Parameter(torch.zeros(3))
        self.out = initialised(nn.Conv2d(width, 1, 1))

    def forward(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        w = self.mapping(noise * noise.square().mean(1, keepdim=True).rsqrt())
        rng = rng_from(noise)
        h = self.constant.expand(len(noise), -1, -1, -1)
        for i, to_style in enumerate(self.styles):
            h = modulated(self.weights[i], upsample(h) if i == 1 else h, 1 + to_style(w))
            noises = torch.randn(h[:, :1].shape, generator=rng) * self.strengths[i]
            h = F.leaky_relu(h + noises + self.biases[i], 0.2) * GAIN
        return self.out(h)


def perceptrons() -> tuple[nn.Module, nn.Module]:
    """The generator and discriminator of 2014, fully connected."""
    generator = FlatGenerator()
    discriminator = MlpDiscriminator(dimension=64, width=256, depth=3)
    return generator, Unconditional(nn.Sequential(nn.Flatten(), discriminator))


def convolutions() -> tuple[nn.Module, nn.Module]:
    """The package's default networks, half as wide."""
    generator = DcganGenerator(latent=LATENT, resolution=8, width=32)
    return generator, DcganDiscriminator(resolution=8, width=32)
