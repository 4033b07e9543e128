"""Extrapolation: closed forms of Gaussians, and of the geometry of a difference."""

import math

import pytest
import torch

from hybridgen.maths.noise import karras_sigmas
from hybridgen.sampling.extrapolation import autoguidance
from hybridgen.sampling.samplers import Heun

SIGMA = torch.tensor([0.1, 0.7, 3.0], dtype=torch.float64)
X = torch.tensor([[1.0, -2.0], [0.3, 0.4], [5.0, 1.0]], dtype=torch.float64)


def of_gaussian(std):
    def denoiser(x, sigma, label=None):
        return x * std**2 / (std**2 + sigma[:, None] ** 2)

    return denoiser


def test_away_from_a_broader_gaussian_samples_are_narrower_as_the_formula_says():
    """Scores add up: `w / (b^2 + s^2) - (w - 1) / (a^2 + s^2)` is the precision at level s, and
    `d log x / d log s = s^2 * precision` leads from the top level down to 0."""
    a, b, w = 2.0, 1.0, 1.5
    guided = autoguidance(of_gaussian(b), of_gaussian(a), w)
    precision = w / (b**2 + SIGMA**2) - (w - 1) / (a**2 + SIGMA**2)
    expected = X * (1 - SIGMA**2 * precision)[:, None]
    torch.testing.assert_close(guided(X, SIGMA), expected)
    noise = torch.randn(50, 2, dtype=torch.float64)
    x = Heun(guided, (2,), karras_sigmas(400))(noise)
    # The integral of s (w / (b^2 + s^2) - (w - 1) / (a^2 + s^2)) from 0 to 80.
    integral = w / 2 * math.log1p(80**2 / b**2) - (w - 1) / 2 * math.log1p(80**2 / a**2)
    torch.testing.assert_close(x, 80 * noise * math.exp(-integral), rtol=1e-3, atol=0)


def test_a_window_leaves_the_denoiser_alone_outside():
    guided = autoguidance(of_gaussian(1.0), of_gaussian(2.0), 3.0, window=(0.7, 3.0))
    plain, everywhere = of_gaussian(1.0), autoguidance(of_gaussian(1.0), of_gaussian(2.0), 3.0)
    got = guided(X, SIGMA)
    torch.testing.assert_close(got[::2], plain(X, SIGMA)[::2], rtol=0, atol=0)
    torch.testing.assert_close(got[1], everywhere(X, SIGMA)[1])
    assert guided.at(3.0) is guided.denoiser and guided.at(0.7) is not guided.denoiser


def test_a_weaker_model_that_fails_outside_the_window_does_no_harm():
    def broken(x, sigma, label=None):
        return torch.where(sigma[:, None] < 1, x / 2, math.nan)

    got = autoguidance(of_gaussian(1.0), broken, 3.0, window=(0.05, 1.0))(X, SIGMA)
    torch.testing.assert_close(got[2], of_gaussian(1.0)(X, SIGMA)[2], rtol=0, atol=0)
    assert bool(got.isfinite().all())


def constant(*value):
    return lambda x, sigma, label=None: torch.tensor([value], dtype=x.dtype).expand_as(x)


def test_a_difference_is_cut_to_a_norm_and_loses_what_is_parallel_to_the_estimate():
    """Estimate (4, 3), the weaker one (-1, 3): the difference (5, 0) is (3.2, 2.4) along and
    (1.8, -2.4) across, and a norm of 2.5 halves it."""
    for norm, parallel, expected in (
        (None, 1.0, (14.0, 3.0)),
        (None, 0.0, (4 + 2 * 1.8, 3 - 2 * 2.4)),
        (None, 0.5, (4 + 2 * 3.4, 3 - 2 * 1.2)),
        (2.5, 1.0, (9.0, 3.0)),
        (2.5, 0.0, (4 + 1.8, 3 - 2.4)),
        (7.0, 1.0, (14.0, 3.0)),
    ):
        options = {"norm": norm, "parallel": parallel}
        guided = autoguidance(constant(4, 3), constant(-1, 3), 3.0, **options)
        torch.testing.assert_close(guided(X, SIGMA)[0], torch.tensor(expected).to(X))


def test_what_cannot_work_is_refused():
    for options, sentence in (
        ({"norm": 0.0}, "norm must be positive"),
        ({"parallel": math.nan}, "parallel a finite share"),
        ({"window": (1.0, 1.0)}, "a window is"),
    ):
        with pytest.raises(ValueError, match=sentence):
            autoguidance(of_gaussian(1.0), of_gaussian(2.0), 1.5, **options)
    with pytest.raises(ValueError, match="a guidance scale is a finite number"):
        autoguidance(of_gaussian(1.0), of_gaussian(2.0), math.inf)
