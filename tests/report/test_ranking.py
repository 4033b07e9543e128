import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from comparisons import diffusion, estimate, gan, guided, hybrid, refined, row

from hybridgen.metrics.intervals import Estimate
from hybridgen.protocols import Cost
from hybridgen.report.ranking import (
    TIE,
    baseline_of,
    change_of,
    clear_winner,
    compared,
    dominated,
    loss_value,
    outcome,
    p_value,
    row_outcomes,
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


def test_the_best_is_named_only_if_it_is_told_apart_from_all_others():
    best, far = row("best", quality=10), row("far", quality=20)
    assert clear_winner([far, best], FRECHET) is best
    assert clear_winner([far, best, row("near", quality=11.3)], FRECHET) is None
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


def drawn(name, values, *, shape=(1, 8, 8), **others):
    """A row whose figure is the mean of values `[n]`, of which each is measured alone."""
    values = torch.as_tensor(values).double()
    deviations = ((values - values.mean()) / math.sqrt(len(values))).tolist()
    reach = 2.04 * float(values.std()) / math.sqrt(len(values))
    figure = replace(estimate(float(values.mean()), reach), deviations=(tuple(deviations),))
    return row(name, noise_shape=shape, figures={FRECHET: figure}, **others)


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def test_rows_of_the_same_noise_are_told_apart_by_their_differences():
    x, change = normal(32, seed=0), normal(32, seed=1)
    base, better = drawn("a", x), drawn("b", x + 0.1 * change - 0.1)
    assert row_outcomes([(better, base)], FRECHET) == ["better"]
    assert row_outcomes([(base, better)], FRECHET) == ["worse"]
    for other in (drawn("b", x + 0.1 * change - 0.1, shape=shape) for shape in ((64,), None)):
        assert row_outcomes([(other, base)], FRECHET) == [TIE]
    unknown = drawn("a", x, shape=None)
    assert row_outcomes([(replace(better, noise_shape=None), unknown)], FRECHET) == [TIE]


def test_means_over_trainings_are_paired_only_if_the_trainings_are_the_same():
    x, change = normal(5, seed=0), normal(5, seed=1)

    def seeds(name, values, trainings=5, model="diffusion"):
        single = drawn(name, values, trainings=trainings, models=(model, name))
        figure = single.figures[FRECHET]
        none = (0.0,) * 32
        figure = replace(figure, deviations=(none, *figure.deviations))
        return replace(single, figures={FRECHET: figure})

    base, better = seeds("a", x), seeds("b", x + 0.1 * change - 0.5)
    assert row_outcomes([(better, base)], FRECHET) == ["better"]
    for other in ({"model": "hybrid"}, {"trainings": 4}):
        unlike = seeds("b", x + 0.1 * change - 0.5, **other)
        assert row_outcomes([(unlike, base)], FRECHET) == [TIE]


def test_the_p_value_of_a_paired_difference_is_that_of_students_test():
    from scipy.stats import ttest_rel

    x = normal(32, seed=0)
    y = x + 0.3 * normal(32, seed=1) + 0.1
    a, b = (drawn("", v).figures[FRECHET] for v in (x, y))
    expected = float(ttest_rel(x, y).pvalue)
    assert p_value(a, b, FRECHET, paired=True) == pytest.approx(expected)
    for metric in ("recall", "density"):  # the other way round, and the distance from 1
        low, high = (replace(e, value=e.value - 9, low=e.low - 9, high=e.high - 9) for e in (a, b))
        assert p_value(low, high, metric, paired=True) == pytest.approx(expected)


def test_the_p_value_of_independent_figures_is_at_the_limit_where_their_interval_touches_zero():
    other = estimate(10.0, half=4.0)
    assert p_value(estimate(15.0, half=3.0), other, FRECHET) == pytest.approx(0.05)
    few = replace(estimate(15.0, half=3.0), degrees=2)
    assert p_value(few, other, FRECHET) == pytest.approx(0.05)
    far = replace(few, value=25.0, low=22.0, high=28.0)
    assert p_value(far, other, FRECHET) > 10 * p_value(replace(far, degrees=None), other, FRECHET)
    assert p_value(other, other, FRECHET) == 1
    assert p_value(estimate(11.0, half=0.0), estimate(10.0, half=0.0), FRECHET) == 0


def test_a_distance_from_what_is_ideal_is_not_paired_where_it_may_be_on_either_side():
    parts = ((0.01, -0.01, 0.0),)
    a, b = (Estimate(value=v, low=v - 0.1, high=v + 0.1, deviations=parts) for v in (1.05, 1.3))
    assert loss_value(a, "density").deviations == ()
    assert loss_value(b, "density").deviations == parts
    low = replace(b, value=0.7, low=0.6, high=0.8)
    assert loss_value(low, "density").deviations == ((-0.01, 0.01, 0.0),)


def test_among_many_rows_that_are_alike_false_alarms_are_as_rare_as_announced():
    """Of 100 pages of ten rows with one truth, 5 % may tell any two rows apart."""
    pages, single = 0, 0
    for seed in range(100):
        shared = 3 * normal(32, seed=seed)
        rows = [
            drawn(str(n), shared + 0.3 * normal(32, seed=1_000 * (n + 1) + seed)) for n in range(10)
        ]
        outcome_of = compared(rows, FRECHET)
        pages += any(outcome_of(a, b) != TIE for a, b in combinations(rows, 2))
        single += row_outcomes([(rows[0], rows[1])], FRECHET) != [TIE]
    assert pages <= 10
    assert 1 <= single <= 10


def test_a_small_change_is_found_among_many_rows():
    found = 0
    for seed in range(40):
        shared = 3 * normal(32, seed=seed)
        rows = [
            drawn(str(n), shared + 0.3 * normal(32, seed=1_000 * (n + 1) + seed)) for n in range(8)
        ]
        moved = rows[0].figures[FRECHET]
        moved = replace(moved, value=moved.value - 0.5, low=moved.low - 0.5, high=moved.high - 0.5)
        best = replace(rows[0], figures={FRECHET: moved})
        found += clear_winner([best, *rows[1:]], FRECHET) is best
    assert found >= 36


def test_what_is_compared_alone_is_told_apart_sooner_than_one_of_many():
    pairs = [(row("a", quality=10.0), row("b", quality=11.6))]  # p = .026
    assert row_outcomes(pairs, FRECHET) == ["better"]
    level = row("c", quality=10.0)
    assert row_outcomes([*pairs, (level, level)], FRECHET) == [TIE, TIE]
