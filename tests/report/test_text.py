import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from comparisons import estimate

from hybridgen.metrics.intervals import Estimate
from hybridgen.report import text as words
from hybridgen.report.axes import axis
from hybridgen.report.labels import around, place


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
