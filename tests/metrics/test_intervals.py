"""Standard errors by random subsets, against closed forms."""

import math

import pytest
import torch
from scipy.stats import t as student

from hybridgen.metrics.distances import frechet_distance
from hybridgen.metrics.intervals import (
    Estimate,
    holm,
    interval,
    jackknife_deviations,
    jackknife_error,
    jackknife_subsets,
    paired_errors,
)


def error_of(figure, count, subsets=32):
    """The standard error of a figure of subsets of the samples, from what marks them."""
    parts = jackknife_subsets(count, subsets=subsets)
    return jackknife_error([figure(part) for part in parts], count)


def normal(count, seed=0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize(("count", "size"), [(2, 1), (10, 9), (64, 56), (71, 63)])
def test_subsets_hold_seven_eighths_of_the_samples_and_none_of_them_twice(count, size):
    parts = jackknife_subsets(count, subsets=50)
    assert parts.sum(dim=1).tolist() == [size] * 50
    assert parts.any(dim=0).all()


def test_subsets_depend_on_the_seed_alone():
    before = torch.random.get_rng_state()
    first, again, other = (jackknife_subsets(40, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("count", [40, 41, 7])
def test_the_error_of_a_mean_is_its_standard_error(count):
    x = normal(count)
    error = error_of(lambda i: float(x[i].mean()), count, subsets=4_000)
    assert error == pytest.approx(float(x.std()) / math.sqrt(count), rel=0.04)


def test_the_error_of_a_variance_is_its_standard_error():
    count, x = 2_000, normal(2_000)
    error = error_of(lambda i: float(x[i].var()), count, subsets=1_000)
    assert error == pytest.approx(math.sqrt(2 / count), rel=0.1)


def test_a_squared_distance_at_its_floor_gets_nearly_half_as_much_again():
    count, errors = 160, []
    for seed in range(200):
        x = normal(count, seed)
        errors.append(error_of(lambda i, x=x: float(x[i].mean()) ** 2, count))
    mean_square = sum(error**2 for error in errors) / len(errors)
    assert math.sqrt(mean_square) == pytest.approx(1.46 * math.sqrt(2) / count, rel=0.2)


def test_intervals_cover_the_truth_nineteen_times_in_twenty():
    count, covered = 60, 0
    for seed in range(400):
        x = normal(count, seed)
        error = error_of(lambda i, x=x: float(x[i].mean()), count)
        low, high = interval("kid", float(x.mean()), error)
        covered += low <= 0 <= high
    assert 368 <= covered <= 392


def test_the_interval_is_students():
    assert interval("kid", 1.0, 0.5, subsets=2) == pytest.approx(
        (1 - 0.5 * 12.706, 1 + 0.5 * 12.706), rel=1e-4
    )
    low, high = interval("density", 1.0, 0.1)
    assert high - low == pytest.approx(0.2 * student.ppf(0.975, 31))


def test_the_interval_ends_where_the_figure_does():
    assert interval("precision", 0.99, 0.1)[1] == 1.0
    assert interval("precision", 0.01, 0.1)[0] == 0.0
    assert interval("frechet_distance", 0.01, 0.1)[0] == 0.0
    assert interval("density", 0.99, 0.1)[1] > 1.0
    assert interval("kid", 0.01, 0.1)[0] < 0.0


def test_no_failure_among_n_may_be_three_in_n():
    low, high = interval("precision", 1.0, 1.5 / 500)
    assert high == 1.0
    assert low == pytest.approx(1 - 3 / 500, abs=1e-3)


def test_what_is_infinite_in_a_subset_is_infinitely_uncertain():
    error = error_of(lambda i: math.inf if i[0] else 1.0, 20)
    assert error == math.inf
    assert interval("reverse_kl", 1.0, error) == (0.0, math.inf)
    assert interval("precision", math.nan, 0.1) == (0.0, 1.0)
    assert interval("kid", math.inf, 0.0) == (-math.inf, math.inf)
    assert jackknife_error([1.0, math.nan, 2.0], 10) == math.inf


@pytest.mark.parametrize(("count", "subsets"), [(1, 32), (10, 1)])
def test_a_set_that_has_no_subsets_gets_a_sentence(count, subsets):
    with pytest.raises(ValueError, match="at least 2 samples and 2 subsets"):
        jackknife_subsets(count, subsets=subsets)


def estimates(figure, *samples, subsets=32):
    """A figure of sets of as many samples, each measured on the same parts of them."""
    count = len(samples[0])
    parts = jackknife_subsets(count, subsets=subsets)
    results = []
    for x in samples:
        value, of_parts = figure(x), [figure(x[part]) for part in parts]
        low, high = interval("kid", value, jackknife_error(of_parts, count), subsets=subsets)
        deviations = (jackknife_deviations(of_parts, count),)
        results.append(Estimate(value=value, low=low, high=high, deviations=deviations))
    return results


def halves(*figures):
    return math.hypot(*(figure.high - figure.value for figure in figures))


def test_the_error_of_a_paired_difference_of_means_is_its_true_deviation():
    count, change, squares, independent = 100, 0.1, [], []
    for seed in range(60):
        x = normal(count, seed)
        a, b = estimates(lambda x: float(x.mean()), x, x + change * normal(count, 1_000 + seed))
        ((error, degrees),) = paired_errors(a, b)
        squares.append(error**2)
        independent.append(halves(a, b) / student.ppf(0.975, 31))
    truth = change / math.sqrt(count)
    assert degrees == 31
    assert math.sqrt(sum(squares) / 60) == pytest.approx(truth, rel=0.1)
    assert min(independent) > 8 * truth


def test_the_error_of_a_paired_frechet_distance_is_that_of_repeated_draws():
    """Samples in the plane that are too wide, and the same a little narrower."""
    rng = torch.Generator().manual_seed(0)
    real = torch.randn(2_000, 2, generator=rng).double()
    gains, errors, independent = [], [], []
    for _ in range(40):
        x = 1.5 * torch.randn(200, 2, generator=rng).double()
        a, b = estimates(lambda x: frechet_distance(real, x), x, 0.97 * x, subsets=16)
        gains.append(a.value - b.value)
        errors.append(paired_errors(a, b)[0][0])
        independent.append(halves(a, b) / student.ppf(0.975, 15))
    spread = float(torch.tensor(gains).std())
    assert sum(errors) / 40 == pytest.approx(spread, rel=0.35)
    assert min(independent) > 5 * spread


def test_without_parts_of_both_there_is_no_paired_error():
    known, other = (
        Estimate(value=1.0, low=0.0, high=2.0, deviations=d) for d in (((1.0, 2.0),), ())
    )
    longer = Estimate(value=1.0, low=0.0, high=2.0, deviations=((1.0, 2.0, 3.0),))
    assert paired_errors(known, other) == paired_errors(other, other) == []
    assert paired_errors(known, longer) == []


def test_a_paired_error_is_no_less_than_so_few_samples_allow():
    a, b = (
        Estimate(value=v, low=v, high=v, deviations=((0.0, 0.0, 0.0),), least_error=least)
        for v, least in ((1.0, 0.003), (0.99, 0.015))
    )
    assert paired_errors(a, b) == [(0.015, 2)]


def test_p_values_are_adjusted_as_holm_does():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04] and holm([]) == []


def test_deviations_have_the_standard_error_as_theirs():
    values = [1.0, 2.0, 4.0, 4.5]
    deviations = torch.tensor(jackknife_deviations(values, 16), dtype=torch.float64)
    assert float(deviations.std()) == pytest.approx(jackknife_error(values, 16))
    assert float(deviations.mean()) == pytest.approx(0, abs=1e-12)
    assert jackknife_deviations([1.0, math.inf], 16) == ()
