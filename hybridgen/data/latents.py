"""Latents of an autoencoder: a data set for any model that trains in its latent space."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import load_file, save
from torch import Tensor

from hybridgen.data.images import ImageSource, to_float
from hybridgen.data.settings import LATENTS
from hybridgen.data.source import Part, Source, shuffled_positions
from hybridgen.errors import InputError, reason
from hybridgen.files import write_atomically
from hybridgen.networks.blocks import in_chunks
from hybridgen.networks.build import load_network
from hybridgen.settings import check_memory

STD = 0.5
"""Of every channel as models see it: the deviation that denoisers expect of data (Karras et al.
2023, arXiv:2312.02696)."""
_AT_ONCE = 500
_ALL = 2**40


@torch.no_grad()
def encode(autoencoder: Any, x: Tensor) -> Tensor:
    """The means of the posterior of images `[b c h w]`, latents `[b c' h' w']` in float32; of
    diffusers' `VQModel` the latents before quantisation."""
    parameter = next(autoencoder.parameters())
    code = autoencoder.encode(x.to(parameter))
    return (code.latents if hasattr(code, "latents") else code.latent_dist.mean).float()


@torch.no_grad()
def decode(autoencoder: Any, latents: Tensor) -> Tensor:
    """The images of latents `[b c' h' w']`, in float32."""
    parameter = next(autoencoder.parameters())
    return autoencoder.decode(latents.to(parameter)).sample.float()


def pipeline_latents(autoencoder: Any, images: Source) -> ImageSource:
    """The latents of images as the network of a pipeline with this autoencoder sees them: its
    posterior means, less its `shift_factor`, times its `scaling_factor`.

    Args:
        autoencoder: diffusers' `AutoencoderKL` or `VQModel`, in eval mode.
        images: in memory.
    """
    config = autoencoder.config
    shift, scale = config.get("shift_factor") or 0.0, config.get("scaling_factor") or 1.0
    if not isinstance(images, ImageSource):
        raise InputError(
            f"latents are kept in memory, and {images.name} is streamed or drawn: give images, and "
            "a larger data.memory_limit"
        )
    if config["in_channels"] != images.shape[0]:
        raise InputError(
            f"the autoencoder encodes images of {config['in_channels']} channels and {images.name} "
            f"has {images.shape[0]}: set data.channels {config['in_channels']}"
        )

    def latents(x: Tensor) -> Tensor:
        return (in_chunks(partial(encode, autoencoder), x, size=_AT_ONCE).cpu() - shift) * scale

    def images_of(x: Tensor) -> Tensor:
        x = x.detach().cpu().float() / scale + shift
        return in_chunks(partial(decode, autoencoder), x, size=_AT_ONCE).cpu()

    return replace(
        images,
        name=f"{images.name}-latents",
        train=latents(to_float(images.train)),
        held_out=latents(to_float(images.held_out)),
        identity="",
        decode=images_of,
        images=images,
    )


def write_latents(folder: Path, autoencoder: Any, source: Source) -> None:
    """Write the latents of all examples of `source`, in their order, into `folder`.

    The file holds `train` and `held_out` `[n c h w]` as the autoencoder's posterior means, their
    labels `[n]` where the data has any, and the `mean` and `std` `[c]` of each channel over the
    training examples, by which whoever reads it normalises them.

    Args:
        autoencoder: diffusers' `AutoencoderKL`, in eval mode.
    """
    parts: tuple[Part, ...] = ("train", "held_out")
    tensors: dict[str, Tensor] = {}
    for part in parts:
        x, label = source.reference(part, _ALL)
        rows = shuffled_positions(0, 0, len(x), len(x))  # in which they come
        latents = in_chunks(lambda images: encode(autoencoder, images).cpu(), x, size=_AT_ONCE)
        tensors[part] = torch.empty_like(latents).index_copy_(0, rows, latents)
        if label is not None:
            tensors[f"{part}_labels"] = torch.empty_like(label).index_copy_(0, rows, label)
    each = rearrange(tensors["train"], "n c h w -> c (n h w)")
    tensors |= {"mean": each.mean(1), "std": each.std(1).clamp(min=1e-6)}
    write_atomically(folder / LATENTS, save(tensors))


def read_latents(folder: Path, images: Source, *, labelled: bool = False) -> ImageSource:
    """The latents that `write_latents` left in `folder`, each channel normalised to mean 0 and
    deviation .5, beside the autoencoder that decodes them.

    Args:
        images: that they are the latents of.
        labelled: whether the batches carry labels.

    Raises:
        InputError: a damaged file, one of other images, or no autoencoder that fits.
    """
    path = folder / LATENTS
    check_memory(3 * path.stat().st_size, f"the latents in {path}", "take fewer images")
    autoencoder: Any = load_network(folder / "autoencoder")
    try:
        tensors = load_file(path)
        _check(tensors, autoencoder.config["latent_channels"], images.size)
    except Exception as error:  # a damaged file fails in as many ways as there are formats
        raise InputError(
            f"{path} cannot be read ({reason(error)[:100]}): train the autoencoder again"
        ) from error
    mean, std = (rearrange(tensors[name], "c -> c 1 1") for name in ("mean", "std"))
    labels = [tensors.get(f"{part}_labels") for part in ("train", "held_out")]
    if labelled and labels[0] is None:
        raise InputError(f"the images of {folder} have no labels: set data.labels false")
    classes = 1 + max(int(x.max()) for x in labels if x is not None) if labelled else 0
    return ImageSource(
        name=f"{folder.resolve().name}-latents",
        train=(tensors["train"] - mean) / std * STD,
        held_out=(tensors["held_out"] - mean) / std * STD,
        train_labels=labels[0],
        held_out_labels=labels[1],
        classes=classes,
        decode=partial(_normalised_decode, partial(decode, autoencoder), mean, std),
        images=images,
    )


def _normalised_decode(
    decoder: Callable[[Tensor], Tensor], mean: Tensor, std: Tensor, latents: Tensor
) -> Tensor:
    """Images on the CPU of normalised latents `[b c h w]`."""
    x = latents.detach().cpu().float() / STD * std + mean
    return in_chunks(decoder, x, size=_AT_ONCE)


def _check(tensors: dict[str, Tensor], channels: int, size: int | None) -> None:
    """Raise for latents that are none, or not of so many channels and images."""
    train, held_out, mean, std = (tensors[k] for k in ("train", "held_out", "mean", "std"))
    for name, x in tensors.items():
        if x.is_floating_point() and not bool(x.isfinite().all()):
            raise ValueError(f"its {name} is not finite")
    if train.shape[1:] != held_out.shape[1:] or train.ndim != 4 or train.shape[1] != channels:
        raise ValueError(f"its shapes are {list(train.shape)} and {list(held_out.shape)}")
    if len(train) != size or not (mean.shape == std.shape == (channels,)) or bool((std <= 0).any()):
        raise ValueError("they are not of these images, or not normalised by this file")
    for part in ("train", "held_out"):
        label = tensors.get(f"{part}_labels")
        if label is None:
            continue
        if label.dtype != torch.int64 or label.shape != tensors[part].shape[:1] or label.min() < 0:
            raise ValueError(f"its labels are {label.dtype} {list(label.shape)}")
