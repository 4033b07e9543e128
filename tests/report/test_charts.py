"""What charts show, read from the elements of the page."""

import math
import re
from xml.etree import ElementTree

import pytest
from comparisons import comparison, diffusion, estimate, full, gan, guided, row

from hybridgen.evaluation.results import TrainingSummary
from hybridgen.metrics.intervals import Estimate
from hybridgen.report.charts import charts, curves, histograms


def chart_of(*rows, metric="frechet_distance", price="seconds"):
    """The chart of the metric; `None` if there is none."""
    return next(iter(charts(comparison(*rows, quality=metric), price)), None)


def elements(picture, name):
    """Elements of a class."""
    return [e for e in ElementTree.fromstring(picture).iter() if e.get("class") == name]


def marks(chart):
    """Name of a row -> place of its mark, and whether it is faded."""
    return {
        mark.find("title").text.split("\n")[0]: (
            *(float(mark.find("circle").get(name)) for name in ("cx", "cy")),
            "opacity" in next(mark.iter("use")).get("style"),
        )
        for mark in elements(chart.pictures[0], "point")
    }


def places(element):
    """Corners of the first path in an element."""
    path = next(element.iter("path")).get("d")
    return [(float(x), float(y)) for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", path)]


def test_better_and_faster_is_lower_and_further_left():
    good, bad = row("good", quality=10, seconds=1e-3), row("bad", quality=50, seconds=1e-2)
    at = marks(chart_of(good, bad))
    assert at["good"][0] < at["bad"][0]
    assert at["good"][1] > at["bad"][1]
    assert (at["good"][2], at["bad"][2]) == (False, True)


@pytest.mark.parametrize(
    ("metric", "values", "log"),
    [
        ("frechet_distance", (1.0, 9.0), True),
        ("frechet_distance", (1.0, 7.0), False),
        ("kid", (-0.1, 9.0), False),
        ("recall", (0.01, 0.9), False),
        ("mode_std", (0.1, 2.0), False),
    ],
)
def test_small_distances_are_told_apart_beside_large_ones(metric, values, log):
    figures = [estimate(value, 0.5, floor=value / 2, ideal=0.0) for value in values]
    chart = chart_of(*(row(str(f), figures={metric: f}) for f in figures), metric=metric)
    assert len(chart.legend) == len(values) + (1 if log else 2)
    for name, number in (("floor", 1), ("ideal", 0 if log else 1)):
        assert len(elements(chart.pictures[0], name)) == number
    assert all(0 <= x <= 900 and 0 <= y <= 380 for x, y, _ in marks(chart).values())


def test_equal_ratios_are_equally_far_apart_in_seconds():
    rows = [row(str(n), seconds=10.0**-n) for n in range(4)]
    x = [marks(chart_of(*rows))[str(n)][0] for n in range(4)]
    assert [x[n] - x[n + 1] for n in range(3)] == pytest.approx([x[0] - x[1]] * 3, abs=0.3)


@pytest.mark.parametrize("metric", ["frechet_distance", "kid"])
@pytest.mark.parametrize(
    "values",
    [
        *([5.0], [0.0], [-3.0, -3.0], [1e-30, 1e30], [1e150, -1e150], [0.1, 0.1 + 1e-15]),
        [1.0, math.inf],
    ],
)
def test_no_values_break_a_chart(metric, values):
    ends = Estimate(value=1.0, low=-math.inf, high=math.nan)
    rows = [row(str(i), figures={metric: estimate(v)}) for i, v in enumerate(values)]
    rows.append(row("loose", figures={metric: ends}, time=Estimate(value=1, low=-1, high=math.inf)))
    chart = chart_of(*rows, metric=metric)
    assert all(0 <= x <= 900 and 0 <= y <= 380 for x, y, _ in marks(chart).values())
    assert not re.search(r"[ \"](nan|inf)", chart.pictures[0])


def test_a_mark_tells_name_figure_interval_seconds_and_calls():
    (mark,) = elements(chart_of(guided(8, quality=12.0)).pictures[0], "point")
    facts = [
        "guided, 8 calls, scale 1",
        "Fr\u00e9chet distance 12.0 (11.0 to 13.0)",
        "1.00 ms (990 \u00b5s to 1.01 ms) a sample",
        "calls: 8 denoiser, 8 discriminator forward, 8 discriminator backward",
    ]
    assert mark.find("title").text.split("\n") == facts
    assert mark.get("aria-label") == ", ".join(facts)
    assert mark.get("tabindex") == "0"


def test_rows_that_cannot_be_drawn_are_named():
    chart = chart_of(row("fine"), row("broken", quality=math.inf))
    assert list(marks(chart)) == ["fine"]
    assert chart.note == "Not drawn, because a figure is not finite: broken."
    assert chart_of(row("broken", quality=math.nan)) is None


def test_the_steps_go_down_the_front_and_never_up():
    rows = [
        row(str(i), quality=q, seconds=s) for i, (q, s) in enumerate([(30, 1), (20, 2), (25, 3)])
    ]
    chart = chart_of(*rows)
    (front,) = elements(chart.pictures[0], "front")
    heights = [y for _, y in places(front)]
    assert heights == sorted(heights) and len(set(heights)) == 2
    assert set(heights) == {marks(chart)["0"][1], marks(chart)["1"][1]}


def test_the_main_chart_is_drawn_for_narrow_screens_too_and_has_a_title():
    chart, other, *_ = charts(full(), "seconds")
    assert [len(each.pictures) for each in (chart, other)] == [2, 1]
    assert chart.title == "Fr\u00e9chet distance on digits (lower is better)"
    assert other.title == "KID (lower is better)"


def test_methods_are_lines_over_calls_and_a_single_pass_is_a_line_across():
    rows = [diffusion(4, quality=50), diffusion(8, quality=20), gan(quality=30)]
    steered = [guided(8, scale, quality=q) for scale, q in ((1, 15), (2, 18))]
    chart = chart_of(*rows, *steered, guided(4, quality=40), price="calls")
    lines = [places(line) for line in elements(chart.pictures[0], "line")]
    assert [len(line) for line in lines] == [2, 2]
    assert marks(chart)[steered[0].name][:2] in lines[0] + lines[1]
    assert marks(chart)[steered[1].name][:2] not in lines[0] + lines[1]
    assert len(elements(chart.pictures[0], "across")) == 1
    assert [key.label for key in chart.legend] == ["guided", "diffusion", "GAN 30.0"]
    assert chart_of(diffusion(4), gan(), price="calls") is None


def test_ticks_of_calls_keep_apart():
    chart = chart_of(*(diffusion(n) for n in (1, 30, 31)), price="calls")
    ticks = re.findall(r">(\d+)</text>", chart.pictures[0])
    assert ticks[:2] == ["1", "30"] and "31" not in ticks


def test_histograms_share_one_scale_with_the_held_out_classes():
    rows = [gan(histogram=(1, 3)), diffusion(4, histogram=(0, 0)), guided(4, histogram=(1, 2, 3))]
    real, drawn = histograms(comparison(*rows, real_histogram=(20, 20)))

    def heights(card):
        return [
            max(y for _, y in places(bar)) - min(y for _, y in places(bar))
            for bar in elements(card.picture, "bar")
        ]

    full_height = heights(drawn)[1]
    assert heights(drawn) == pytest.approx([full_height / 3, full_height], rel=0.01)
    assert heights(real) == pytest.approx([full_height * 2 / 3] * 2, rel=0.01)
    assert [bar.find("title").text for bar in elements(drawn.picture, "bar")][1] == "1: 75.0 %"
    assert len(elements(drawn.picture, "outline")) == 1
    assert elements(real.picture, "outline") == []
    assert histograms(comparison(real_histogram=(1, 2))) == []


def test_a_curve_breaks_where_it_is_not_finite():
    values = (1.0, math.nan, 4.0, 2.0)
    model = TrainingSummary(name="x", command="", facts={}, curves={"loss": ((0, 1, 2, 3), values)})
    (card,) = curves(model, "a")
    (line,) = elements(card.picture, "curve")
    path = next(line.iter("path")).get("d")
    assert (path.count("M"), path.count("L")) == (2, 1)
    assert "loss from 1 to 4, last 2, step 3" in card.picture
    assert (card.name, card.small) == ("loss", "last 2, step 3")
    assert re.findall(r">([\d.]+)</text>", card.picture) == ["1", "4"]
