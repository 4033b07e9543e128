"""What networks are built of."""

from dataclasses import dataclass
from typing import Annotated, Literal

from hybridgen.errors import InputError
from hybridgen.settings import Positive, Range, Settings

Architecture = Literal["mlp", "dcgan", "residual"]
DiscriminatorArchitecture = Literal["mlp", "dcgan", "residual", "patch"]
Activation = Literal["leaky_relu", "silu"]
"""Between a discriminator's layers. SiLU is smooth: a loss on the discriminator's gradient, as
score matching is, needs a second derivative, and that of a LeakyReLU is zero wherever it exists."""
Prior = Literal["normal", "uniform"]
Normalisation = Literal["spectral", "weight", "none"]
"""Of a layer's weights: divided by their largest singular value (Miyato et al. 2018,
arXiv:1802.05957), or split into direction and length (Salimans & Kingma 2016, arXiv:1602.07868)."""
Width = Annotated[int, Range(1, 65_536)]
Depth = Annotated[int, Range(1, 256)]


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings(Settings):
    """The generator.

    Attributes:
        architecture: `mlp` for points; `residual` (R3GAN) or `dcgan` (2015) for images.
        latent: entries of a noise vector.
        width: units of a hidden layer, or channels at the finest resolution inside (for `dcgan`
            half the image's).
        depth: hidden layers, or residual blocks per resolution; ignored by `dcgan`.
        prior: what the network makes of its standard normal noise first: nothing, or `uniform`
            numbers in [-1, 1].
    """

    architecture: Architecture = "dcgan"
    latent: Width = 64
    width: Width = 64
    depth: Depth = 2
    prior: Prior = "normal"


@dataclass(frozen=True, kw_only=True)
class DiscriminatorSettings(Settings):
    """The discriminator.

    Attributes:
        architecture: `mlp` for points; `residual` (R3GAN) or `dcgan` (2015) for images, or `patch`,
            which answers a logit a patch (PatchGAN with spectral norm) and is no guide.
        width: units of a hidden layer, or channels at the finest resolution inside (for `dcgan`
            and `patch` half the image's).
        depth: hidden layers, or residual blocks per resolution, or for `patch` how often the image
            is halved; ignored by `dcgan`.
        frequencies: Fourier features a coordinate, for points, which let it see finer structure.
        min_wavelength: the shortest, in units of the data's deviation.
        decay: how fast their amplitudes fall with the frequency w, as w^-decay: 0 suits a guide,
            .5 the discriminator of a GAN.
        noise_conditional: whether it looks at the noise level of its input.
        activation: `leaky_relu`, or `silu` for a loss on the discriminator's gradient (score
            matching).
        norm: of the weights; if not given, spectral for `patch` and none for others. Not for
            `residual`. Spectral, a linear layer stretches no distance; of a convolution it is the
            norm of the kernel as a matrix, and the map itself can stretch more: a kernel of 4 x 4
            with stride 2, where up to four outputs see an input, up to twice as much.
    """

    architecture: DiscriminatorArchitecture = "dcgan"
    width: Width = 64
    depth: Depth = 2
    frequencies: Annotated[int, Range(0, 32)] = 0
    min_wavelength: Positive = 0.05
    decay: Annotated[float, Range(0, 1)] = 0.0
    noise_conditional: bool = False
    activation: Activation = "leaky_relu"
    norm: Normalisation | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.architecture == "residual" and self.norm not in (None, "none"):
            raise InputError(
                f"a residual discriminator has weights without normalisation, got norm {self.norm}:"
                " leave discriminator.norm out, or choose mlp, dcgan or patch"
            )
        if self.decay and not self.frequencies:
            raise InputError(
                f"a discriminator without Fourier features has no amplitudes that decay, got decay "
                f"{self.decay:g}: set discriminator.frequencies, or leave discriminator.decay out"
            )


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings(Settings):
    """The autoencoder: diffusers' `AutoencoderKL`.

    Attributes:
        widths: channels at each resolution, the largest first; each but the first halves it.
        latent_channels: of a latent, which has the last of the resolutions.
        layers: residual blocks at each resolution.
        attention: whether the coarsest resolution has self-attention.
    """

    widths: tuple[Width, ...] = (16, 32)
    latent_channels: Annotated[int, Range(1, 1_024)] = 2
    layers: Depth = 1
    attention: bool = False


@dataclass(frozen=True, kw_only=True)
class DenoiserSettings(Settings):
    """The denoiser: a U-Net for images, an MLP on Fourier features for points.

    Attributes:
        widths: channels of the U-Net at each resolution, the largest first.
        patch: pixels a side that the U-Net sees as one.
        layers: residual blocks of the U-Net at each resolution.
        attention: whether the U-Net's coarsest resolution has self-attention.
        dropout: of the U-Net's residual blocks.
        width: units of a hidden layer, for points.
        depth: hidden layers, for points.
        frequencies: Fourier features a coordinate, for points.
        min_wavelength: the shortest, in units of the data's deviation, for points.
        data_std: root mean square of the data's values, their standard deviation where they are
            centred; if not given, 0.5 for images, 1 for points.
    """

    widths: tuple[Width, ...] = (32, 64)
    patch: Annotated[int, Range(1, 256)] = 1
    layers: Depth = 1
    attention: bool = False
    dropout: Annotated[float, Range(0, 1, "[)")] = 0.0
    width: Width = 128
    depth: Depth = 3
    frequencies: Annotated[int, Range(0, 32)] = 8
    min_wavelength: Positive = 0.1
    data_std: Annotated[float, Range(1e-6, 1e6)] | None = None
