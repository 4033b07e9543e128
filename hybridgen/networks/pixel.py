"""A discriminator that answers one logit a pixel."""

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from hybridgen.networks import conditioning
from hybridgen.networks.blocks import (
    GAIN,
    Normalisation,
    activation_named,
    convolution,
    initialised,
    normalised,
)
from hybridgen.networks.patch import joined
from hybridgen.networks.settings import Activation
from hybridgen.protocols import Answer, Logits


class PixelDiscriminator(ModelMixin, ConfigMixin):
    """`(x [b c ...], sigma [b], label [b] or None) -> logits [b 1 ...]` of x's size: a U-Net.

    Convolutions of kernel 4 halve the picture `depth` times; linear interpolation and convolutions
    of kernel 3 bring it back, each result added to what had its size on the way down. Source: Wang
    et al. 2021 (Real-ESRGAN), arXiv:2107.10833, section 3.3; its spectral normalisation is of all
    weights but the first's and the last's.

    Args:
        dims: axes of a sample beside its channels: 1 for sound, 2 for images, 3 for volumes.
        channels: of a sample.
        width: channels at the sample's size; each halving doubles them.
        depth: how often the picture is halved; each side needs `2^depth` entries.
        norm: of the inner weights: `spectral`, `weight` or `none`.
        classes: number of labels; 0 for none.
        noise_conditional: whether it looks at `sigma`.
        activation: `leaky_relu` or, for a loss on the discriminator's gradient, `silu`.
        features: whether it answers `Answer(logits, features)`, with the hidden layers.
    """

    @register_to_config
    def __init__(
        self,
        *,
        dims: int = 2,
        channels: int = 3,
        width: int = 64,
        depth: int = 3,
        norm: Normalisation = "spectral",
        classes: int = 0,
        noise_conditional: bool = False,
        activation: Activation = "leaky_relu",
        features: bool = False,
    ) -> None:
        super().__init__()
        conditioning.require_positive(channels=channels, width=width, depth=depth)
        conditioning.require_classes(classes)
        conv = convolution(dims)
        widths = [width * 2**i for i in range(depth + 1)]

        def inner(layer: nn.Conv2d) -> nn.Conv2d:
            return normalised(initialised(layer, GAIN), norm)

        self.entry = initialised(conv(channels, width, 3, padding=1), GAIN)
        self.down = nn.ModuleList(inner(conv(w, 2 * w, 4, 2, 1, bias=False)) for w in widths[:-1])
        self.up = nn.ModuleList(
            inner(conv(2 * w, w, 3, padding=1, bias=False)) for w in widths[-2::-1]
        )
        self.last = nn.ModuleList(
            inner(conv(width, width, 3, padding=1, bias=False)) for _ in range(2)
        )
        out = initialised(conv(width, 1 + classes, 3, padding=1))
        self.head = conditioning.MapHead(out, classes=classes)
        self.activate = activation_named(activation)
        sizes = [*widths, *widths[-2::-1], width, width]
        self.noise = conditioning.NoiseConditioning(sizes) if noise_conditional else None
        self.mode = ("linear", "bilinear", "trilinear")[dims - 1]

    def forward(
        self, x: Tensor, sigma: Tensor | None = None, label: Tensor | None = None
    ) -> Logits | Answer:
        size = self.config
        conditioning.check_map(x, size["dims"], size["channels"], least=2 ** size["depth"])
        h, biases = (x, None) if self.noise is None else self.noise(x, sigma)
        features: list[Tensor] = []

        def hidden(layer: nn.Module, h: Tensor) -> Tensor:
            h = layer(h)
            if biases is not None:
                h = h + rearrange(biases[len(features)], "b c -> b c" + " 1" * (h.ndim - 2))
            features.append(self.activate(h))
            return features[-1]

        skips = [h := hidden(self.entry, h)]
        skips += [h := hidden(layer, h) for layer in self.down]
        for layer, skip in zip(self.up, skips[-2::-1], strict=True):
            h = F.interpolate(h, skip.shape[2:], mode=self.mode, align_corners=False)
            h = hidden(layer, h) + skip
        for layer in self.last:
            h = hidden(layer, h)
        return joined([Answer(self.head(h, label), features)], features=size["features"])
