"""Discriminators that answer a map, one logit a patch, on sound, images and volumes of any size."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from hybridgen.errors import InputError
from hybridgen.networks import conditioning
from hybridgen.networks.blocks import (
    GAIN,
    Normalisation,
    activation_named,
    convolution,
    initialised,
    normalised,
)
from hybridgen.networks.settings import Activation
from hybridgen.protocols import Answer, Logits


class ConvolutionStack(nn.Module):
    """Convolutions, an activation after each, and a last one to logits.

    Args:
        layers: all convolutions but the last.
        last: to `1 + classes` channels, see `hybridgen.networks.conditioning.MapHead`.
        classes: number of labels; 0 for none.
        noise_conditional: whether it looks at `sigma`.
        activation: `leaky_relu` or `silu`.
    """

    def __init__(
        self,
        layers: Sequence[nn.Conv2d],
        last: nn.Module,
        *,
        classes: int = 0,
        noise_conditional: bool = False,
        activation: Activation = "leaky_relu",
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.head = conditioning.MapHead(last, classes=classes)
        sizes = [layer.out_channels for layer in layers]
        self.noise = conditioning.NoiseConditioning(sizes) if noise_conditional else None
        self.activate = activation_named(activation)

    def forward(
        self, x: Tensor, sigma: Tensor | None, label: Tensor | None, condition: Tensor | None = None
    ) -> Answer:
        """Logits `[b 1 ...]` and the layers' answers of `x [b c ...]` joined to the condition."""
        h, biases = (x, None) if self.noise is None else self.noise(x, sigma)
        h = h if condition is None else torch.cat([h, condition], dim=1)
        features = []
        for i, layer in enumerate(self.layers):
            h = layer(h)
            if biases is not None:
                h = h + rearrange(biases[i], "b c -> b c" + " 1" * (h.ndim - 2))
            h = self.activate(h)
            features.append(h)
        return Answer(self.head(h, label), features)


def joined(answers: Sequence[Answer], *, features: bool) -> Logits | Answer:
    """One answer of several discriminators: lists of logits and of features; of one, its own."""
    logits, layers = ([*part] for part in zip(*answers, strict=True))
    if len(answers) == 1:
        (logits,), (layers,) = logits, layers
    return Answer(logits, layers) if features else logits


class Ensemble(nn.Module):
    """Several discriminators of the same samples as one: a list of all their logits.

    Its features are a list for each of the logits, empty for one that hands back none. Each is
    called alike, with a condition only if there is one.
    """

    def __init__(self, *discriminators: nn.Module) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(discriminators)

    def forward(
        self, x: Tensor, sigma: Tensor, label: Tensor | None = None, condition: Any = None
    ) -> Logits | Answer:
        answers: list[Answer] = []
        for discriminator in self.discriminators:
            answer = discriminator(x, sigma, label, *(() if condition is None else (condition,)))
            logits, features = answer if isinstance(answer, Answer) else (answer, ())
            maps, lists = (
                ([logits], [features]) if isinstance(logits, Tensor) else (logits, features)
            )
            pairs: Any = zip(maps, lists or [()] * len(maps), strict=True)
            answers.extend(Answer(*pair) for pair in pairs)
        return joined(answers, features=any(answer.features for answer in answers))


class PatchDiscriminator(ModelMixin, ConfigMixin):
    """`(x [b c ...], sigma [b], label [b] or None) -> logits [b 1 ...]`, after PatchGAN.

    `depth` convolutions of kernel 4 halve the picture, one more and the last keep its scale, so a
    logit sees 70 pixels a side at depth 3. Source: Isola et al. 2017, arXiv:1611.07004, appendix
    6.1.2, without its batch normalisation. Several scales, each on a picture averaged to half the
    size of the one before, are those of Wang et al. 2018, arXiv:1711.11585.

    Args:
        dims: axes of a sample beside its channels: 1 for sound, 2 for images, 3 for volumes.
        channels: of a sample.
        condition_channels: of a condition `[b k ...]` of the sample's size, such as the input of an
            image translation; it is the fourth argument then.
        width: channels after the first convolution; each further one doubles them, up to 8 times.
        depth: how many convolutions halve the picture; each side needs `3 * 2^depth` entries.
        scales: discriminators of this form; the logits of several are a list of maps.
        norm: of the weights: `spectral`, `weight` or `none`.
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
        condition_channels: int = 0,
        width: int = 64,
        depth: int = 3,
        scales: int = 1,
        norm: Normalisation = "spectral",
        classes: int = 0,
        noise_conditional: bool = False,
        activation: Activation = "leaky_relu",
        features: bool = False,
    ) -> None:
        super().__init__()
        conditioning.require_positive(channels=channels, width=width, depth=depth, scales=scales)
        conditioning.require_classes(classes)
        if condition_channels < 0:
            raise InputError(
                f"condition_channels is {condition_channels}, expected 0 (none) or more"
            )
        conv = convolution(dims)
        widths = [width * min(2**i, 8) for i in range(depth + 1)]
        inner = [channels + condition_channels, *widths[:-1]]
        strides = [*[2] * depth, 1]

        def stack() -> ConvolutionStack:
            layers = [
                conv(a, b, 4, stride, 1)
                for a, b, stride in zip(inner, widths, strides, strict=True)
            ]
            last = conv(widths[-1], 1 + classes, 4, padding=1)
            return ConvolutionStack(
                [normalised(initialised(layer, GAIN), norm) for layer in layers],
                normalised(initialised(last), norm),
                classes=classes,
                noise_conditional=noise_conditional,
                activation=activation,
            )

        self.stacks = nn.ModuleList(stack() for _ in range(scales))
        pool = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[dims - 1]
        self.halve = pool(3, stride=2, padding=1, count_include_pad=False)
        self.least = (3 * 2**depth - 1) * 2 ** (scales - 1) + 1  # halving rounds up

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | None = None,
        label: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Logits | Answer:
        size = self.config
        conditioning.check_map(x, size["dims"], size["channels"], least=self.least)
        conditioning.check_condition(condition, size["condition_channels"], x)
        answers = []
        for i, stack in enumerate(self.stacks):
            if i > 0:
                x = self.halve(x)
                condition = None if condition is None else self.halve(condition)
            answers.append(stack(x, sigma, label, condition))
        return joined(answers, features=size["features"])
