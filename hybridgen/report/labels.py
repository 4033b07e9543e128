"""Where the names in a picture go, so that none covers a mark or another name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

LETTER, ASCENT, DESCENT = 6.4, 10.0, 3.0
"""Pixels of a letter's mean width, and of a line above and below its base, at 12 pixels."""
AROUND = (
    (9, 4, "start"),
    (0, -10, "middle"),
    (-9, 4, "end"),
    (0, 19, "middle"),
    (8, -8, "start"),
    (8, 17, "start"),
    (-8, -8, "end"),
    (-8, 17, "end"),
)
"""Offsets from a mark in pixels, the preferred one first, and what of the text is put there."""


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text at a place in per cent of the picture, moved by pixels."""

    x: float
    y: float
    dx: float
    dy: float
    anchor: str
    text: str
    style: str = ""

    def box(self, width: float, height: float) -> Box:
        """What it covers in a picture of `width` by `height` pixels."""
        length = LETTER * len(self.text)
        x = self.x / 100 * width + self.dx
        x -= {"start": 0.0, "middle": length / 2, "end": length}[self.anchor]
        y = self.y / 100 * height + self.dy
        return Box(x, y - ASCENT, x + length, y + DESCENT)


def around(x: float, y: float, text: str, style: str = "") -> list[Label]:
    """Every way to write `text` beside the mark at a place."""
    return [
        Label(x=x, y=y, dx=dx, dy=dy, anchor=anchor, text=text, style=style)
        for dx, dy, anchor in AROUND
    ]


def along(y: float, texts: Sequence[str], style: str = "") -> list[Label]:
    """Every way to write the first of `texts` that fits at a line across the picture."""
    return [
        Label(x=x, y=y, dx=0, dy=dy, anchor=anchor, text=text, style=style)
        for text in texts
        for x, anchor in ((100, "end"), (0, "start"), (50, "middle"))
        for dy in (-5, 14)
    ]


def place(
    wanted: Sequence[Sequence[Label]],
    hard: Sequence[Box],
    soft: Sequence[Box],
    width: float,
    height: float,
) -> list[Label]:
    """Of each list the first label that fits, in turn; those that fit nowhere are left out.

    Args:
        hard: what no label may cover.
        soft: what a label covers only if it fits nowhere else.
        width, height: of the picture in pixels.
    """
    placed: list[Label] = []
    boxes: list[Box] = list(hard)
    for choices in wanted:
        for obstacles in ([*boxes, *soft], boxes):
            fits = (label for label in choices if _fits(label, obstacles, width, height))
            if (label := next(fits, None)) is not None:
                placed.append(label)
                boxes.append(label.box(width, height))
                break
    return placed


def _fits(label: Label, obstacles: Sequence[Box], width: float, height: float) -> bool:
    box = label.box(width, height)
    inside = box.left >= 0 and box.right <= width + 4 and box.top >= 0 and box.bottom <= height
    return inside and not any(box.meets(other) for other in obstacles)
