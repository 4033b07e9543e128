"""From settings to networks, and from a folder back to the network saved in it."""

import inspect
import math
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin
from safetensors import safe_open
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call

from hybridgen.errors import InputError, reason
from hybridgen.files import read_object
from hybridgen.networks.audio import (
    MultiPeriodDiscriminator,
    MultiScaleDiscriminator,
    MultiStftDiscriminator,
)
from hybridgen.networks.blocks import eval_mode, norm_groups
from hybridgen.networks.dcgan import DcganDiscriminator, DcganGenerator
from hybridgen.networks.denoisers import ImageDenoiser, PointDenoiser
from hybridgen.networks.features import EncoderDiscriminator
from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator
from hybridgen.networks.patch import PatchDiscriminator
from hybridgen.networks.pixel import PixelDiscriminator
from hybridgen.networks.residual import ResidualDiscriminator, ResidualGenerator
from hybridgen.networks.settings import (
    AutoencoderSettings,
    DenoiserSettings,
    DiscriminatorSettings,
    GeneratorSettings,
)
from hybridgen.settings import check_memory

N = TypeVar("N")
_NETWORKS: dict[str, tuple[type[Any], type[Any]]] = {
    "mlp": (MlpGenerator, MlpDiscriminator),
    "dcgan": (DcganGenerator, DcganDiscriminator),
    "residual": (ResidualGenerator, ResidualDiscriminator),
}
"""Generator and discriminator of each architecture."""
CLASSES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        *chain(*_NETWORKS.values()),
        *(ImageDenoiser, PointDenoiser, AutoencoderKL, EncoderDiscriminator),
        *(PatchDiscriminator, PixelDiscriminator),
        *(MultiPeriodDiscriminator, MultiScaleDiscriminator, MultiStftDiscriminator),
    )
}
"""All networks of this package that are saved whole, by the names in their saved settings."""
_MOST = 2**20
"""Of any number in saved settings: a table of timesteps, of classes, a width."""
_UNSAVED = 2**24
"""Numbers that a network may compute when it is built, such as the places of patches."""


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


def build_autoencoder(settings: AutoencoderSettings, shape: tuple[int, ...]) -> AutoencoderKL:
    """A new autoencoder of images of `shape` `(c, h, h)`.

    Raises:
        InputError: no autoencoder of these settings fits the shape.
    """
    widths = settings.widths
    if len(shape) != 3 or shape[1] != shape[2]:
        raise InputError(
            f"an autoencoder takes square images (c, h, h), but the data has shape {shape}; choose "
            "other data, or crop or resize the images"
        )
    if not widths or shape[1] % 2 ** (len(widths) - 1):
        raise InputError(
            f"{len(widths)} widths halve the picture {max(len(widths) - 1, 0)} times, and its "
            f"{shape[1]} rows do not allow it: give at least one width, and fewer, or resize"
        )
    options = {
        **{"in_channels": shape[0], "out_channels": shape[0], "sample_size": shape[1]},
        **{"block_out_channels": widths, "layers_per_block": settings.layers},
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "latent_channels": settings.latent_channels,
        "mid_block_add_attention": settings.attention,
        "norm_num_groups": norm_groups(widths),
    }
    return _within_memory(AutoencoderKL, options)


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
    if not path.is_file():
        raise InputError(f"no network in {folder}: expected config.json there; name another folder")
    name = read_object(path, {"_class_name": str}, advice=_ADVICE)["_class_name"]
    if name not in CLASSES:
        raise InputError(f"{path} describes a {name!r}, expected one of {sorted(CLASSES)}")
    check_saved(CLASSES[name], Path(folder))
    try:
        network = CLASSES[name].from_pretrained(folder, local_files_only=True, use_safetensors=True)
        check_complete(network)
        return network
    except Exception as error:
        raise InputError(
            f"the weights in {folder} cannot be read ({reason(error)}); save again"
        ) from error


def check_saved(kind: type[Any], folder: Path, variant: str | None = None) -> None:
    """Refuse a saved network whose settings and weights do not belong together, or are not numbers.

    Settings are a stranger's word for how much memory to take, so they are held against the sizes
    of the weights beside them before any of it is taken.

    Args:
        kind: its class, one of this package or of diffusers.
        variant: of the weights, such as `fp16`, as diffusers writes it into the names of files.

    Raises:
        InputError: no safetensors, settings that are damaged or describe another network, weights
            that are not finite.
    """
    try:
        settings = read_object(folder / "config.json", advice=_ADVICE)
        sizes: dict[str, int] = {}
        for path in sorted(folder.glob("*.safetensors")):
            if variant_of(path.name) != variant:
                continue
            with safe_open(path, "pt") as file:
                names = file.keys()
                for name in names:
                    tensor = file.get_tensor(name)
                    sizes[name] = tensor.numel()
                    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                        raise InputError(
                            f"the weights in {folder} are not finite ({name[:60]}): take those of "
                            "an earlier step, or train again"
                        )
        check_numbers(settings, len(sizes))
        with torch.device("meta"):
            network = kind.from_config(settings)
    except InputError:
        raise
    except Exception as error:  # a stranger's file fails in as many ways as there are settings
        raise InputError(
            f"the weights in {folder} cannot be read ({reason(error)}); save again, as safetensors"
        ) from error
    expected = sum(tensor.numel() for tensor in network.state_dict().values())
    computed = sum(tensor.numel() for tensor in network.buffers())
    saved = sum(sizes.values())
    if expected != saved or computed > _UNSAVED + saved:
        raise InputError(
            f"the settings in {folder} describe a network of {expected} numbers (and {computed} "
            f"that it computes), and {saved} are saved there; save both again"
        )


def variant_of(name: str) -> str | None:
    """`fp16` of `model.fp16.safetensors` and of `model.fp16-00001-of-00002.safetensors`."""
    parts = name.split(".")
    return parts[1].split("-")[0] if len(parts) > 2 else None


def check_complete(network: Any) -> None:
    """Raise `ValueError` if a weight of a loaded network was not among those saved, by its name."""
    for name, weight in network.state_dict().items():
        if weight.is_meta:
            raise ValueError(f"they have no {name[:60]}")


def check_numbers(settings: Any, tensors: int | None = None) -> None:
    """Raise `ValueError` for a number in saved settings that no network or scheduler has.

    Args:
        tensors: how many are saved; no network has more layers, or levels, than these.
    """
    for name, value in _numbers(settings):
        repeated = any(part in name for part in ("depth", "layers", "scales"))
        layers = tensors is not None and repeated
        most = tensors if layers and tensors is not None else _MOST
        if most < abs(value) < math.inf:  # some schedulers have an infinite bound
            raise ValueError(f"{name[:40]} is {value:.4g}, and at most {most} is possible")


def _numbers(settings: Any, name: str = "") -> Iterator[tuple[str, int | float]]:
    """Every number in nested settings, and the number of entries of every list."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from _numbers(value, str(key))
    elif isinstance(settings, list):
        yield f"layers of {name}", len(settings)
        for value in settings:
            yield from _numbers(value, name)
    elif isinstance(settings, int | float):
        yield name, settings


def _build(
    role: Literal[0, 1],
    settings: GeneratorSettings | DiscriminatorSettings,
    shape: tuple[int, ...],
    classes: int,
) -> ModelMixin:
    architecture = settings.architecture
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
    if architecture != "patch":
        return _configured(_NETWORKS[architecture][role], settings, shape, classes)
    network: Any = _configured(PatchDiscriminator, settings, shape, classes)
    if shape[-1] < network.least:
        raise InputError(
            f"architecture patch of depth {settings.depth} needs images of at least "
            f"{network.least} a side, but the data has shape {shape}: lower discriminator.depth or "
            "choose residual or dcgan"
        )
    network.shape = shape  # others would do
    return network


def _configured(kind: type[N], settings: Any, shape: tuple[int, ...], classes: int) -> N:
    """A new network with those of the settings that it knows; `None` leaves it its default."""
    names = inspect.signature(kind.__init__).parameters
    options = {k: v for k, v in vars(settings).items() if k in names and v is not None}
    axes = ("channels", "resolution") if len(shape) == 3 else ("dimension",)
    sizes = dict(zip(axes, shape, strict=False), classes=classes)
    options |= {name: size for name, size in sizes.items() if name in names}
    return _within_memory(kind, options)


def _within_memory(kind: type[N], options: dict[str, Any]) -> N:
    """A new network, if there is memory to train it."""
    with torch.device("meta"):  # where weights have shapes and take no memory
        outline: Any = kind(**options)
    parameters = sum(weight.numel() for weight in outline.parameters())
    copies = 5  # beside the weights, their gradient, Adam's two moments and the average
    what = f"a {kind.__name__} of {parameters:.3g} weights"
    check_memory(4 * copies * parameters, what, "lower its width or depth")
    return kind(**options)


def activation_bytes(network: ModelMixin) -> int:
    """What a network of this package keeps of one sample until a backward pass: the least memory
    that a sample of a batch takes.
    """
    config: Any = network.config
    tensors = chain(network.named_parameters(), network.named_buffers())
    weights = {name: x.to("meta") for name, x in tensors}  # shapes without memory
    kept = [0, 0]

    def pack(x: Tensor) -> Tensor:
        kept[-1] += x.numel() * x.element_size()
        return x

    for rows in (1, 2):  # the second keeps one sample more
        kept = [kept[1], 0]
        zeros = partial(torch.zeros, rows, device="meta")
        inputs: list[Tensor | None]
        if "latent_channels" in config:  # an autoencoder
            side = config["sample_size"]
            inputs = [zeros(config["in_channels"], side, side)]
        else:
            inputs = [zeros(config["latent"])] if "latent" in config else []
            inputs = inputs or [zeros(*network.shape), zeros()]
            inputs.append(zeros(dtype=torch.long) if config["classes"] else None)
        with eval_mode(network), saved_tensors_hooks(pack, lambda x: x):
            functional_call(network, weights, tuple(inputs))
    return kept[1] - kept[0]


def add_noise_conditioning(discriminator: ModelMixin) -> ModelMixin:
    """A noise-conditional copy of `discriminator` that gives its logits where there is no noise.

    The biases of the noise level start at zero, so at every level it sees its input rescaled to
    unit variance and treats it as if it were clean. A discriminator that is noise-conditional is
    returned itself.

    Raises:
        InputError: `discriminator` is not one of this package's with one logit a sample.
    """
    config: Any = discriminator.config
    kinds = [kind for _, kind in _NETWORKS.values()]
    if type(discriminator) not in kinds:
        raise InputError(
            f"a guide can start from {', '.join(kind.__name__ for kind in kinds)}, which answer "
            f"one logit a sample, and got a {type(discriminator).__name__}: start from another"
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
