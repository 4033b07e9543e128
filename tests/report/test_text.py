import math

import pytest
from comparisons import estimate

from hybridgen.metrics.intervals import Estimate
from hybridgen.report import text


@pytest.mark.parametrize(
    ("value", "written"),
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
def test_numbers(value, written):
    assert text.number(value) == written


@pytest.mark.parametrize(
    ("figure", "written"),
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
def test_a_figure_has_the_digits_that_its_interval_leaves(figure, written):
    assert text.with_interval(figure) == written


def test_units():
    times = [text.seconds(value) for value in (2.3, 0.9996, 2.3e-3, 4.1e-5, 3e-9, math.inf)]
    assert times == ["2.30 s", "1.00 s", "2.30 ms", "41.0 \u00b5s", "3.00 ns", "\u221e"]
    assert text.seconds(1e-3, padded=False) == "1 ms"
    assert [text.in_units(n, text.THOUSANDS) for n in (12.0, 2.1e6)] == ["12", "2.10 M"]
    assert [text.in_units(n, text.BYTES) for n in (0, 12, 3 * 2**30)] == ["0", "12.0 B", "3.00 GiB"]


def test_p_values_below_a_thousandth_are_written_alike():
    written = [text.p_value(p) for p in (4.09e-22, 0.0, 0.000999, 0.001, 0.0456, 1.0, math.nan)]
    assert written == ["< 0.001"] * 3 + ["0.001", "0.046", "1", "not a number"]


def test_large_numbers_in_a_text_are_written_in_one_way():
    words = "60000 images, 1 x 16 x 16, 0.00001, a1234 and 12,345"
    assert text.grouped(words) == words.replace("60000", "60\u202f000")


def test_what_no_font_can_draw_is_replaced():
    assert text.printable("a\ud800\x00\n\u00e9 $b$") == "a\ufffd\ufffd\ufffd\u00e9 $b$"
