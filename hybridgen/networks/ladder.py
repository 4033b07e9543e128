"""The ladder of resolutions and widths that an image network climbs."""

from dataclasses import dataclass

from hybridgen.errors import InputError
from hybridgen.networks.conditioning import require_positive

_SMALLEST, _LARGEST = 8, 256
_BASES = range(4, 8)


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Square resolutions with their numbers of channels, smallest picture first.

    The resolution is halved while the result is whole and at least 4 (28, 14, 7). Each halving
    doubles the channels, up to 8 times `width` and to 512 (or `width`, if that is more).

    Attributes:
        sizes: rows of the picture at each rung, from the base to the full resolution.
        widths: channels at each rung.
    """

    sizes: tuple[int, ...]
    widths: tuple[int, ...]


def ladder(*, resolution: int, channels: int, width: int) -> Ladder:
    """The ladder for images `[channels resolution resolution]` with `width` channels on top.

    Raises:
        InputError: no ladder fits the resolution (the message names those that do), the images
            are neither grey nor in colour, or the width is not positive.
    """
    require_positive(width=width)
    if channels not in (1, 3):
        raise InputError(f"images have {channels} channels, expected 1 or 3; convert them")
    sizes = [resolution]
    while sizes[0] % 2 == 0 and sizes[0] // 2 >= _BASES[0]:
        sizes.insert(0, sizes[0] // 2)
    if sizes[0] not in _BASES or not _SMALLEST <= resolution <= _LARGEST:
        raise InputError(
            f"images of {resolution}x{resolution} do not halve into a base of 4 to 7; "
            f"resize them to {_nearest(resolution)}"
        )
    cap = max(width, min(8 * width, 512))
    widths = [min(width * 2**halvings, cap) for halvings in range(len(sizes))]
    return Ladder(sizes=tuple(sizes), widths=tuple(reversed(widths)))


def _nearest(resolution: int) -> str:
    """The workable resolutions on both sides of one that is not."""
    doublings = range(1, _LARGEST.bit_length())
    workable = sorted({base * 2**k for base in _BASES for k in doublings})
    workable = [size for size in workable if _SMALLEST <= size <= _LARGEST]
    below = [size for size in workable if size < resolution][-1:]
    above = [size for size in workable if size > resolution][:1]
    return " or ".join(str(size) for size in below + above)
