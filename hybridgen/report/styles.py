"""The colours of the two themes, and the colour and mark of each method.

Every colour is also that of text somewhere, so all of them have a contrast of at least 4.5 to both
backgrounds of their theme. Neighbours in the list differ for the colour-blind too, and marks differ
for everybody.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.markers import MarkerStyle
from matplotlib.transforms import Affine2D

from hybridgen.evaluation.results import Row

LIGHT = {
    "page": "#fbfaf7",
    "surface": "#ffffff",
    "ink": "#1b1d21",
    "muted": "#5a616b",
    "accent": "#0b5394",
    "rule": "#dcdad3",
    "kind-0": "#0b4fae",
    "kind-1": "#bd4b00",
    "kind-2": "#0a8055",
    "kind-3": "#a3107c",
    "kind-4": "#7a3cf0",
    "kind-5": "#4a3d0c",
}
DARK = {
    "page": "#14161a",
    "surface": "#1c1f25",
    "ink": "#e9eaec",
    "muted": "#a4abb5",
    "accent": "#8ec5ff",
    "rule": "#363b44",
    "kind-0": "#87c2fc",
    "kind-1": "#ee810b",
    "kind-2": "#97f7dd",
    "kind-3": "#fa4fb0",
    "kind-4": "#a98bff",
    "kind-5": "#fbce13",
}
LOOK: dict[str, Any] = {
    "font.size": 12,
    "text.color": LIGHT["ink"],
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlecolor": LIGHT["ink"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.edgecolor": LIGHT["muted"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LIGHT["rule"],
    "grid.linewidth": 0.6,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "legend.frameon": False,
    "lines.markersize": 9,
    # Names are no formulas: a single $ would be one.
    "text.parse_math": False,
}
"""Settings of matplotlib for every figure."""
KINDS = sum(name.startswith("kind-") for name in LIGHT)
MARKS = ("o", "s", "^", "D", "v", "P", "p", "X", "<", ">")
"""Marks as matplotlib names them: circle, square, triangle, diamond and so on."""
COMMANDS = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "z"}
"""What the codes of a matplotlib path are in SVG."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """The colour that a method shares with others of its kind, by its name, and its mark."""

    colour: str
    mark: str

    @property
    def path(self) -> Markup:
        """The mark as an SVG path around the origin, about 12 wide."""
        marker = MarkerStyle(self.mark)
        shape = marker.get_path().transformed(marker.get_transform() + Affine2D().scale(12, -12))
        return Markup(
            "".join(
                COMMANDS[int(code)] + " ".join(f"{value:.3g}" for value in values)
                for values, code in shape.iter_segments(simplify=False)
                if code != 79
            )
            + "z"
        )


def look(**changes: Any) -> AbstractContextManager[None]:
    """The settings of every figure while it is made, with changes such as `font_size=9`."""
    settings: Any = LOOK | {name.replace("_", ".", 1): value for name, value in changes.items()}
    return rc_context(settings)


def styles(rows: Sequence[Row]) -> dict[str, Style]:
    """A style for each method: a colour for each kind, and of one colour no two marks alike.

    Colours begin again after 6 kinds, marks after 10 methods of one colour.
    """
    kinds = list(dict.fromkeys(row.kind for row in rows))
    chosen: dict[str, Style] = {}
    for row in rows:
        if row.method not in chosen:
            colour = f"kind-{kinds.index(row.kind) % KINDS}"
            taken = {style.mark for style in chosen.values() if style.colour == colour}
            start = len(chosen) % len(MARKS)
            order = MARKS[start:] + MARKS[:start]
            mark = next((mark for mark in order if mark not in taken), order[0])
            chosen[row.method] = Style(colour=colour, mark=mark)
    return chosen
