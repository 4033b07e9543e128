"""From settings to networks, and from a folder back to the network saved in it."""

import inspect
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

from diffusers.models.modeling_utils import ModelMixin

from hybridgen.errors import InputError, reason
from hybridgen.files import read_object
from hybridgen.networks.blocks import Activation
from hybridgen.networks.dcgan import DcganDiscriminator, DcganGenerator
from hybridgen.networks.denoisers import ImageDenoiser, PointDenoiser
from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator
from hybridgen.networks.residual import ResidualDiscriminator, ResidualGenerator

N = TypeVar("N")
Architecture = Literal["mlp", "dcgan", "residual"]
_NETWORKS: dict[str, tuple[type[Any], type[Any]]] = {
    "mlp": (MlpGenerator, MlpDiscriminator),
    "dcgan": (DcganGenerator, DcganDiscriminator),
    "residual": (ResidualGenerator, ResidualDiscriminator),
}
"""Generator and discriminator of each architecture."""


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings:
    """The generator.

    Attributes:
        architecture: `mlp` for points; `residual` (R3GAN) or `dcgan` (2015) for images.
        latent: entries of a noise vector.
        width: units of a hidden layer, or channels at the finest resolution inside (for `dcgan`
            half the image's).
        depth: hidden layers, or residual blocks per resolution; ignored by `dcgan`.
    """

    architecture: Architecture = "dcgan"
    latent: int = 64
    width: int = 64
    depth: int = 2


@dataclass(frozen=True, kw_only=True)
class DiscriminatorSettings:
    """The discriminator.

    Attributes:
        architecture: `mlp` for points; `residual` (R3GAN) or `dcgan` (2015) for images.
        width: units of a hidden layer, or channels at the finest resolution inside (for `dcgan`
            half the image's).
        depth: hidden layers, or residual blocks per resolution; ignored by `dcgan`.
        frequencies: Fourier features a coordinate, for points: 8 let a guide see finer structure,
            0 suits a GAN's discriminator.
        noise_conditional: whether it looks at the noise level of its input.
        activation: `leaky_relu`, or `silu` for a loss on the discriminator's gradient (score
            matching).
    """

    architecture: Architecture = "dcgan"
    width: int = 64
    depth: int = 2
    frequencies: int = 0
    noise_conditional: bool = False
    activation: Activation = "leaky_relu"


@dataclass(frozen=True, kw_only=True)
class DenoiserSettings:
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
        data_std: standard deviation of the data; if not given, 0.5 for images, 1 for points.
    """

    widths: tuple[int, ...] = (32, 64)
    patch: int = 1
    layers: int = 1
    attention: bool = False
    dropout: float = 0.0
    width: int = 128
    depth: int = 3
    frequencies: int = 8
    min_wavelength: float = 0.1
    data_std: float | None = None


def build_denoiser(
    settings: DenoiserSettings, shape: tuple[int, ...], classes: int = 0
) -> ImageDenoiser | PointDenoiser:
    """A new denoiser of samples of `shape`: `(d,)` for points, `(c, h, w)` for images.

    Raises:
        InputError: no denoiser of these settings fits the shape.
    """
    if len(shape) == 1:
        return _configured(PointDenoiser, settings, shape, classes)
    if len(shape) != 3 or shape[1] != shape[2]:
        raise InputError(
            f"a denoiser takes points (d,) or square images (c, h, h), but the data has shape "
            f"{shape}; crop or resize the images"
        )
    return _configured(ImageDenoiser, settings, shape, classes)


def build_generator(
    settings: GeneratorSettings, shape: tuple[int, ...], classes: int = 0
) -> ModelMixin:
    """A new generator of samples of `shape`: `(d,)` for points, `(c, h, w)` for images.

    Raises:
        InputError: the architecture cannot make that shape.
    """
    return _build(0, settings, shape, classes)


def build_discriminator(
    settings: DiscriminatorSettings, shape: tuple[int, ...], classes: int = 0
) -> ModelMixin:
    """A new discriminator of samples of `shape`: `(d,)` for points, `(c, h, w)` for images.

    Raises:
        InputError: no discriminator of these settings fits the shape.
    """
    if settings.architecture != "mlp" and settings.frequencies != 0:
        raise InputError(
            f"frequencies are for points, but architecture {settings.architecture} is for images; "
            "leave them out"
        )
    return _build(1, settings, shape, classes)


_ADVICE = "it is not a network's configuration; save it again"


def load_network(folder: str | Path) -> ModelMixin:
    """The network that `save_pretrained` wrote into `folder`, in eval mode.

    Raises:
        InputError: there is no network of this package in the folder, or it is damaged.
    """
    path = Path(folder) / "config.json"
    kinds = [*chain(*_NETWORKS.values()), ImageDenoiser, PointDenoiser]
    classes = {kind.__name__: kind for kind in kinds}
    if not path.is_file():
        raise InputError(f"no network in {folder}: expected config.json there; name another folder")
    name = read_object(path, {"_class_name": str}, advice=_ADVICE)["_class_name"]
    if name not in classes:
        raise InputError(f"{path} describes a {name!r}, expected one of {sorted(classes)}")
    try:
        return classes[name].from_pretrained(folder, local_files_only=True)
    except Exception as error:
        why = reason(error)[:100]
        raise InputError(f"the weights in {folder} cannot be read ({why}); save again") from error


def _build(
    role: Literal[0, 1],
    settings: GeneratorSettings | DiscriminatorSettings,
    shape: tuple[int, ...],
    classes: int,
) -> ModelMixin:
    architecture = settings.architecture
    if architecture not in _NETWORKS:
        raise InputError(f"no architecture {architecture!r}; there are {sorted(_NETWORKS)}")
    if architecture == "mlp" and len(shape) != 1:
        raise InputError(
            f"architecture {architecture} is for points (d,), but the data has shape {shape}; "
            "choose residual or dcgan"
        )
    if architecture != "mlp" and (len(shape) != 3 or shape[1] != shape[2]):
        raise InputError(
            f"architecture {architecture} is for square images (c, h, h), but the data has shape "
            f"{shape}; " + ("choose mlp" if len(shape) == 1 else "crop or resize the images")
        )
    return _configured(_NETWORKS[architecture][role], settings, shape, classes)


def _configured(kind: type[N], settings: Any, shape: tuple[int, ...], classes: int) -> N:
    """A new network with those of the settings that it knows; `None` leaves it its default."""
    names = inspect.signature(kind.__init__).parameters
    options = {k: v for k, v in vars(settings).items() if k in names and v is not None}
    axes = ("channels", "resolution") if len(shape) == 3 else ("dimension",)
    return kind(**options, **dict(zip(axes, shape, strict=False), classes=classes))


def add_noise_conditioning(discriminator: ModelMixin) -> ModelMixin:
    """A noise-conditional copy of `discriminator` that gives its logits where there is no noise.

    The biases of the noise level start at zero, so at every level it sees its input rescaled to
    unit variance and treats it as if it were clean. A discriminator that is noise-conditional is
    returned itself.

    Raises:
        InputError: `discriminator` is not one of this package's.
    """
    config: Any = discriminator.config
    if "noise_conditional" not in config:
        raise InputError(
            f"a guide can start from a discriminator of this package, and "
            f"{type(discriminator).__name__} is none"
        )
    if config["noise_conditional"]:
        return discriminator
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    conditional = type(discriminator)(**{**settings, "noise_conditional": True})
    missing, _ = conditional.load_state_dict(discriminator.state_dict(), strict=False)
    others = [name for name in missing if not name.startswith("noise.")]
    if others:
        raise InputError(f"the discriminator to start from lacks {others[0]}; save it again")
    return conditional
