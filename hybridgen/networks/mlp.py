"""Fully connected networks for points, of a size for two-dimensional benchmarks."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from hybridgen.errors import InputError
from hybridgen.networks import conditioning
from hybridgen.networks.blocks import SLOPE, activation_named, normalised
from hybridgen.networks.settings import Activation, Normalisation, Prior

_MAX_WAVELENGTH = 8.0


def _hidden(size: int, width: int, depth: int, norm: Normalisation = "none") -> nn.ModuleList:
    sizes = [size, *[width] * (depth - 1)]
    return nn.ModuleList(normalised(nn.Linear(before, width), norm) for before in sizes)


class MlpGenerator(ModelMixin, ConfigMixin):
    """`(noise [b latent], label [b] or None) -> points [b dimension]`.

    Args:
        latent: entries of a noise vector.
        dimension: entries of a point.
        width: units of a hidden layer.
        depth: hidden layers.
        classes: number of labels; 0 for none.
        prior: of the noise, see `LabelledNoise`.
    """

    @register_to_config
    def __init__(
        self,
        *,
        latent: int = 2,
        dimension: int = 2,
        width: int = 128,
        depth: int = 4,
        classes: int = 0,
        prior: Prior = "normal",
    ) -> None:
        super().__init__()
        conditioning.require_positive(latent=latent, dimension=dimension, width=width, depth=depth)
        self.entry = conditioning.LabelledNoise(latent=latent, classes=classes, prior=prior)
        self.hidden = _hidden(self.entry.size, width, depth)
        self.out = nn.Linear(width, dimension)

    def forward(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.entry(noise, label)
        for layer in self.hidden:
            h = F.leaky_relu(layer(h), SLOPE)
        return self.out(h)


class FourierFeatures(nn.Module):
    """`[x, a_1 sin(x w_1), ..., a_1 cos(x w_1), ...]`: `[b d] -> [b size]`.

    Source: Tancik et al. 2020, arXiv:2006.10739, with frequencies on a grid; amplitudes are
    `a = w^-decay`, as the power laws of their one-dimensional examples.

    Args:
        dimension: d.
        frequencies: a coordinate, geometric from wavelength 8 to `min_wavelength`.
        min_wavelength: the shortest.
        decay: 0 for equal amplitudes, 1 for equal slopes.

    Attributes:
        size: `d (2 frequencies + 1)`.
    """

    def __init__(
        self, *, dimension: int, frequencies: int, min_wavelength: float, decay: float = 0.0
    ) -> None:
        super().__init__()
        conditioning.require_positive(dimension=dimension, frequencies=frequencies)
        if not 0 < min_wavelength < math.inf:
            raise InputError(f"min_wavelength must be positive and finite, got {min_wavelength}")
        self.size = dimension * (2 * frequencies + 1)
        ends = math.log10(_MAX_WAVELENGTH), math.log10(min_wavelength)
        lengths = torch.logspace(*ends, frequencies, dtype=torch.float64)
        self.register_buffer("frequencies", 2 * math.pi / lengths.float(), persistent=False)
        self.decay = decay

    def forward(self, x: Tensor) -> Tensor:
        frequencies = cast(Tensor, self.frequencies).to(x)
        angles = (x.unsqueeze(-1) * frequencies).flatten(1)
        features = [angles.sin(), angles.cos()]
        if self.decay:
            amplitudes = (frequencies**-self.decay).repeat(x.shape[1])
            features = [amplitudes * each for each in features]
        return torch.cat([x, *features], dim=1)


class MlpDiscriminator(ModelMixin, ConfigMixin):
    """`(x [b dimension], sigma [b], label [b] or None) -> logits [b]`.

    With Fourier features it sees finer structure. In a GAN those of equal amplitude do harm: the
    slopes of the shortest waves lead the generator astray. With `decay` .5 they help.

    Args:
        dimension: entries of a point.
        width: units of a hidden layer.
        depth: hidden layers.
        frequencies: Fourier features a coordinate, see `FourierFeatures`; 0 for none.
        min_wavelength: the shortest wavelength of them; points should have about unit scale.
        decay: how fast their amplitudes fall with the frequency.
        classes: number of labels; 0 for none.
        noise_conditional: whether it looks at `sigma`; points should have about unit scale then.
        activation: `leaky_relu` or, for a loss on the discriminator's gradient, `silu`.
        norm: of the weights of every layer, but not of those of labels and noise levels.
    """

    @register_to_config
    def __init__(
        self,
        *,
        dimension: int = 2,
        width: int = 128,
        depth: int = 4,
        frequencies: int = 0,
        min_wavelength: float = 0.05,
        decay: float = 0.0,
        classes: int = 0,
        noise_conditional: bool = False,
        activation: Activation = "leaky_relu",
        norm: Normalisation = "none",
    ) -> None:
        super().__init__()
        conditioning.require_positive(dimension=dimension, width=width, depth=depth)
        self.shape = (dimension,)
        self.activate = activation_named(activation)
        self.features = None
        if frequencies != 0:
            self.features = FourierFeatures(
                dimension=dimension,
                frequencies=frequencies,
                min_wavelength=min_wavelength,
                decay=decay,
            )
        size = dimension if self.features is None else self.features.size
        self.hidden = _hidden(size, width, depth, norm)
        self.head = conditioning.ProjectionHead(features=width, classes=classes)
        normalised(self.head.linear, norm)
        self.noise = conditioning.NoiseConditioning([width] * depth) if noise_conditional else None

    def forward(
        self, x: Tensor, sigma: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        conditioning.check_input(x, self.shape, "x")
        h, biases = (x, None) if self.noise is None else self.noise(x, sigma)
        if self.features is not None:
            h = self.features(h)
        for i, layer in enumerate(self.hidden):
            h = layer(h)
            h = self.activate(h if biases is None else h + biases[i])
        return self.head(h, label)
