"""Figures of matplotlib as SVG inside a page: its colours and fonts, marks that tell their facts.

Every colour is also that of text somewhere, so all of them have a contrast of at least 4.5 to both
backgrounds of their theme. Neighbours in the list differ for the colour-blind too, and marks differ
for everybody.
"""

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, fromstring, tostring

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from hybridgen.evaluation.results import Row
from hybridgen.report.text import printable

PALETTE = {
    "page": ("#fbfaf7", "#14161a"),
    "surface": ("#ffffff", "#1c1f25"),
    "ink": ("#1b1d21", "#e9eaec"),
    "muted": ("#5a616b", "#a4abb5"),
    "accent": ("#0b5394", "#8ec5ff"),
    "rule": ("#dcdad3", "#363b44"),
    "kind-0": ("#0b4fae", "#87c2fc"),
    "kind-1": ("#bd4b00", "#ee810b"),
    "kind-2": ("#0a8055", "#97f7dd"),
    "kind-3": ("#a3107c", "#fa4fb0"),
    "kind-4": ("#7a3cf0", "#a98bff"),
    "kind-5": ("#4a3d0c", "#fbce13"),
}
LIGHT, DARK = ({name: pair[theme] for name, pair in PALETTE.items()} for theme in (0, 1))
KINDS = [name for name in PALETTE if name.startswith("kind-")]
COLOURS = {code: f"var(--{name})" for name, code in LIGHT.items()}
SYMBOLS = "\u25cf\u25a0\u25b2\u25c6\u25bc\u271a\u2605\u2716\u25c0\u25b6"
MARKS = dict(zip("os^DvP*X<>", SYMBOLS, strict=True))
DASHES = {"--": "- -", ":": "\u00b7 \u00b7 \u00b7", "-": "\u2014"}
"""Marks and dashes of matplotlib, and how a text shows them."""
LOOK: Any = {
    "font.size": 12,
    "text.color": LIGHT["ink"],
    "axes.titlelocation": "left",
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
"""Settings of matplotlib for every figure, for `rc_context`."""
UNUSED = r"font-family: [^;]*; |; stroke-(line\w+|dashoffset): \w+|^rotate\(-0 .*"
"""Parts of attributes that change nothing, or that the page decides."""
HOVER = "11"
"""Radius around a mark that counts as the mark, in the units of the figure."""

Facts = Mapping[str, Sequence[str]]


class Key(NamedTuple):
    """What stands for a method or a line in a legend: a colour by its name, a mark or dashes."""

    label: str
    colour: str
    mark: str = ""
    dashes: str = "-"

    @property
    def symbol(self) -> str:
        """As a character; the last part asks for no coloured picture in its place."""
        return MARKS[self.mark] + "\ufe0e" if self.mark else DASHES[self.dashes]


def keys(rows: Sequence[Row]) -> dict[str, Key]:
    """Of each method: a colour that it shares with its kind, and of one colour no two marks alike.

    Colours begin again after 6 kinds, marks after 10 methods of one colour.
    """
    kinds = list(dict.fromkeys(row.kind for row in rows))
    chosen: dict[str, Key] = {}
    for row in rows:
        if row.method not in chosen:
            colour = KINDS[kinds.index(row.kind) % len(KINDS)]
            taken = [key.mark for key in chosen.values() if key.colour == colour]
            start = len(chosen) % len(MARKS)
            order = (list(MARKS) * 2)[start : start + len(MARKS)]
            mark = next((mark for mark in order if mark not in taken), order[0])
            chosen[row.method] = Key(row.method, colour, mark)
    return chosen


def inline_svg(figure: Figure, label: str, prefix: str, facts: Facts | None = None) -> Markup:
    """A figure as an `<svg>` element that takes the colours, fonts and width of its page.

    An artist whose `gid` is "name/..." becomes an element of the class "name".

    Args:
        label: what it shows, for readers who do not see it.
        prefix: of all ids, so that figures do not share any.
        facts: gid -> lines that hovering shows; those of the class "point" are reached by keyboard.
    """
    file = StringIO()
    with rc_context({"svg.hashsalt": prefix, "svg.fonttype": "none"}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", facecolor="none", metadata=nothing)
    linked = dict.fromkeys(re.findall(r"#(\w+)\)?\"", file.getvalue()))
    ids = {name: f"{prefix}-{number}" for number, name in enumerate(linked)}
    (root,) = _cleaned(fromstring(file.getvalue()), ids, facts or {})
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "group" if facts else "img"}
    root.set("aria-label", printable(label))
    return Markup(tostring(root, encoding="unicode"))


def _cleaned(element: Element, ids: Mapping[str, str], facts: Facts) -> list[Element]:
    """An element of the page in the place of matplotlib's, its children if it is no more than a
    group, or nothing."""
    tag = element.tag.rpartition("}")[2]
    # matplotlib's style would reach the whole page.
    if tag in ("metadata", "style") or element.get("style") == "fill: none":
        return []
    children = [new for child in element for new in _cleaned(child, ids, facts)]
    attributes = {name.rpartition("}")[2]: _short(v, ids) for name, v in element.attrib.items()}
    name = attributes.pop("id", "")
    if "/" in name:
        attributes["class"] = name.partition("/")[0]
    if name in ids:
        attributes["id"] = ids[name]
    if not children and tag in ("g", "defs"):
        return []
    if tag == "g" and not attributes:
        return children
    cleaned = Element(tag, {name: value for name, value in attributes.items() if value})
    cleaned.text = element.text if tag == "text" else None
    cleaned.extend(children)
    if name in facts:
        _describe(cleaned, [printable(fact) for fact in facts[name]])
    return [cleaned]


def _short(value: str, ids: Mapping[str, str]) -> str:
    """An attribute with colours and ids of the page, and numbers of one decimal."""
    value = re.sub(UNUSED, "", re.sub(r"\s+", " ", value.strip()))
    value = re.sub(r"(^|url\()#(\w+)", lambda match: f"{match[1]}#{ids[match[2]]}", value)
    value = re.sub(r"#[0-9a-f]{6}\b", lambda match: COLOURS.get(match[0], match[0]), value)
    return re.sub(r"\d+\.\d+", lambda match: f"{float(match[0]):.1f}".removesuffix(".0"), value)


def _describe(element: Element, facts: Sequence[str]) -> None:
    """What hovering shows; a mark also gets a place around it, and the keyboard's focus."""
    title = Element("title")
    title.text = "\n".join(facts)
    place = next(element.iter("use"), None)
    if place is not None:
        element.attrib |= {"tabindex": "0", "role": "img", "aria-label": ", ".join(facts)}
        around = {"cx": place.get("x", "0"), "cy": place.get("y", "0"), "r": HOVER}
        element.append(Element("circle", around))
    element.insert(0, title)
