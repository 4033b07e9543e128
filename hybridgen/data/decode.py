"""One image file to one array of bytes: upright, square, grey or colour."""

import io
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from einops import rearrange
from PIL import Image, ImageOps

from hybridgen.errors import InputError

Image.init()
_OURS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
FORMATS = tuple(name for name in _OURS if name in Image.OPEN)
"""The formats that are opened: others that Pillow knows start programs, or are no photographs."""
ENDINGS = frozenset(e for e, name in Image.registered_extensions().items() if name in FORMATS)
MOST_BYTES = 2**28
"""Of an encoded image."""

# What Pillow raises on files that are damaged, cut short or no images at all.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
_DAMAGE += (IndexError, KeyError, TypeError, RuntimeError, Image.DecompressionBombError)
_DEEP_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_GREY = ("1", "L", "LA", "La", *_DEEP_GREY)
# A palette counts as colours.
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV")


def open_image(
    cell: Mapping[str, Any] | None, where: str, *, least: int | None = None
) -> Image.Image:
    """The decoded image of a `datasets` cell `{"bytes", "path"}`, turned upright by its EXIF tag.

    Args:
        least: pixels a side that will do: a JPEG of more than twice as many is decoded at a half,
            a quarter or an eighth of its size, which takes a fraction of the time.

    Raises:
        InputError: damaged, missing, of more pixels than `PIL.Image.MAX_IMAGE_PIXELS`, or of a mode
            without a grey or colour meaning; names `where`.
    """
    content = (cell or {}).get("bytes")
    file = (cell or {}).get("path") if content is None else io.BytesIO(content)
    if file is None:
        raise InputError(f"{where} is empty; remove it from the data.")
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
            if least is not None:
                image.draft(None, (2 * least, 2 * least))
            image.load()
            upright = ImageOps.exif_transpose(image)
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{where} cannot be decoded as an image ({reason}); replace or remove it."
        ) from error
    if upright.mode not in _GREY + _COLOUR:
        raise InputError(
            f"{where} has the pixel format {upright.mode!r}, expected grey or colour of 8 or 16 "
            "bits; convert it."
        )
    return upright


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """What every image of a set has, or is brought to.

    Attributes:
        side: height and width in pixels.
        channels: 1 for grey, 3 for colour.
        resize: whether other sizes are cropped and resized; else they are refused.
        convert: whether grey becomes colour and colour grey; else the other kind is refused.
    """

    side: int
    channels: int
    resize: bool
    convert: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.channels, self.side, self.side)

    def apply(self, image: Image.Image, where: str) -> np.ndarray:
        """uint8 `[c h w]`; transparent parts become white.

        Raises:
            InputError: the image is of another size or kind and may not be changed.
        """
        if not self.convert and _channels(image) != self.channels:
            kind, others = ("colour", "grey") if self.channels == 1 else ("grey", "colour")
            raise InputError(
                f"{where} is {kind} while the first image is {others}; "
                "set data.channels to 1 or 3 to convert all images."
            )
        if not self.resize and image.size != (self.side, self.side):
            raise InputError(
                f"{where} is {image.width}x{image.height} pixels while the first image is "
                f"{self.side}x{self.side}; set data.resolution to crop and resize all images."
            )
        plain = _plain(image, "L" if self.channels == 1 else "RGB")
        if plain.size != (self.side, self.side):
            short = min(plain.size)
            left, top = (plain.width - short) // 2, (plain.height - short) // 2
            square = plain.crop((left, top, left + short, top + short))
            plain = square.resize((self.side, self.side), Image.Resampling.LANCZOS)
        pixels = np.asarray(plain)
        return pixels[None] if pixels.ndim == 2 else rearrange(pixels, "h w c -> c h w")


def image_format(
    first: Image.Image, where: str, resolution: int | None, channels: int | None
) -> ImageFormat:
    """The format of a set whose first image is `first`, where the settings do not say it.

    Raises:
        InputError: `first` is not square and there is no `resolution`.
    """
    if resolution is None and first.width != first.height:
        raise InputError(
            f"{where} is {first.width}x{first.height} pixels, expected a square image; "
            "set data.resolution to crop and resize all images."
        )
    return ImageFormat(
        side=resolution or first.width,
        channels=channels or _channels(first),
        resize=resolution is not None,
        convert=channels is not None,
    )


def _channels(image: Image.Image) -> int:
    return 1 if image.mode in _GREY else 3


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """Eight bits a channel and nothing transparent."""
    if image.mode in _DEEP_GREY:
        # Pillow's own conversion clips 16 bits instead of scaling them.
        deep = np.asarray(image).astype(np.float64)
        image = Image.fromarray((deep / 257).round().clip(0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)
