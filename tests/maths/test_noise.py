"""Noise levels against their closed forms."""

import math

import pytest
import torch
from diffusers import EDMEulerScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import denoise, one_dimensional

from hybridgen.maths.noise import clamp_level, karras_sigmas, like, loss_weight, scalings
from hybridgen.training.settings import LogNormal

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
    with pytest.raises(ValueError, match=r"(mean|std) must be a number in"):
        LogNormal(**wrong)


def test_levels_are_shaped_to_multiply_points_and_images():
    sigma = torch.tensor([1.0, 2.0])
    assert like(sigma, torch.zeros(2, 3)).shape == (2, 1)
    assert like(sigma, torch.zeros(2, 3, 4, 4)).shape == (2, 1, 1, 1)
    assert like(sigma, torch.zeros(2)).shape == (2,)


LEVELS, STDS = st.floats(1e-3, 200.0), st.floats(0.05, 5.0)


def at(sigma):
    return torch.tensor([sigma], dtype=torch.float64)


@settings(max_examples=100, deadline=None)
@given(LEVELS, STDS)
def test_what_the_network_sees_and_what_it_should_answer_have_unit_variance(sigma, std):
    """For data of deviation `std`, independent of the noise."""
    skip, out, inner, _ = scalings(at(sigma), std)
    seen = inner**2 * (std**2 + sigma**2)
    expected_square = ((1 - skip) ** 2 * std**2 + skip**2 * sigma**2) / out**2
    torch.testing.assert_close(seen, torch.ones_like(seen))
    torch.testing.assert_close(expected_square, torch.ones_like(expected_square))


@settings(max_examples=100, deadline=None)
@given(LEVELS, STDS, st.sampled_from([0.9, 1.1]))
def test_no_other_skip_leaves_the_network_less_to_do(sigma, std, factor):
    skip, out, *_ = scalings(at(sigma), std)

    def left(skip):
        return (1 - skip) ** 2 * std**2 + skip**2 * sigma**2

    torch.testing.assert_close(left(skip), out**2)
    assert left(factor * skip) > left(skip)


@settings(max_examples=100, deadline=None)
@given(LEVELS, STDS)
def test_the_loss_weight_undoes_the_output_scale(sigma, std):
    product = loss_weight(at(sigma), std) * scalings(at(sigma), std).out ** 2
    torch.testing.assert_close(product, torch.ones_like(product))


@settings(max_examples=50, deadline=None)
@given(LEVELS, STDS)
def test_the_skip_alone_denoises_a_gaussian(sigma, std):
    x = torch.linspace(-3, 3, 7, dtype=torch.float64).unsqueeze(1)
    exact = denoise(one_dimensional([1.0], [0.0], [std]), x, sigma)
    torch.testing.assert_close(scalings(at(sigma), std).skip * x, exact, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("std", [0.5, 1.3])
def test_the_scalings_are_those_of_diffusers(std):
    scheduler = EDMEulerScheduler(sigma_data=std)
    x, raw = torch.randn(2, 5, dtype=torch.float64)
    for sigma in (0.002, 0.3, 1.0, 80.0):
        c = scalings(at(sigma), std)
        torch.testing.assert_close(c.inner * x, scheduler.precondition_inputs(x, sigma))
        denoised = scheduler.precondition_outputs(x, raw, sigma)
        torch.testing.assert_close(c.skip * x + c.out * raw, denoised)
        noise = scheduler.precondition_noise(sigma).double()
        torch.testing.assert_close(c.noise, noise.reshape(1), rtol=1e-6, atol=1e-6)


def test_every_sample_has_its_own_scalings():
    sigma = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    together, alone = scalings(sigma, 0.5), [scalings(s.reshape(1), 0.5) for s in sigma]
    for i, name in enumerate(together._fields):
        assert together[i].shape == (3,), name
        torch.testing.assert_close(together[i], torch.cat([one[i] for one in alone]))
    assert loss_weight(sigma, 0.5).shape == (3,)


def test_a_clamped_level_has_a_finite_logarithm_and_changes_nothing_that_can_be_seen():
    levels = clamp_level(torch.tensor([0.0, 1e-5, 0.002, 80.0]))
    assert levels.tolist() == pytest.approx([1e-5, 1e-5, 0.002, 80.0])
    c = scalings(levels, 0.5)
    assert all(bool(part.isfinite().all()) for part in c)
    assert float(c.skip[0]) == 1.0
    assert 0 < float(c.out[0]) < 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", [1e30, 1e300, math.inf])
def test_without_any_data_left_the_network_alone_answers(dtype, sigma):
    level = torch.tensor([sigma], dtype=dtype)
    skip, out, inner, _ = (float(part) for part in scalings(level, 0.4))
    assert (skip, out) == pytest.approx((0, 0.4)) and 0 <= inner <= 1.01e-30
    assert float(loss_weight(level, 0.4)) == pytest.approx(1 / 0.4**2)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 5.0])
def test_of_data_that_is_not_centred_the_root_mean_square_is_meant(sigma):
    x0 = -0.6 + 0.5 * torch.randn(200_000, generator=torch.Generator().manual_seed(0)).double()
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1)).double()
    x, size = x0 + sigma * noise, math.sqrt(0.6**2 + 0.5**2)
    skip, out, inner, _ = scalings(at(sigma), size)
    for seen in (inner * x, (x0 - skip * x) / out):
        assert float(seen.square().mean()) == pytest.approx(1, abs=0.02)
