"""Means over several trainings of one model, and what is said of them."""

import math
from statistics import fmean

import pytest
import torch
from scipy.stats import t as student

from hybridgen.evaluation.results import mean_over_trainings, provenance
from hybridgen.metrics.intervals import Estimate, interval
from hybridgen.report.ranking import TIE, outcome


def trainings(values, name="kid"):
    return [{name: Estimate(value=v, low=v - 1, high=v + 1, floor=0.1, ideal=0.0)} for v in values]


def test_the_interval_of_a_mean_is_that_over_trainings():
    values = [1.0, 2.0, 6.0]
    mean = mean_over_trainings(trainings(values))["kid"]
    error = float(torch.tensor(values).std()) / math.sqrt(3)
    reach = student.ppf(0.975, 2) * error
    assert mean.value == pytest.approx(fmean(values))
    assert mean.standard_error == pytest.approx(error)
    assert (mean.low, mean.high) == pytest.approx((mean.value - reach, mean.value + reach))
    assert (mean.floor, mean.ideal) == (0.1, 0.0)


def test_an_interval_ends_where_the_figure_cannot_go():
    mean = mean_over_trainings(trainings([0.1, 0.9], "coverage"))["coverage"]
    assert (mean.low, mean.high) == (0, 1)


def test_trainings_that_agree_leave_what_the_draw_of_samples_leaves_open():
    one = Estimate(value=1.0, low=0.97, high=1.0)
    mean = mean_over_trainings([{"coverage": one}, {"coverage": one}])["coverage"]
    assert (mean.low, mean.high) == pytest.approx((1 - 0.03 / math.sqrt(2), 1.0))
    assert mean.standard_error == 0


@pytest.mark.parametrize("number", [1, 2])
def test_shares_of_500_samples_that_differ_by_one_are_a_tie_however_many_trainings(number):
    name, error = "high_quality", math.sqrt(0.998 * 0.002 / 500)
    ends = interval(name, 1.0, 1.5 / 500), interval(name, 0.998, error)
    a, b = (
        mean_over_trainings([{name: Estimate(value=value, low=low, high=high)}] * number)[name]
        for value, (low, high) in zip((1.0, 0.998), ends, strict=True)
    )
    assert outcome(a, b, name) == TIE


def test_a_mean_is_of_figures_that_all_trainings_have():
    first, second = trainings([1.0, 2.0])
    more = trainings([3.0], "coverage")[0]
    for figures in ([first | more, second], [first, second | more]):
        assert mean_over_trainings(figures).keys() == {"kid"}


def test_one_training_keeps_its_figures():
    (alone,) = trainings([3.0])
    assert mean_over_trainings([alone]) == alone


def test_one_infinite_training_makes_the_mean_infinite_and_not_flattering():
    mean = mean_over_trainings(trainings([1.0, math.inf], "frechet_distance"))["frechet_distance"]
    assert mean.value == mean.standard_error == mean.high == math.inf


def test_a_mean_of_p_values_is_none():
    assert mean_over_trainings(trainings([0.1, 0.2], "c2st_p")) == {}


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({"a": 1, "b": 1}, "3; one training of each model"),
        ({"a": 5}, "3; trainings: 5 of a"),
        ({"a": 5, "b": 1, "c": 2}, "3; trainings: 5 of a, 2 of c, one of each other model"),
    ],
)
def test_how_often_each_model_was_trained_is_said(counts, sentence):
    assert provenance(["x.py"], seed=3, trainings=counts)["seed"] == sentence


def test_a_mean_over_trainings_keeps_the_parts_and_the_trainings():
    values, parts = (1.0, 2.0, 6.0), ((0.3, -0.3), (0.1, -0.1), (0.2, -0.2))
    figures = [
        {"kid": Estimate(value=v, low=v - 1, high=v + 1, deviations=(p,), least_error=0.3)}
        for v, p in zip(values, parts, strict=True)
    ]
    mean = mean_over_trainings(figures)["kid"]
    of_parts, of_trainings = mean.deviations
    assert of_parts == pytest.approx((0.2, -0.2))
    assert mean.standard_error == pytest.approx(float(torch.tensor(of_trainings).std()))
    assert mean.least_error == pytest.approx(0.3 / math.sqrt(3)) and mean.degrees == 2
    without = [figures[0], {"kid": Estimate(value=1.0, low=0.0, high=2.0)}]
    assert mean_over_trainings(without)["kid"].deviations == ()
