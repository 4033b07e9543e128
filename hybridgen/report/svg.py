"""Figures of matplotlib as SVG inside a page: accessible marks, the page's colours and fonts."""

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from xml.etree.ElementTree import Element, fromstring, tostring

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from hybridgen.report.styles import LIGHT
from hybridgen.report.text import printable

COLOURS = {code: f"var(--{name})" for name, code in LIGHT.items()}
UNUSED = r"font-family: [^;]*; |; stroke-(line\w+|dashoffset): \w+|^rotate\(-0 .*"
"""Parts of attributes that change nothing, or that the page decides."""
HOVER = "11"
"""Radius around a mark that counts as the mark, in the units of the figure."""

Facts = Mapping[str, Sequence[str]]


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
