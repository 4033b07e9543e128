"""From settings to networks, and from a folder back to the network saved in it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffusers.models.modeling_utils import ModelMixin

from hybridgen.errors import InputError
from hybridgen.networks.blocks import Activation
from hybridgen.networks.dcgan import DcganDiscriminator, DcganGenerator
from hybridgen.networks.denoisers import ImageDenoiser, PointDenoiser
from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator, WavesDiscriminator
from hybridgen.networks.residual import ResidualDiscriminator, ResidualGenerator

Architecture = Literal["mlp", "dcgan", "residual"]
DiscriminatorArchitecture = Literal["mlp", "waves", "dcgan", "residual"]
_GENERATORS: dict[str, type[Any]] = {
    "mlp": MlpGenerator,
    "dcgan": DcganGenerator,
    "residual": ResidualGenerator,
}
_DISCRIMINATORS: dict[str, type[Any]] = {
    "mlp": MlpDiscriminator,
    "waves": WavesDiscriminator,
    "dcgan": DcganDiscriminator,
    "residual": ResidualDiscriminator,
}


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
        architecture: `mlp` for points, or `waves`, which sees finer structure and is no player of a
            game; `residual` (R3GAN) or `dcgan` (2015) for images.
        width: units of a hidden layer, or channels at the finest resolution inside (for `dcgan`
            half the image's).
        depth: hidden layers, or residual blocks per resolution; ignored by `dcgan`.
        noise_conditional: whether it looks at the noise level of its input.
        activation: `leaky_relu`, or `silu` for a loss on the discriminator's gradient (score
            matching).
    """

    architecture: DiscriminatorArchitecture = "dcgan"
    width: int = 64
    depth: int = 2
    noise_conditional: bool = False
    activation: Activation = "leaky_relu"


@dataclass(frozen=True, kw_only=True)
class DenoiserSettings:
    """The denoiser: a U-Net for images, a network on waves for points.

    Attributes:
        widths: channels of the U-Net at each resolution, the finest first.
        patch: pixels a side that the U-Net sees as one.
        layers: residual blocks of the U-Net at each resolution.
        attention: whether the U-Net's coarsest resolution has self-attention.
        dropout: of the U-Net's residual blocks.
        width: units of a hidden layer, for points.
        depth: hidden layers, for points.
        waves: frequencies a coordinate, for points.
        finest: the shortest wavelength in units of the data's deviation, for points.
        data_std: standard deviation of the data; if not given, 0.5 for images, 1 for points.
    """

    widths: tuple[int, ...] = (32, 64)
    patch: int = 1
    layers: int = 1
    attention: bool = False
    dropout: float = 0.0
    width: int = 128
    depth: int = 3
    waves: int = 8
    finest: float = 0.1
    data_std: float | None = None


def build_denoiser(
    settings: DenoiserSettings, shape: tuple[int, ...], classes: int = 0
) -> ImageDenoiser | PointDenoiser:
    """A new denoiser of samples of `shape`: `(d,)` for points, `(c, h, w)` for images.

    Raises:
        InputError: no denoiser of these settings fits the shape.
    """
    if len(shape) == 1:
        return PointDenoiser(
            dimension=shape[0],
            width=settings.width,
            depth=settings.depth,
            waves=settings.waves,
            finest=settings.finest,
            classes=classes,
            data_std=1.0 if settings.data_std is None else settings.data_std,
        )
    if len(shape) != 3 or shape[1] != shape[2]:
        raise InputError(
            f"a denoiser takes points (d,) or square images (c, h, h), but the data has shape "
            f"{shape}; crop or resize the images"
        )
    return ImageDenoiser(
        channels=shape[0],
        resolution=shape[1],
        widths=settings.widths,
        patch=settings.patch,
        layers=settings.layers,
        attention=settings.attention,
        dropout=settings.dropout,
        classes=classes,
        data_std=0.5 if settings.data_std is None else settings.data_std,
    )


def build_generator(
    settings: GeneratorSettings, shape: tuple[int, ...], classes: int = 0
) -> ModelMixin:
    """A new generator of samples of `shape`: `(d,)` for points, `(c, h, w)` for images.

    Raises:
        InputError: the architecture cannot make that shape.
    """
    sizes = _sizes(settings.architecture, shape, _GENERATORS)
    sizes |= {"width": settings.width, "classes": classes}
    if settings.architecture != "dcgan":
        sizes["depth"] = settings.depth
    return _GENERATORS[settings.architecture](latent=settings.latent, **sizes)


def build_discriminator(
    settings: DiscriminatorSettings, shape: tuple[int, ...], classes: int = 0
) -> ModelMixin:
    """A new discriminator of samples of `shape`: `(d,)` for points, `(c, h, w)` for images.

    Raises:
        InputError: the architecture cannot judge that shape.
    """
    sizes = _sizes(settings.architecture, shape, _DISCRIMINATORS)
    sizes |= {"width": settings.width, "classes": classes}
    if settings.architecture != "dcgan":
        sizes["depth"] = settings.depth
    return _DISCRIMINATORS[settings.architecture](
        noise_conditional=settings.noise_conditional, activation=settings.activation, **sizes
    )


def load_network(folder: str | Path) -> ModelMixin:
    """The network that `save_pretrained` wrote into `folder`, in eval mode.

    Raises:
        InputError: there is no network of this package in the folder, or it is damaged.
    """
    path = Path(folder) / "config.json"
    kinds = [*_GENERATORS.values(), *_DISCRIMINATORS.values(), ImageDenoiser, PointDenoiser]
    known = {kind.__name__: kind for kind in kinds}
    if not path.is_file():
        raise InputError(f"no network in {folder}: expected config.json there; name another folder")
    try:
        config = json.loads(path.read_text())
        name = config["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a network's configuration ({error!r}); save it again"
        ) from error
    if name not in known:
        raise InputError(f"{path} describes a {name!r}, expected one of {sorted(known)}")
    try:
        return known[name].from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise InputError(f"the weights in {folder} cannot be read ({error}); save again") from error


def _sizes(architecture: str, shape: tuple[int, ...], known: Mapping[str, Any]) -> dict[str, int]:
    if architecture not in known:
        raise InputError(f"no architecture {architecture!r}; there are {sorted(known)}")
    if architecture in ("mlp", "waves"):
        if len(shape) != 1:
            raise InputError(
                f"architecture {architecture} is for points (d,), but the data has shape {shape}; "
                "choose residual or dcgan"
            )
        return {"dimension": shape[0]}
    if len(shape) != 3 or shape[1] != shape[2]:
        raise InputError(
            f"architecture {architecture} is for square images (c, h, h), but the data has shape "
            f"{shape}; " + ("choose mlp" if len(shape) == 1 else "crop or resize the images")
        )
    return {"channels": shape[0], "resolution": shape[1]}


def noise_conditional(discriminator: ModelMixin) -> ModelMixin:
    """A discriminator that looks at the noise level and, without noise, says what `discriminator`
    says.

    What it does about the level starts at zero, so at every level it sees its input rescaled to
    unit variance and judges it as if it were clean. A discriminator that already looks is returned
    itself.

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
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    adopted = type(discriminator)(**{**given, "noise_conditional": True})
    missing, _ = adopted.load_state_dict(discriminator.state_dict(), strict=False)
    others = [name for name in missing if not name.startswith("noise.")]
    if others:
        raise InputError(f"the discriminator to start from lacks {others[0]}; save it again")
    return adopted
