import math
from statistics import fmean

import pytest
import torch

from hybridgen.maths.mixtures import GaussianMixture, grid, ring
from hybridgen.metrics.modes import (
    mode_coverage,
    mode_distance,
    mode_histogram,
    mode_shares,
    mode_statistics,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("mixture", "published"), [(ring(), 0.0014), (grid(), 0.0048)])
def test_perfect_samplers_reach_the_floors_of_convention_a(mixture, published):
    generator = rng()
    rows = [mode_coverage(mixture.sample(2_500, generator)[0], mixture) for _ in range(120)]
    floors = {name: fmean(row[name] for row in rows) for name in rows[0]}
    inside = 1 - math.exp(-4.5)
    assert floors["modes"] == mixture.components
    error = math.sqrt(inside * (1 - inside) / (2_500 * 120))
    assert abs(floors["high_quality"] - inside) < 4 * error
    # 2 n KL is chi-squared with k - 1 degrees of freedom, so its mean and variance are known.
    degrees, n = mixture.components - 1, 2 * 2_500 * inside
    error = math.sqrt(2 * degrees) / n / math.sqrt(120)
    assert abs(floors["reverse_kl"] - degrees / n) < 4 * error + 0.01 * degrees / n
    assert abs(floors["reverse_kl"] - published) < 4 * error + 5e-5
    # The variance of a coordinate of a standard Gaussian in the plane cut off at radius 3.
    cut = math.sqrt(1 - 4.5 * math.exp(-4.5) / inside)
    assert abs(floors["mode_std"] - cut) < 2e-3


@pytest.mark.parametrize("kept", [1, 3, 8])
def test_keeping_k_of_all_modes_costs_the_logarithm_of_their_ratio(kept):
    mixture = ring()
    row = mode_coverage(mixture.means[:kept].repeat(50, 1), mixture)
    assert row["modes"] == kept
    assert row["high_quality"] == 1
    assert row["reverse_kl"] == pytest.approx(math.log(8 / kept), abs=1e-12)


def test_high_quality_ends_at_three_deviations_of_the_nearest_mode():
    mixture = GaussianMixture(
        torch.ones(2), torch.tensor([[0.0, 0.0], [10.0, 0.0]]), torch.tensor([0.1, 1.0])
    )
    inside = torch.tensor([[0.0, 0.299], [0.29, 0.0], [10.0, 2.99], [12.1, 2.1]])
    outside = torch.tensor([[0.0, 0.301], [0.29, 0.29], [10.0, 3.01], [12.2, 2.2], [4.9, 0.0]])
    assert mode_coverage(inside, mixture)["high_quality"] == 1
    assert mode_coverage(outside, mixture)["high_quality"] == 0
    assert mode_statistics(inside, mixture)[0].tolist() == [2, 2]


def test_a_sampler_that_hits_nothing_is_infinitely_far_away():
    row = mode_coverage(torch.full((10, 2), 50.0), grid())
    assert row == {
        "modes": 0,
        "high_quality": 0,
        "reverse_kl": math.inf,
        "mode_std": 0,
        "mode_std_min": 0,
    }


def test_points_that_are_not_finite_are_drawn_but_of_low_quality():
    points = torch.cat([ring().means.float(), torch.tensor([[math.nan, 0.0], [math.inf, 1.0]])])
    row = mode_coverage(points, ring())
    assert row["modes"] == 8
    assert row["high_quality"] == pytest.approx(0.8)
    assert math.isfinite(row["mode_std"])


def test_the_deviation_of_a_mode_is_that_of_its_points_a_coordinate():
    mixture = GaussianMixture(torch.ones(2), torch.tensor([[0.0, 0], [9.0, 0]]), torch.ones(2))
    cross = torch.tensor([[1.0, 0], [-1.0, 0], [0.0, 1.0], [0.0, -1.0]])
    points = torch.cat([cross + torch.tensor([0.5, 0.2]), torch.tensor([[9.0, 0.1]] * 5)])
    _, stds = mode_statistics(points, mixture)
    torch.testing.assert_close(
        stds, torch.tensor([math.sqrt(4 / 3 / 2), 0.0], dtype=torch.float64), rtol=0, atol=1e-7
    )
    row = mode_coverage(points, mixture)
    assert row["mode_std"] == pytest.approx(stds.mean().item())
    assert row["mode_std_min"] == pytest.approx(0, abs=1e-7)


def test_the_figures_do_not_depend_on_the_unit_of_length():
    points, _ = grid().sample(1_000, rng())
    spread = points * 1.3
    scale = grid().means[0, 0] / grid().standardised().means[0, 0]
    expected = mode_coverage(spread, grid())
    assert mode_coverage(spread / scale, grid().standardised()) == pytest.approx(expected, rel=1e-4)


def test_points_of_another_dimension_and_no_points_are_refused():
    with pytest.raises(ValueError, match=r"\[b 2\], got \(3, 5\)"):
        mode_coverage(torch.zeros(3, 5), ring())
    with pytest.raises(ValueError, match="at least one point"):
        mode_coverage(torch.zeros(0, 2), ring())


def test_the_mode_distance_counts_weights_widths_and_points_between_the_modes():
    mixture = ring()
    points, mode = mixture.sample(200_000, torch.Generator().manual_seed(0))
    assert mode_distance(points, mixture) < 0.01
    # Of the eight modes one is never hit: an eighth of the mass is elsewhere.
    assert mode_distance(points[mode > 0], mixture) == pytest.approx(1 / 8 * 0.9889, abs=0.01)
    lost = torch.cat([points, torch.zeros(200_000, 2)])
    assert mode_distance(lost, mixture) == pytest.approx(0.5, abs=0.01)
    # Within one deviation lie 1 - exp(-1/2) of a mode in the plane, and all of a narrow one.
    centres = mixture.means[mode]
    narrow = centres + 0.02 * (points - centres)
    assert mode_distance(narrow, mixture) == pytest.approx(math.exp(-0.5), abs=0.01)
    assert mode_distance(points * torch.nan, mixture) == pytest.approx(0.9889, abs=0.01)


def test_the_histogram_of_perfect_points_is_the_expected_one_and_both_sum_to_one():
    mixture = GaussianMixture(
        torch.tensor([1.0, 3.0]), torch.tensor([[0.0], [50.0]]), torch.ones(2)
    )
    observed, expected = mode_histogram(mixture.sample(400_000, torch.Generator())[0], mixture)
    within = torch.tensor([0.6827, 0.2718, 0.0428])  # the rule of 68, 95 and 99.7 %
    by_hand = torch.cat([within / 4, 3 * within / 4, torch.tensor([0.0027])]).double()
    torch.testing.assert_close(expected, by_hand, rtol=0, atol=1e-4)
    torch.testing.assert_close(observed, expected, rtol=0, atol=3e-3)
    assert float(observed.sum()) == pytest.approx(1)
    lost = mode_histogram(torch.tensor([[20.0], [math.nan]]), mixture)[0]
    assert lost.tolist() == [0] * 6 + [1]


def test_shares_are_of_the_nearest_mode_whatever_the_quality_and_of_finite_points():
    mixture = ring()
    x = torch.cat([mixture.means[:2], 3 * mixture.means[:1], torch.tensor([[math.nan, 0.0]])])
    assert mode_shares(x, mixture).tolist() == pytest.approx([2 / 3, 1 / 3, *[0] * 6])
    assert mode_shares(x[3:], mixture).tolist() == [0] * 8
