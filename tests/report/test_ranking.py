import math

import pytest
from comparisons import diffusion, estimate, gan, guided, hybrid, refined, row

from hybridgen.metrics.intervals import Estimate
from hybridgen.protocols import Cost
from hybridgen.report.ranking import (
    TIE,
    baseline_of,
    change_of,
    clear_winner,
    dominated,
    loss_value,
    outcome,
)

FRECHET = "frechet_distance"


def test_two_figures_are_told_apart_beyond_the_root_of_the_sum_of_squares():
    other = estimate(10.0, half=4.0)
    assert outcome(estimate(15.1, half=3.0), other, FRECHET) == "worse"
    assert outcome(estimate(14.9, half=3.0), other, FRECHET) == TIE
    assert outcome(estimate(4.9, half=3.0), other, FRECHET) == "better"


def test_the_sides_that_face_each_other_count():
    upper = Estimate(value=13.0, low=12.0, high=99.0)
    assert outcome(upper, estimate(10.0, half=2.0), FRECHET) == "worse"
    assert outcome(estimate(116.0, half=1.0), upper, FRECHET) == "worse"
    assert outcome(estimate(98.0, half=1.0), upper, FRECHET) == TIE


@pytest.mark.parametrize(
    ("figure", "metric", "expected"),
    [
        (Estimate(value=0.8, low=0.5, high=0.9), "recall", (-0.8, -0.9, -0.5)),
        (Estimate(value=0.52, low=0.47, high=0.58), "memorisation", (0.02, 0.0, 0.08)),
        (Estimate(value=0.4, low=0.3, high=0.45), "memorisation", (0.1, 0.05, 0.2)),
    ],
)
def test_turning_a_figure_round_turns_its_interval_round(figure, metric, expected):
    turned = loss_value(figure, metric)
    assert (turned.value, turned.low, turned.high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "a", "b", "expected"),
    [
        ("recall", 0.9, 0.8, "better"),
        ("kid", 0.9, 0.8, "worse"),
        ("c2st_accuracy", 0.45, 0.6, "better"),
        ("c2st_accuracy", 0.4, 0.45, "worse"),
        ("c2st_accuracy", 0.45, 0.55, TIE),
    ],
)
def test_each_metric_knows_which_way_is_better(metric, a, b, expected):
    assert outcome(estimate(a, 0.01), estimate(b, 0.01), metric) == expected


@pytest.mark.parametrize("metric", [FRECHET, "recall", "memorisation"])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_neither_wins_nor_is_judged(metric, value):
    assert loss_value(estimate(value), metric).value == math.inf
    assert outcome(estimate(value), estimate(0.5), metric) is None
    assert outcome(estimate(0.5), estimate(value), metric) is None


def test_nothing_is_told_apart_from_a_figure_without_an_end():
    loose = Estimate(value=1.0, low=math.nan, high=math.nan)
    assert outcome(loose, estimate(900.0), FRECHET) == TIE


def test_rows_that_another_beats_in_both_are_dominated():
    rows = [
        row("fast", quality=30, seconds=1),
        row("slow, good", quality=10, seconds=3),
        row("slow, bad", quality=20, seconds=4),
        row("as good, slower", quality=10, seconds=5),
        row("twin", quality=30, seconds=1),
        row("infinite", quality=math.inf, seconds=0.1),
        row("no time", quality=1, seconds=math.nan),
        row("not a number", quality=math.nan, seconds=0.1),
    ]
    expected = (False, False, True, True, False, True, True, True)
    assert dominated(rows, FRECHET) == expected


def test_more_dominates_where_more_is_better():
    good = row("good", seconds=1, figures={"recall": estimate(0.9)})
    bad = row("bad", seconds=2, figures={"recall": estimate(0.8)})
    without = row("without", seconds=0.5)
    assert dominated([good, bad, without], "recall") == (False, True, True)


def test_the_best_is_named_only_if_its_interval_is_apart_from_all_others():
    best, far = row("best", quality=10), row("far", quality=20)
    assert clear_winner([far, best], FRECHET) is best
    assert clear_winner([far, best, row("near", quality=11.9)], FRECHET) is None
    assert clear_winner([best], FRECHET) is None
    assert clear_winner([best, row("lost", quality=math.inf)], FRECHET) is None


def changes(*rows):
    bases = [(row, baseline_of(row, rows)) for row in rows]
    return [(row.name, base.name, change_of(row, base)) for row, base in bases if base is not None]


def test_guidance_and_training_stand_beside_their_baseline_at_equal_calls():
    rows = [diffusion(4), diffusion(8), guided(8), guided(16), hybrid(4)]
    assert changes(*rows) == [
        ("guided, 8 calls, scale 1", "diffusion, 8 calls", "guidance"),
        ("hybrid, 4 calls", "diffusion, 4 calls", "training"),
    ]


def test_refinement_stands_beside_the_budget_that_it_refines():
    cost = Cost(denoiser=48, discriminator_forward=6)
    walked = row("walked", "8 calls, 5 rounds", calls=cost, baseline="diffusion")
    rows = [gan(), refined(5), diffusion(8), diffusion(18), walked]
    assert changes(*rows) == [
        ("GAN, refined, 5 rounds", "GAN", "refinement"),
        ("walked, 8 calls, 5 rounds", "diffusion, 8 calls", "refinement"),
    ]


def test_no_baseline_is_better_than_a_wrong_one():
    twins = [row("diffusion", name, calls=Cost(denoiser=8)) for name in ("a", "b")]
    silent = row("guided", calls=None, baseline="diffusion")
    assert changes(guided(8)) == []
    assert changes(diffusion(7), guided(8), silent) == []
    assert changes(*twins, guided(8)) == []
    assert changes(row("self", calls=Cost(denoiser=1), baseline="self")) == []
    costly = row("GAN", calls=Cost(generator=9))
    critical = row("GAN", calls=Cost(generator=2, discriminator_forward=9))
    for base in (costly, critical):
        assert changes(base, refined(5)) == []
    assert changes(gan(), row("x", calls=Cost(generator=2), baseline="GAN")) == []
