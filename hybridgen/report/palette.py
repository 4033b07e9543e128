"""Colours of the two themes, and the mark and colour of each kind of method.

Every colour is also that of text somewhere, so all of them have a contrast of at least 4.5 to both
backgrounds of their theme. Neighbours in the list differ for the colour-blind too, and marks differ
for everybody.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hybridgen.report.kinds import kind_name


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours as `#rrggbb`.

    Attributes:
        page, surface: backgrounds.
        ink, muted, accent: texts.
        rule: lines that carry no meaning.
        kinds: of methods, in the order in which they appear.
    """

    page: str
    surface: str
    ink: str
    muted: str
    accent: str
    rule: str
    kinds: tuple[str, ...]

    def variables(self) -> str:
        """CSS declarations."""
        named = {
            "page": self.page,
            "surface": self.surface,
            "ink": self.ink,
            "muted": self.muted,
            "accent": self.accent,
            "rule": self.rule,
        } | {f"kind-{number}": colour for number, colour in enumerate(self.kinds)}
        return " ".join(f"--{name}: {colour};" for name, colour in named.items())


LIGHT = Theme(
    page="#fbfaf7",
    surface="#ffffff",
    ink="#1b1d21",
    muted="#5a616b",
    accent="#0b5394",
    rule="#dcdad3",
    kinds=("#0b4fae", "#bd4b00", "#0a8055", "#a3107c", "#7a3cf0", "#4a3d0c"),
)
DARK = Theme(
    page="#14161a",
    surface="#1c1f25",
    ink="#e9eaec",
    muted="#a4abb5",
    accent="#8ec5ff",
    rule="#363b44",
    kinds=("#87c2fc", "#ee810b", "#97f7dd", "#fa4fb0", "#a98bff", "#fbce13"),
)

MARKS = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "M-4.6 -4.6h9.2v9.2h-9.2z",
    "M0 -6.2L5.8 4.2H-5.8z",
    "M0 -6.4L6.4 0L0 6.4L-6.4 0z",
    "M0 6.2L5.8 -4.2H-5.8z",
    "M-2 -6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
    "M0 -6.2L5.9 -1.9L3.6 5H-3.6L-5.9 -1.9z",
)
"""Paths around the origin: circle, square, triangle, diamond, triangle, cross, pentagon."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a kind of method is drawn: the number of its colour, and its mark."""

    kind: str
    colour: int
    mark: str

    @property
    def name(self) -> str:
        """The kind in a reader's words."""
        return kind_name(self.kind)


def looks(kinds: Iterable[str]) -> dict[str, Look]:
    """One look for each kind, in order of appearance; no two are alike up to 42 kinds."""
    names = list(dict.fromkeys(kinds))
    return {
        kind: Look(kind=kind, colour=i % len(LIGHT.kinds), mark=MARKS[i % len(MARKS)])
        for i, kind in enumerate(names)
    }


def colour_of(kind: str, kinds: Sequence[str]) -> str:
    """`#rrggbb` in the light theme; `kinds` are those of all rows, as for `looks`."""
    return LIGHT.kinds[looks(kinds)[kind].colour]
