import re

import pytest
from comparisons import comparison, diffusion, estimate, gan, guided, row

from hybridgen.evaluation.results import TrainingSummary
from hybridgen.report.calls import calls_chart
from hybridgen.report.front import front_chart
from hybridgen.report.palette import looks
from hybridgen.report.small import curves, histograms


def chart_of(*rows, metric="frechet_distance", make=front_chart):
    return make(rows, metric, looks(row.kind for row in rows))


def test_better_and_faster_is_lower_and_further_left():
    good, bad = row("good", quality=10, seconds=1e-3), row("bad", quality=50, seconds=1e-2)
    chart = chart_of(good, bad)
    marks = {point.facts[0]: point for point in chart.points}
    assert marks["good"].x < marks["bad"].x
    assert marks["good"].y > marks["bad"].y
    assert (marks["good"].faded, marks["bad"].faded) == (False, True)
    for mark in marks.values():
        assert mark.x_ends[0] < mark.x < mark.x_ends[1]
        assert mark.y_ends[0] > mark.y > mark.y_ends[1]


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
    levels = {reference.style for reference in chart.references}
    assert levels == ({"floor"} if log else {"floor", "ideal"})
    assert all(0 <= end <= 100 for point in chart.points for end in (*point.y_ends, *point.x_ends))


def test_a_mark_tells_name_figure_interval_seconds_and_calls():
    (mark,) = chart_of(guided(8, quality=12.0)).points
    assert mark.facts == (
        "guided, 8 calls, scale 1",
        "Fr\u00e9chet distance 12.0 (11.0 to 13.0)",
        "1.00 ms (990 \u00b5s to 1.01 ms) a sample",
        "calls: 8 denoiser, 8 discriminator forward, 8 discriminator backward",
    )


def test_rows_that_cannot_be_drawn_are_named():
    chart = chart_of(row("fine"), row("broken", quality=float("inf")))
    assert len(chart.points) == 1
    assert chart.notes == ("Not drawn, because a figure is not finite: broken.",)
    assert chart_of(row("broken", quality=float("nan"))) is None


def test_the_stairs_step_down_the_front_and_never_up():
    rows = [
        row(str(i), quality=q, seconds=s) for i, (q, s) in enumerate([(30, 1), (20, 2), (25, 3)])
    ]
    stairs = chart_of(*rows).stairs
    heights = [float(h) for h in re.findall(r"V([\d.]+)", stairs)]
    assert len(heights) == 1
    assert heights[0] > float(stairs.split()[1].split("H")[0])


def test_methods_are_lines_over_calls_and_a_single_pass_is_a_line_across():
    rows = [diffusion(4, quality=50), diffusion(8, quality=20), gan(quality=30)]
    steered = [guided(8, scale, quality=q) for scale, q in ((1, 15), (2, 18))]
    chart = chart_of(*rows, *steered, guided(4, quality=40), make=calls_chart)
    assert [len(line.places) for line in chart.lines] == [2, 2]
    best = min(steered, key=lambda row: row.figures["frechet_distance"].value)
    mark = next(point for point in chart.points if point.facts[0] == best.name)
    assert (mark.x, mark.y) in chart.lines[1].places
    (across,) = chart.references
    assert across.texts[0] == "GAN 30.0"
    assert across.ends[0] != across.ends[1]
    assert chart_of(diffusion(4), gan(), make=calls_chart) is None


def test_histograms_share_one_scale_with_the_held_out_classes():
    rows = [gan(histogram=(1, 3)), diffusion(4, histogram=(0, 0)), guided(4, histogram=(1, 2, 3))]
    both = comparison(*rows, real_histogram=(20, 20))
    real, drawn = histograms(both, looks(r.kind for r in rows))
    assert [bar.height for bar in drawn.bars] == pytest.approx([100 / 3, 100])
    assert [bar.height for bar in real.bars] == pytest.approx([200 / 3] * 2)
    assert drawn.bars[1].text == "1: 75.0 %"
    assert histograms(comparison(real_histogram=(1, 2)), {}) == []


def test_a_curve_breaks_where_it_is_not_finite():
    values = (1.0, float("nan"), 4.0, 2.0)
    model = TrainingSummary(name="x", command="", facts={}, curves={"loss": ((0, 1, 2, 3), values)})
    (drawn,) = curves(model)
    assert drawn.path == "M0.0 100.0M66.7 0.0L100.0 66.7"
    assert (drawn.bottom, drawn.top, drawn.last) == ("1", "4", "2")


def test_a_long_curve_ends_where_its_training_ended():
    steps = tuple(float(i) for i in range(1001))
    (drawn,) = curves(
        TrainingSummary(name="x", command="", facts={}, curves={"loss": (steps, steps)})
    )
    assert drawn.path.endswith("L100.0 0.0")
    assert drawn.path.count("L") < 300
