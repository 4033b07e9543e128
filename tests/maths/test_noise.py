"""Noise levels against their closed forms."""

import math

import pytest
import torch
from diffusers import EDMEulerScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridgen.maths.noise import LogNormal, karras_sigmas, like

SIZES = {"steps": 18, "low": 0.002, "high": 80.0, "rho": 7.0}


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 300), st.floats(1e-3, 0.5), st.floats(1.0, 200.0), st.floats(1.0, 10.0))
def test_the_grid_falls_strictly_from_high_to_low_and_then_to_zero(steps, low, high, rho):
    sigmas = karras_sigmas(steps, low, high, rho)
    assert sigmas.shape == (steps + 1,)
    assert sigmas.dtype == torch.float64
    assert bool((sigmas.diff() < 0).all())
    assert float(sigmas[0]) == pytest.approx(high)
    assert float(sigmas[-2]) == pytest.approx(low)
    assert float(sigmas[-1]) == 0


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_levels_are_even_steps_in_the_rho_th_root(rho):
    roots = karras_sigmas(11, 0.01, 10.0, rho)[:-1] ** (1 / rho)
    steps = torch.full((10,), (0.01 ** (1 / rho) - 10 ** (1 / rho)) / 10, dtype=torch.float64)
    torch.testing.assert_close(roots.diff(), steps, rtol=1e-9, atol=1e-12)


def test_the_levels_of_eighteen_steps_are_those_of_diffusers():
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    scheduler.set_timesteps(18)
    torch.testing.assert_close(karras_sigmas(18), scheduler.sigmas.double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 1},
        {"low": 0.0},
        {"low": 80.0},
        {"low": 90.0},
        {"high": math.inf},
        {"high": math.nan},
        {"rho": 0.0},
        {"rho": math.nan},
    ],
)
def test_impossible_grids_are_refused_with_what_came(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"need steps >= 2.*{name}={value}"):
        karras_sigmas(**(SIZES | wrong))


def test_training_levels_are_log_normal():
    normal = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).double()
    log_sigma = LogNormal(mean=-1.2, std=1.2)(normal).log()
    torch.testing.assert_close(log_sigma, -1.2 + 1.2 * normal)
    assert float(LogNormal()(torch.zeros(1))) == pytest.approx(math.exp(-1.2))


@pytest.mark.parametrize("wrong", [{"mean": math.nan}, {"std": 0.0}, {"std": math.inf}])
def test_impossible_distributions_of_levels_are_refused(wrong):
    with pytest.raises(ValueError, match="finite mean and a positive std"):
        LogNormal(**wrong)


def test_levels_are_shaped_to_multiply_points_and_images():
    sigma = torch.tensor([1.0, 2.0])
    assert like(sigma, torch.zeros(2, 3)).shape == (2, 1)
    assert like(sigma, torch.zeros(2, 3, 4, 4)).shape == (2, 1, 1, 1)
    assert like(sigma, torch.zeros(2)).shape == (2,)
