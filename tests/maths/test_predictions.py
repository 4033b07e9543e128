"""Every prediction type against its closed form, and against diffusers' own formulas."""

import math

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridgen.maths.predictions import edm_from_clean, edm_to_clean, from_clean, to_clean
from hybridgen.maths.rng import rng_for

KINDS = ("epsilon", "v_prediction", "sample", "flow")
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
SIGMAS = st.floats(-3, 3).map(lambda power: 10**power)


def drawn(shape, seed=0):
    g = rng_for("predictions", seed)
    x0 = torch.randn(shape, generator=g, dtype=torch.float64)
    return x0, torch.randn(shape, generator=g, dtype=torch.float64)


def column(value, like):
    return torch.full((len(like),), value, dtype=torch.float64)


def preserving(sigma):
    return 1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma)


@settings(max_examples=50, deadline=None)
@given(SHAPES, SIGMAS)
def test_predictions_in_the_variance_preserving_scale_are_the_closed_forms(shape, sigma):
    x0, n = drawn(shape)
    alpha, s = preserving(sigma)
    expected = {
        "epsilon": n,
        "v_prediction": alpha * n - s * x0,
        "sample": x0,
        "flow": n - x0,
    }
    x, a, b = alpha * x0 + s * n, column(alpha, x0), column(s, x0)
    for kind in KINDS:
        torch.testing.assert_close(
            from_clean(kind, x0, x, a, b), expected[kind], rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(to_clean(kind, expected[kind], x, a, b), x0, rtol=0, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(SHAPES, SIGMAS)
def test_a_prediction_does_not_depend_on_the_scale_of_the_sample(shape, sigma):
    x0, n = drawn(shape)
    noisy = x0 + sigma * n
    t = sigma / (1 + sigma)
    alpha, s = preserving(sigma)
    for kind in KINDS:
        exploding = from_clean(kind, x0, noisy, column(1.0, x0), column(sigma, x0))
        for a, b in ((alpha, s), (1 - t, t)):
            other = from_clean(kind, x0, a * noisy, column(a, x0), column(b, x0))
            torch.testing.assert_close(other, exploding, rtol=1e-5, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(SHAPES, SIGMAS, st.sampled_from(KINDS), st.sampled_from(("vp", "ve", "flow")))
def test_to_clean_undoes_from_clean_for_any_estimate(shape, sigma, kind, scale):
    x0, x = drawn(shape, seed=1)  # an estimate that has nothing to do with x
    t = sigma / (1 + sigma)
    alpha, s = {"vp": preserving(sigma), "ve": (1.0, sigma), "flow": (1 - t, t)}[scale]
    a, b = column(alpha, x0), column(s, x0)
    back = to_clean(kind, from_clean(kind, x0, x, a, b), x, a, b)
    torch.testing.assert_close(back, x0, rtol=1e-7, atol=1e-7)


@settings(max_examples=50, deadline=None)
@given(SHAPES, SIGMAS, st.floats(0.1, 3.0), st.sampled_from(("epsilon", "v_prediction")))
def test_edm_outputs_are_what_the_edm_schedulers_of_diffusers_undo(shape, sigma, data_std, sign):
    x0, n = drawn(shape)
    x, level = x0 + sigma * n, column(sigma, x0)
    raw = edm_from_clean(x0, x, level, data_std, sign)
    scheduler = diffusers.EDMEulerScheduler(sigma_data=data_std, prediction_type=sign)
    theirs = scheduler.precondition_outputs(x, raw, sigma)
    torch.testing.assert_close(theirs, x0, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(edm_to_clean(raw, x, level, data_std, sign), x0, atol=1e-7, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999))
def test_velocity_equals_that_of_diffusers(t):
    scheduler = diffusers.DDPMScheduler()
    x0, n = drawn((1, 3))
    steps = torch.tensor([t])
    x = scheduler.add_noise(x0, n, steps)
    kept = scheduler.alphas_cumprod.double()[steps]
    ours = from_clean("v_prediction", x0, x, kept.sqrt(), (1 - kept).sqrt())
    torch.testing.assert_close(ours, scheduler.get_velocity(x0, n, steps), rtol=1e-5, atol=1e-5)


def test_pure_noise_is_a_level_like_any_other():
    x0, n = drawn((5, 2))
    zero, one = column(0.0, x0), column(1.0, x0)
    expected = {"epsilon": n, "v_prediction": -x0, "sample": x0, "flow": n - x0}
    for kind in KINDS:
        torch.testing.assert_close(from_clean(kind, x0, n, zero, one), expected[kind])
        if kind != "epsilon":
            torch.testing.assert_close(to_clean(kind, expected[kind], n, zero, one), x0)


def test_levels_may_differ_within_a_batch():
    x0, n = drawn((4, 2, 3))
    sigma = torch.tensor([0.01, 0.5, 3.0, 80.0], dtype=torch.float64)
    x = x0 + sigma[:, None, None] * n
    torch.testing.assert_close(from_clean("epsilon", x0, x, torch.ones_like(sigma), sigma), n)
    raw = edm_from_clean(x0, x, sigma, 0.5)
    for i in range(4):
        alone = edm_from_clean(x0[i : i + 1], x[i : i + 1], sigma[i : i + 1], 0.5)
        torch.testing.assert_close(raw[i : i + 1], alone)


def test_an_unknown_kind_is_refused_by_name():
    x, s = torch.zeros(1, 1), torch.ones(1)
    for translate in (from_clean, to_clean):
        with pytest.raises(ValueError, match="no prediction 'score'; there are epsilon, v_pred"):
            translate("score", x, x, s, s)
    with pytest.raises(ValueError, match="no EDM prediction 'sample'; there are epsilon, v_"):
        edm_from_clean(x, x, s, 0.5, "sample")
