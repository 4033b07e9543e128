import re
from itertools import combinations

import numpy as np
import pytest
from comparisons import row
from matplotlib.figure import Figure

from hybridgen.report.svg import DARK, LIGHT, inline_svg, keys

KINDS = [name for name in LIGHT if name.startswith("kind-")]


def test_methods_of_a_kind_share_its_colour_and_differ_in_their_marks():
    drawn = keys([row(f"{kind}{i}", kind=kind) for i in range(2) for kind in "abc"])
    colours = {name: key.colour for name, key in drawn.items()}
    assert colours == {f"{k}{i}": f"kind-{'abc'.index(k)}" for i in range(2) for k in "abc"}
    assert len({key.symbol for key in drawn.values()}) == 6


def linear(colour):
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    """Web Content Accessibility Guidelines 2.2."""
    dark, light = sorted(linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in (a, b))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_text_has_a_contrast_of_four_and_a_half(theme):
    for name in ("ink", "muted", "accent", *KINDS):
        assert min(contrast(theme[name], theme[back]) for back in ("page", "surface")) >= 4.5


def oklab(rgb):
    """Ottosson 2020."""
    to_lms = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.array(to_lab) @ np.cbrt(np.array(to_lms) @ np.clip(rgb, 0, 1))


SIGHT = {
    "full": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""Machado et al. 2009, IEEE TVCG 15, severity 1."""


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_kinds_differ_in_colour_for_every_sight(theme, sight):
    seen = [oklab(np.array(SIGHT[sight]) @ linear(theme[name])) for name in KINDS]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 0.06


def test_no_two_methods_look_alike():
    rows = [row(f"method {i}", kind=f"kind {i // 10}") for i in range(60)]
    assert len({(key.colour, key.symbol) for key in keys(rows).values()}) == 60
    assert LIGHT.keys() == DARK.keys()


def test_a_figure_takes_colours_fonts_and_ids_from_its_page():
    pictures = []
    for prefix in ("a", "b"):
        figure = Figure()
        figure.subplots().plot([0.12345, 1], [0.181, 2], "o", color="#1b1d21", gid="point/0")
        figure.text(0.5, 0.5, "0.181 is kept", color="#5a616b")
        pictures.append(inline_svg(figure, "a\x00 <label>", prefix, {"point/0": ["<&\ud800"]}))
    for picture, prefix in zip(pictures, "ab", strict=True):
        assert not re.search(r"xmlns|DejaVu|<style|#1b1d21|#5a616b|<metadata", picture)
        ids = re.findall(r' id="([^"]+)"', picture)
        assert len(ids) == len(set(ids)) and all(name.startswith(f"{prefix}-") for name in ids)
        assert set(re.findall(r"(?:url\(|\")#([\w-]+)", picture)) == set(ids)
        assert ">0.181 is kept</text>" in picture
        assert "var(--ink)" in picture and "var(--muted)" in picture
        assert 'aria-label="a\ufffd &lt;label&gt;"' in picture
        assert "<title>&lt;&amp;\ufffd</title>" in picture
        attributes = re.findall(r'="([^"]*)"', picture)
        assert not any(re.search(r"\d\.\d\d", value) for value in attributes)
