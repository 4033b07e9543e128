"""Fully connected networks for points, of a size for two-dimensional benchmarks."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from hybridgen.errors import InputError
from hybridgen.networks.blocks import SLOPE, Activation, activate, check_activation
from hybridgen.networks.conditioning import (
    LabelledNoise,
    NoiseConditioning,
    ProjectionHead,
    check_input,
    require_positive,
)


def _hidden(size: int, width: int, depth: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(width if i else size, width) for i in range(depth))


class MlpGenerator(ModelMixin, ConfigMixin):
    """`(noise [b latent], label [b] or None) -> points [b dimension]`.

    Args:
        latent: entries of a noise vector.
        dimension: entries of a point.
        width: units of a hidden layer.
        depth: hidden layers.
        classes: labels it is told about; 0 for none.
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
    ) -> None:
        super().__init__()
        require_positive(latent=latent, dimension=dimension, width=width, depth=depth)
        self.entry = LabelledNoise(latent=latent, classes=classes)
        self.hidden = _hidden(self.entry.size, width, depth)
        self.out = nn.Linear(width, dimension)

    def forward(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.entry(noise, label)
        for layer in self.hidden:
            h = F.leaky_relu(layer(h), SLOPE)
        return self.out(h)


class MlpDiscriminator(ModelMixin, ConfigMixin):
    """`(x [b dimension], sigma [b], label [b] or None) -> logits [b]`.

    Args:
        dimension: entries of a point.
        width: units of a hidden layer.
        depth: hidden layers.
        classes: labels it is told about; 0 for none.
        noise_conditional: whether it looks at `sigma`; points should have about unit scale then.
        activation: `leaky_relu` or, for a loss on the discriminator's gradient, `silu`.
    """

    @register_to_config
    def __init__(
        self,
        *,
        dimension: int = 2,
        width: int = 128,
        depth: int = 4,
        classes: int = 0,
        noise_conditional: bool = False,
        activation: Activation = "leaky_relu",
    ) -> None:
        super().__init__()
        require_positive(dimension=dimension, width=width, depth=depth)
        check_activation(activation)
        self.shape = (dimension,)
        self.activation: Activation = activation
        self.hidden = _hidden(dimension, width, depth)
        self.head = ProjectionHead(features=width, classes=classes)
        self.noise = NoiseConditioning([width] * depth) if noise_conditional else None

    def forward(
        self, x: Tensor, sigma: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        check_input(x, self.shape, "x")
        h, biases = (x, None) if self.noise is None else self.noise(x, sigma)
        for i, layer in enumerate(self.hidden):
            h = layer(h)
            h = activate(h if biases is None else h + biases[i], self.activation)
        return self.head(h, label)


_LONGEST = 8.0


class FourierFeatures(nn.Module):
    """`[x, sin(x w_1), ..., cos(x w_1), ...]`: `[b d] -> [b size]`.

    Source: Tancik et al. 2020, arXiv:2006.10739, with frequencies on a grid.

    Args:
        dimension: d.
        waves: frequencies a coordinate, geometric from wavelength 8 to `finest`.
        finest: the shortest wavelength.

    Attributes:
        size: `d (2 waves + 1)`.
    """

    def __init__(self, *, dimension: int, waves: int, finest: float) -> None:
        super().__init__()
        require_positive(dimension=dimension, waves=waves)
        if not 0 < finest < math.inf:
            raise InputError(f"finest is a wavelength and must be positive, got {finest}")
        self.size = dimension * (2 * waves + 1)
        ends = math.log10(_LONGEST), math.log10(finest)
        lengths = torch.logspace(*ends, waves, dtype=torch.float64)
        self.register_buffer("frequencies", 2 * math.pi / lengths.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        angles = (x.unsqueeze(-1) * cast(Tensor, self.frequencies).to(x)).flatten(1)
        return torch.cat([x, angles.sin(), angles.cos()], dim=1)


class WavesDiscriminator(ModelMixin, ConfigMixin):
    """`(x [b dimension], sigma [b], label [b] or None) -> logits [b]`, finer than
    `MlpDiscriminator`.

    Too fine to play in a game, where it would lead the generator along its waves; made to know two
    finished sets of points apart.

    Args:
        dimension: entries of a point.
        width: units of a hidden layer.
        depth: hidden layers.
        waves: frequencies a coordinate, see `FourierFeatures`.
        finest: the shortest wavelength; points should have about unit scale.
        classes: labels it is told about; 0 for none.
        noise_conditional: whether it looks at `sigma`.
        activation: `leaky_relu` or, for a loss on the discriminator's gradient, `silu`.
    """

    @register_to_config
    def __init__(
        self,
        *,
        dimension: int = 2,
        width: int = 128,
        depth: int = 4,
        waves: int = 8,
        finest: float = 0.05,
        classes: int = 0,
        noise_conditional: bool = False,
        activation: Activation = "leaky_relu",
    ) -> None:
        super().__init__()
        require_positive(width=width, depth=depth)
        check_activation(activation)
        self.shape = (dimension,)
        self.activation: Activation = activation
        self.entry = FourierFeatures(dimension=dimension, waves=waves, finest=finest)
        sizes = [self.entry.size] + [width] * (depth - 1)
        self.hidden = nn.ModuleList(nn.Linear(size, width) for size in sizes)
        self.head = ProjectionHead(features=width, classes=classes)
        self.noise = NoiseConditioning([width] * depth) if noise_conditional else None

    def forward(
        self, x: Tensor, sigma: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        check_input(x, self.shape, "x")
        x, biases = (x, None) if self.noise is None else self.noise(x, sigma)
        h = self.entry(x)
        for i, layer in enumerate(self.hidden):
            h = layer(h)
            h = activate(h if biases is None else h + biases[i], self.activation)
        return self.head(h, label)
