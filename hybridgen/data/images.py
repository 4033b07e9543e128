"""Images that fit into memory, or their latents: one tensor on the device, one gather a batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from hybridgen.data.source import (
    Batch,
    Part,
    Shard,
    Source,
    check_part,
    identity_of,
    row_batches,
    shuffled_positions,
    to_float,
)
from hybridgen.errors import InputError
from hybridgen.maths.rng import rng_for

DIGITS_HELD_OUT = 297


def to_bytes(x: Tensor) -> Tensor:
    """Images in [-1, 1] as they are saved, uint8 on the CPU; values outside are clipped."""
    scaled = (x.detach().float().cpu().nan_to_num() + 1) * 127.5
    return scaled.round().clamp(0, 255).byte()


def quantised(x: Tensor) -> Tensor:
    """Images in [-1, 1] as a saved file gives them back, in 256 values; float32 on the CPU."""
    return to_float(to_bytes(x))


def as_images(x: Tensor, source: Source) -> Tensor:
    """Samples like those of `source`; latents as the images that they stand for."""
    decode = getattr(source, "decode", None)
    return x if decode is None else decode(x)


def split(size: int, held_out: int) -> tuple[Tensor, Tensor]:
    """Disjoint rows `[size - held_out]` and `[held_out]`, the same at every call.

    Raises:
        InputError: one of the two parts would be empty.
    """
    if not 0 < held_out < size:
        raise InputError(
            f"holding out {held_out} of {size} examples leaves one part empty; "
            "give more data or another held-out fraction."
        )
    rows = torch.randperm(size, generator=rng_for("held_out", size))
    return rows[held_out:].sort().values, rows[:held_out].sort().values


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSource:
    """A set of images held as bytes, or of their latents held as numbers.

    Args:
        name: what to call it in reports.
        train, held_out: `[n c h w]`, of one shape: uint8, or floating-point latents.
        train_labels, held_out_labels: int64 `[n]`, or `None` if the data has none.
        classes: labels in the batches; 0 for unconditional data.
        identity: see `Source`; a hash of images and labels if not given.
        decode: of latents, from `[b c h w]` to images in [-1, 1] on the CPU.
        images: of latents, the source of the images that they stand for, in the same order.
    """

    name: str
    train: Tensor
    held_out: Tensor
    train_labels: Tensor | None = None
    held_out_labels: Tensor | None = None
    classes: int = 0
    identity: str = ""
    decode: Callable[[Tensor], Tensor] | None = None
    images: Source | None = None
    mixture = None

    def __post_init__(self) -> None:
        for images, labels in self._parts.values():
            is_right = (
                images.dtype == torch.uint8 if self.decode is None else images.is_floating_point()
            )
            if not is_right or images.ndim != 4:
                raise ValueError(
                    f"expected uint8 images [n c h w], got {images.dtype} {tuple(images.shape)}"
                )
            if labels is not None and labels.shape != images.shape[:1]:
                raise ValueError(f"got {len(images)} images but labels {tuple(labels.shape)}")
        if self.train.shape[1:] != self.held_out.shape[1:]:
            raise ValueError(
                f"training images are {tuple(self.train.shape[1:])} but held-out ones "
                f"{tuple(self.held_out.shape[1:])}"
            )
        if self.classes > 0 and self.train_labels is None:
            raise ValueError(f"classes={self.classes} needs train_labels, got None")
        if not self.identity:
            tensors = (x for part in self._parts.values() for x in part if x is not None)
            parts = (repr(x.shape).encode() + x.cpu().numpy().tobytes() for x in tensors)
            object.__setattr__(self, "identity", identity_of(*parts))

    @property
    def _parts(self) -> dict[str, Batch]:
        return {
            "train": (self.train, self.train_labels),
            "held_out": (self.held_out, self.held_out_labels),
        }

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.train.shape[1:])

    @property
    def size(self) -> int:
        return len(self.train)

    def batches(self, shard: Shard) -> Iterator[Batch]:
        """See `Source.batches`."""
        return row_batches(self.train, self.train_labels if self.classes > 0 else None, shard)

    def reference(self, part: Part, count: int, seed: int = 0) -> Batch:
        """See `Source.reference`."""
        check_part(part, count)
        images, labels = self._parts[part]
        rows = shuffled_positions(seed, 0, min(count, len(images)), len(images))
        x = images[rows] if self.decode is not None else to_float(images[rows])
        return x, None if labels is None else labels[rows]


def digits(*, labelled: bool = False) -> ImageSource:
    """The 1 797 real handwritten digits of scikit-learn, grey 8x8, 297 of them held out.

    Values 0..16 become 0..255. The split never changes, so figures can be compared.
    """
    from sklearn.datasets import load_digits

    values, target = load_digits(return_X_y=True)
    grey = torch.from_numpy(values).mul(255 / 16).round().to(torch.uint8)
    images = rearrange(grey, "n (h w) -> n 1 h w", h=8)
    parts = _two_parts(images, torch.from_numpy(target).to(torch.int64), DIGITS_HELD_OUT)
    return ImageSource(name="digits", classes=10 if labelled else 0, **parts)


def _two_parts(images: Tensor, labels: Tensor | None, held_out: int) -> dict[str, Any]:
    """Images and labels split in two, as arguments of `ImageSource`."""
    train, rest = split(len(images), held_out)
    return {
        "train": images[train],
        "held_out": images[rest],
        "train_labels": None if labels is None else labels[train],
        "held_out_labels": None if labels is None else labels[rest],
    }


def split_validation(source: Source, fraction: float) -> Source:
    """A source that holds out a fixed `fraction` of the training examples of `source` instead.

    For choosing among guides, so that the examples held out by `source` are left to measure the
    one chosen. Points are drawn afresh anyway.

    Raises:
        InputError: one of the two parts would be empty, or the data is streamed.
    """
    if source.mixture is not None:
        return source
    if not isinstance(source, ImageSource):
        raise InputError(
            f"a part of {source.name} can be kept for validation only if all of it is in memory: "
            "train the model with a larger data.memory_limit"
        )
    held_out = round(fraction * source.size)
    parts = _two_parts(source.train, source.train_labels, held_out)
    images = source.images and split_validation(source.images, fraction)
    return replace(source, identity="", images=images, **parts)
