"""Fully connected networks for points, of a size for two-dimensional benchmarks."""

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

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


class MlpCritic(ModelMixin, ConfigMixin):
    """`(x [b dimension], sigma [b], label [b] or None) -> logits [b]`.

    Args:
        dimension: entries of a point.
        width: units of a hidden layer.
        depth: hidden layers.
        classes: labels it is told about; 0 for none.
        noise_conditional: whether it looks at `sigma`; points should have about unit scale then.
        activation: `leaky_relu` or, for a loss on the critic's gradient, `silu`.
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
