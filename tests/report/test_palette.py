from itertools import combinations

import numpy as np
import pytest

from hybridgen.report.kinds import kind_name
from hybridgen.report.palette import DARK, LIGHT, colour_of, looks


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("gan", "GAN"),
        ("gan, refined", "GAN, refined by a discriminator"),
        ("diffusion", "diffusion"),
        ("diffusion, guided", "diffusion, guided"),
        ("diffusion, guided, refined", "diffusion, guided and refined by a discriminator"),
        ("hybrid", "diffusion trained with a discriminator"),
        ("hybrid, refined", "diffusion trained with a discriminator, refined by a discriminator"),
        ("gan, other", "gan, other"),
        ("exact", "exact"),
        ("", ""),
    ],
)
def test_kinds_are_named_in_a_readers_words(kind, name):
    assert kind_name(kind) == name
    assert looks([kind])[kind].name == name


def test_a_kind_has_the_colour_of_its_marks():
    kinds = ["a", "b", "a", "c"]
    assert [colour_of(kind, kinds) for kind in "abc"] == list(LIGHT.kinds[:3])


def linear(colour):
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    """Web Content Accessibility Guidelines 2.2."""
    dark, light = sorted(linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in (a, b))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_text_has_a_contrast_of_four_and_a_half(theme):
    for colour in (theme.ink, theme.muted, theme.accent, *theme.kinds):
        assert min(contrast(colour, back) for back in (theme.page, theme.surface)) >= 4.5


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
    seen = [oklab(np.array(SIGHT[sight]) @ linear(colour)) for colour in theme.kinds]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 0.06


def test_no_two_kinds_look_alike():
    found = looks(f"kind {i}" for i in range(42)).values()
    assert len({(look.colour, look.mark) for look in found}) == 42
    assert len(LIGHT.kinds) == len(DARK.kinds)
