"""Discriminators of waveforms: by period, by scale and by short-time Fourier transform.

They have the forms and the weight normalisation of the papers, LeakyReLUs of this package's slope,
and biases of the noise level where it is wanted.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from hybridgen.errors import InputError
from hybridgen.networks import conditioning
from hybridgen.networks.blocks import GAIN, Normalisation, initialised, normalised
from hybridgen.networks.patch import ConvolutionStack, joined
from hybridgen.protocols import Answer, Logits


class MultiPeriodDiscriminator(ModelMixin, ConfigMixin):
    """`(x [b c t], sigma [b], label [b] or None) -> a list of logits [b 1 t' p]`, one a period p.

    For each period the waveform, reflected at its end to a whole number of periods, becomes a
    picture `[b c t/p p]`, whose columns are convolved alone. Source: Kong et al. 2020 (HiFi-GAN),
    arXiv:2010.05646, section 2.3.

    Args:
        channels: of the waveform, which has at least as many samples as the longest period.
        periods: in samples; prime numbers overlap least.
        width: channels after the first convolution; each further one has four times as many, up to
            32 times.
        classes: number of labels; 0 for none.
        noise_conditional: whether it looks at `sigma`.
        features: whether it answers `Answer(logits, features)`, with the hidden layers.
    """

    @register_to_config
    def __init__(
        self,
        *,
        channels: int = 1,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        width: int = 32,
        classes: int = 0,
        noise_conditional: bool = False,
        features: bool = False,
    ) -> None:
        super().__init__()
        _check("periods", periods, channels=channels, width=width, classes=classes)
        widths = [channels, *(width * min(4**i, 32) for i in range(4)), 32 * width]

        def stack() -> ConvolutionStack:
            layers = [
                nn.Conv2d(widths[i], widths[i + 1], (5, 1), (3 if i < 4 else 1, 1), (2, 0))
                for i in range(5)
            ]
            last = nn.Conv2d(widths[-1], 1 + classes, (3, 1), padding=(1, 0))
            return _stack(layers, last, "weight", classes, noise_conditional)

        self.stacks = nn.ModuleList(stack() for _ in periods)

    def forward(
        self, x: Tensor, sigma: Tensor | None = None, label: Tensor | None = None
    ) -> Logits | Answer:
        periods = self.config["periods"]
        conditioning.check_map(x, 1, self.config["channels"], least=max(periods))
        answers = [
            stack(by_period(x, period), sigma, label)
            for stack, period in zip(self.stacks, periods, strict=True)
        ]
        return joined(answers, features=self.config["features"])


def by_period(x: Tensor, period: int) -> Tensor:
    """`[b c t] -> [b c t/p p]`, the waveform continued by its reflection to whole periods."""
    x = F.pad(x, (0, -x.shape[-1] % period), "reflect")
    return rearrange(x, "b c (n p) -> b c n p", p=period)


class MultiScaleDiscriminator(ModelMixin, ConfigMixin):
    """`(x [b c t], sigma [b], label [b] or None) -> a list of logits [b 1 t']`, one a scale.

    Grouped, strided convolutions of long kernels on the waveform and on its averages over two and
    four samples, of any length; on the waveform itself weights have spectral normalisation. Source:
    Kumar et al. 2019 (MelGAN), arXiv:1910.06711, in the form of Kong et al. 2020 (HiFi-GAN),
    arXiv:2010.05646, section 2.3. Of images: `PatchDiscriminator(scales=...)`.

    Args:
        channels: of the waveform.
        scales: how many; each averages the one before over windows of four samples, half as often.
        width: channels after the first convolution; the last have eight times as many.
        classes: number of labels; 0 for none.
        noise_conditional: whether it looks at `sigma`.
        features: whether it answers `Answer(logits, features)`, with the hidden layers.
    """

    @register_to_config
    def __init__(
        self,
        *,
        channels: int = 1,
        scales: int = 3,
        width: int = 128,
        classes: int = 0,
        noise_conditional: bool = False,
        features: bool = False,
    ) -> None:
        super().__init__()
        _check("scales", [scales], channels=channels, width=width, classes=classes)
        widths = [channels, *(width * factor for factor in (1, 1, 2, 4, 8, 8, 8))]
        kernels, strides, groups = (
            (15, 41, 41, 41, 41, 41, 5),
            (1, 2, 2, 4, 4, 1, 1),
            (1, 4, 16, 16, 16, 16, 1),
        )

        def stack(norm: Normalisation) -> ConvolutionStack:
            layers = [
                nn.Conv1d(a, b, k, stride, k // 2, groups=math.gcd(group, a, b))
                for a, b, k, stride, group in zip(
                    widths, widths[1:], kernels, strides, groups, strict=False
                )
            ]
            last = nn.Conv1d(widths[-1], 1 + classes, 3, padding=1)
            return _stack(layers, last, norm, classes, noise_conditional)

        self.stacks = nn.ModuleList(stack("weight" if i else "spectral") for i in range(scales))
        self.halve = nn.AvgPool1d(4, stride=2, padding=2)

    def forward(
        self, x: Tensor, sigma: Tensor | None = None, label: Tensor | None = None
    ) -> Logits | Answer:
        conditioning.check_map(x, 1, self.config["channels"])
        answers = []
        for i, stack in enumerate(self.stacks):
            x = self.halve(x) if i > 0 else x
            answers.append(stack(x, sigma, label))
        return joined(answers, features=self.config["features"])


class MultiStftDiscriminator(ModelMixin, ConfigMixin):
    """`(x [b c t], sigma [b], label [b] or None) -> a list of logits [b 1 t' f']`, one a window.

    Dilated convolutions on the complex short-time Fourier transform, its real and its imaginary
    parts as channels. Source: Defossez et al. 2022 (EnCodec), arXiv:2210.13438, section 3.4, with
    the kernels of its published code (3x9 in place of 3x8).

    Args:
        channels: of the waveform, which has at least as many samples as the longest window.
        windows: lengths in samples; a quarter of each is the hop.
        width: channels of every convolution.
        classes: number of labels; 0 for none.
        noise_conditional: whether it looks at `sigma`.
        features: whether it answers `Answer(logits, features)`, with the hidden layers.
    """

    @register_to_config
    def __init__(
        self,
        *,
        channels: int = 1,
        windows: Sequence[int] = (2048, 1024, 512, 256, 128),
        width: int = 32,
        classes: int = 0,
        noise_conditional: bool = False,
        features: bool = False,
    ) -> None:
        super().__init__()
        _check("windows", windows, channels=channels, width=width, classes=classes)
        if min(windows) < 4:
            raise InputError(f"windows are of at least 4 samples, got {list(windows)}")

        def stack() -> ConvolutionStack:
            layers = [nn.Conv2d(2 * channels, width, (3, 9), padding=(1, 4))]
            layers += [nn.Conv2d(width, width, (3, 9), (1, 2), (d, 4), (d, 1)) for d in (1, 2, 4)]
            layers.append(nn.Conv2d(width, width, 3, padding=1))
            last = nn.Conv2d(width, 1 + classes, 3, padding=1)
            return _stack(layers, last, "weight", classes, noise_conditional)

        self.stacks = nn.ModuleList(stack() for _ in windows)

    def forward(
        self, x: Tensor, sigma: Tensor | None = None, label: Tensor | None = None
    ) -> Logits | Answer:
        windows = self.config["windows"]
        conditioning.check_map(x, 1, self.config["channels"], least=max(windows))
        answers = [
            stack(spectrogram(x, window), sigma, label)
            for stack, window in zip(self.stacks, windows, strict=True)
        ]
        return joined(answers, features=self.config["features"])


def spectrogram(x: Tensor, window: int) -> Tensor:
    """The short-time Fourier transform `[b c t] -> [b 2c t' f]`, real parts before imaginary ones.

    Hann windows every quarter of their length, `t' = (t - window) // (window // 4) + 1` of them,
    divided by the root of the window's sum of squares; `f = window // 2 + 1`.
    """
    samples = rearrange(x, "b c t -> (b c) t").to(torch.promote_types(x.dtype, torch.float32))
    hann = torch.hann_window(window, dtype=samples.dtype, device=samples.device)
    hop = window // 4
    parts = torch.stft(samples, window, hop, window=hann, center=False, return_complex=True)
    parts = torch.view_as_real(parts / hann.square().sum().sqrt())
    return rearrange(parts, "(b c) f t two -> b (two c) t f", b=len(x)).to(x.dtype)


def _check(name: str, sizes: Sequence[int], *, channels: int, width: int, classes: int) -> None:
    if not sizes:
        raise InputError(f"{name} is empty: give at least one, in samples")
    conditioning.require_positive(channels=channels, width=width, **{name: min(sizes)})
    conditioning.require_classes(classes)


def _stack(
    layers: Sequence[Any],
    last: Any,
    norm: Normalisation,
    classes: int,
    noise_conditional: bool,
) -> ConvolutionStack:
    return ConvolutionStack(
        [normalised(initialised(layer, GAIN), norm) for layer in layers],
        normalised(initialised(last), norm),
        classes=classes,
        noise_conditional=noise_conditional,
    )
