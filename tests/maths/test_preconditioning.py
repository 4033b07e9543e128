"""EDM's scalings against what they are for, and against diffusers' own."""

import pytest
import torch
from diffusers import EDMEulerScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridgen.maths.mixtures import one_dimensional
from hybridgen.maths.preconditioning import clamp_level, loss_weight, scalings

LEVELS, STDS = st.floats(1e-3, 200.0), st.floats(0.05, 5.0)


def at(sigma):
    return torch.tensor([sigma], dtype=torch.float64)


@settings(max_examples=100, deadline=None)
@given(LEVELS, STDS)
def test_what_the_network_sees_and_what_it_should_answer_have_unit_variance(sigma, std):
    """For data of deviation `std`, independent of the noise."""
    skip, out, inner, _ = scalings(at(sigma), std)
    seen = inner**2 * (std**2 + sigma**2)
    wanted = ((1 - skip) ** 2 * std**2 + skip**2 * sigma**2) / out**2
    torch.testing.assert_close(seen, torch.ones_like(seen))
    torch.testing.assert_close(wanted, torch.ones_like(wanted))


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
    exact = one_dimensional([1.0], [0.0], [std]).denoise(x, sigma)
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
