import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from comparisons import estimate

from hybridgen.evaluation.comparison import Estimate
from hybridgen.evaluation.page import words
from hybridgen.evaluation.page.axes import axis
from hybridgen.evaluation.page.kinds import kind_name
from hybridgen.evaluation.page.labels import around, place
from hybridgen.evaluation.page.palette import DARK, LIGHT, colour_of, looks


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.3456, "12.3"),
        (0.0, "0"),
        (18.0, "18"),
        (0.000234, "0.000234"),
        (2.34e-7, "2.34e\u22127"),
        (-0.5, "\u22120.5"),
        (10.000000000000002, "10"),
        (123456.0, "123\u202f456"),
        (math.inf, "\u221e"),
        (-math.inf, "\u2212\u221e"),
        (math.nan, "not a number"),
    ],
)
def test_numbers(value, text):
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (estimate(12.345, 0.56), "12.3 (11.8 to 12.9)"),
        (estimate(12.345, 0.123), "12.35 (12.22 to 12.47)"),
        (estimate(-0.00012, 0.003), "0.000 (\u22120.003 to 0.003)"),
        (estimate(88.2, 30.0), "88 (58 to 118)"),
        (estimate(7.0, 0.0), "7"),
        (estimate(math.inf, 0.0), "\u221e"),
        (Estimate(value=1.5, low=math.nan, high=math.nan), "1.5 (not a number to not a number)"),
    ],
)
def test_a_figure_has_the_digits_that_its_interval_leaves(figure, text):
    assert words.with_interval(figure) == text


def test_units():
    times = [words.seconds(value) for value in (2.3, 0.9996, 2.3e-3, 4.1e-5, 3e-9)]
    assert times == ["2.30 s", "1.00 s", "2.30 ms", "41.0 \u00b5s", "3.00 ns"]
    assert words.seconds(1e-3, padded=False) == "1 ms"
    assert [words.scaled(value) for value in (12.0, 2.1e6, 3e12)] == ["12", "2.10 M", "3.00 T"]
    assert [words.memory(value) for value in (12, 2**20, 3 * 2**30)] == ["12 B", "1 MiB", "3 GiB"]


def test_chances_below_a_thousandth_are_told_alike():
    found = [words.chance(p) for p in (4.09e-22, 0.0, 0.000999, 0.001, 0.0456, 1.0, math.nan)]
    assert found == ["< 0.001"] * 3 + ["0.001", "0.046", "1", "not a number"]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("60000", "60\u202f000"),
        ("1437 images, 360 held out", "1\u202f437 images, 360 held out"),
        ("1 x 16 x 16", "1 x 16 x 16"),
        ("0.00001, a1234 and 12,345", "0.00001, a1234 and 12,345"),
        ("", ""),
    ],
)
def test_large_numbers_in_a_text_are_written_in_one_way(text, written):
    assert words.grouped(text) == written


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("gan", "GAN"),
        ("gan, refined", "GAN, refined by a critic"),
        ("diffusion", "diffusion"),
        ("diffusion, guided", "diffusion, guided"),
        ("diffusion, guided, refined", "diffusion, guided and refined by a critic"),
        ("hybrid", "diffusion trained with a discriminator"),
        ("hybrid, refined", "diffusion trained with a discriminator, refined by a critic"),
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


def test_an_axis_keeps_order_and_shows_what_it_was_asked_for():
    for flipped in (False, True):
        for log in (False, True):
            drawn = axis([0.1, 3.0, 200.0], words.number, log=log, flipped=flipped)
            places = [drawn.at(value) for value in (0.1, 3.0, 200.0)]
            assert places == sorted(places, reverse=flipped)
            assert 0 < min(places) < max(places) < 100
            assert 2 <= len(drawn.ticks) <= 8
            for tick in drawn.ticks:
                assert 0 <= tick.place <= 100


def test_ticks_keep_apart():
    found = axis([1, 30, 31], words.number, log=True, at=[1, 30, 31], apart=9.0)
    assert [tick.text for tick in found.ticks] == ["1", "30"]


def test_equal_ratios_are_equally_far_apart_on_a_logarithmic_axis():
    drawn = axis([1.0, 1000.0], words.number, log=True)
    steps = [b - a for a, b in pairwise(drawn.at(v) for v in (1.0, 10.0, 100.0, 1000.0))]
    assert steps == pytest.approx([steps[0]] * 3)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [5.0],
        [0.0],
        [-3.0, -3.0],
        [math.nan, math.inf],
        [1e-30, 1e30],
        [1e300, -1e300],
        [0.1, 0.1 + 1e-15],
    ],
)
def test_no_values_break_an_axis(values):
    for log in (False, True):
        drawn = axis(values, words.number, log=log)
        assert all(0 <= drawn.at(value) <= 100 for value in (0.0, -1.0, 5.0, math.inf, -math.inf))
        assert len(drawn.ticks) < 30


def test_names_cover_neither_marks_nor_each_other_nor_leave_the_picture():
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 100, (25, 2))
    wanted = [around(x, y, "a name of some length") for x, y in places]
    marks = [around(x, y, "")[0].box(600, 300) for x, y in places]
    placed = place(wanted, marks, [], 600, 300)
    boxes = [label.box(600, 300) for label in placed]
    assert 5 < len(boxes) < 25
    assert not any(a.meets(b) for a, b in combinations(boxes, 2))
    assert not any(box.meets(mark) for box in boxes for mark in marks)
    assert all(box.left >= 0 and box.right <= 604 and box.bottom <= 300 for box in boxes)


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
