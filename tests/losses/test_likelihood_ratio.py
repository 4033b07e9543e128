"""The loss of fine-tuning by the likelihood ratio, on Gaussians, where ratios are known.

The exact denoiser of N(m, v) is `(v x + m sigma^2) / (v + sigma^2)`.
"""

import math

import pytest
import torch

from hybridgen.losses.denoising import noised
from hybridgen.losses.distillation import direct_discriminative_loss, log_likelihood_ratio
from hybridgen.training.settings import LogUniform

WIDE = LogUniform(low=1e-3, high=1e3)


def log_density(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - std.log()


def estimates(tuned, start, x0, noise=WIDE, count=600):
    """The ratio `[n]` at `x0 [n 1]`, a mean over levels and over the noises 1 and -1, whose moments
    up to the second are those of the normal distribution: all that linear denoisers need."""
    level = noise.quantiles(count).double().repeat_interleave(2 * len(x0))
    x0 = x0.repeat(2 * count, 1)
    signs = torch.tensor([-1.0, 1.0]).double().repeat_interleave(len(x0) // count // 2)
    x = noised(x0, level, signs.repeat(count)[:, None])
    answers = (
        (std**2 * x + mean * level[:, None] ** 2) / (std**2 + level[:, None] ** 2)
        for mean, std in (tuned, start)
    )
    ratio = log_likelihood_ratio(*answers, x0, level, noise.density)
    return ratio.unflatten(0, (2 * count, -1)).mean(0)


@pytest.mark.parametrize("tuned", [(0.0, 1.0), (-0.5, 2.0), (1.0, 1.5)])
def test_the_mean_ratio_of_exact_denoisers_is_that_of_their_densities(tuned):
    start, x0 = (1.0, 1.5), torch.linspace(-3, 3, 7, dtype=torch.float64)
    exact = log_density(x0, *map(torch.tensor, tuned)) - log_density(x0, *map(torch.tensor, start))
    torch.testing.assert_close(estimates(tuned, start, x0[:, None]), exact, rtol=0, atol=2e-3)


def test_the_ratio_of_many_coordinates_is_the_sum_of_theirs():
    tuned, start, x0 = torch.randn(3, 5, 2, 3, 3, dtype=torch.float64)
    sigma = torch.rand(5, dtype=torch.float64) + 0.1
    whole = log_likelihood_ratio(tuned, start, x0, sigma, 0.5)
    parts = [
        log_likelihood_ratio(*(x.flatten(1)[:, [i]] for x in (tuned, start, x0)), sigma, 0.5)
        for i in range(18)
    ]
    torch.testing.assert_close(whole, torch.stack(parts).sum(0))


def test_equal_answers_have_ratio_zero_and_one_that_is_right_gains_the_others_error():
    x0, sigma = torch.randn(4, 3), torch.full((4,), 0.5)
    answer = torch.randn(4, 3)
    assert not log_likelihood_ratio(answer, answer, x0, sigma, 2.0).any()
    ratio = log_likelihood_ratio(x0, answer, x0, sigma, 2.0)
    torch.testing.assert_close(ratio, (answer - x0).square().sum(1) / 0.5)


def test_answers_in_half_precision_are_compared_in_full():
    x0 = torch.randn(4, 3)
    answers = (torch.randn(2, 4, 3) * 1e3).bfloat16()
    ratio = log_likelihood_ratio(*answers, x0, torch.ones(4), 1.0)
    exact = log_likelihood_ratio(*answers.double(), x0.double(), torch.ones(4).double(), 1.0)
    assert ratio.dtype == torch.float32
    torch.testing.assert_close(ratio, exact.float())


def test_answers_of_another_shape_are_refused():
    x = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"one shape, got \[4, 3\], \[4\], \[4, 3\]"):
        log_likelihood_ratio(x, x[:, 0], x, torch.ones(4), 1.0)


def expectation(function, mean, std):
    """Of a function of `x ~ N(mean, std^2)`, by a grid that is fine enough for any smooth one."""
    z = torch.linspace(-8, 8, 801, dtype=torch.float64)
    weight = torch.softmax(-0.5 * z**2, 0)
    return (weight * function(mean + std * z)).sum()


def tuned(steps=60, **weights):
    """Mean and deviation of the Gaussian that is best beside N(1, 1.5^2), of data N(0, 1)."""
    start = torch.tensor(1.0).double(), torch.tensor(1.5).double()
    mean, log_std = (x.clone().requires_grad_(True) for x in (start[0], start[1].log()))
    optimizer = torch.optim.LBFGS([mean, log_std], max_iter=steps, line_search_fn="strong_wolfe")

    def ratio(x):
        return log_density(x, mean, log_std.exp()) - log_density(x, *start)

    def loss():
        optimizer.zero_grad()
        zero = torch.zeros((), dtype=torch.float64)

        def on_real(x):
            return direct_discriminative_loss(ratio(x), zero - math.inf, **weights)

        def on_fake(x):
            return direct_discriminative_loss(zero + math.inf, ratio(x), **weights)

        value = expectation(on_real, 0.0, 1.0) + expectation(on_fake, *start)
        value.backward()
        return value

    optimizer.step(loss)
    return float(mean.detach()), float(log_std.exp().detach())


def test_a_game_of_equal_weights_ends_in_the_data():
    assert tuned() == pytest.approx((0.0, 1.0), abs=1e-4)


def test_a_blunt_game_overshoots():
    assert tuned(sharpness=0.5) == pytest.approx((-0.22, 0.83), abs=0.01)


def test_heavy_samples_of_the_start_drive_it_far_beyond_the_data():
    assert tuned(fake_weight=4.0) == pytest.approx((-3.61, 2.80), abs=0.01)
