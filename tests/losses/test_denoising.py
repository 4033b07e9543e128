"""The denoising loss against closed forms and against the exact denoiser of a mixture."""

import pytest
import torch
from oracles import P, denoise, draws

from hybridgen.losses.denoising import denoising_loss, noised
from hybridgen.maths.noise import scalings
from hybridgen.maths.rng import rng_for

LEVELS = [0.002, 0.05, 0.3, 1.0, 5.0, 80.0]


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_a_network_that_answers_zero_has_loss_one_at_every_level(std):
    """Data and noise here are orthogonal and of exactly their deviations."""
    sigma = torch.tensor(LEVELS, dtype=torch.float64)
    x0 = std * torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]], dtype=torch.float64).expand(6, 2, 2)
    noise = torch.tensor([[[1.0, -1.0], [1.0, -1.0]]], dtype=torch.float64).expand(6, 2, 2)
    estimate = torch.einsum("b,b...->b...", scalings(sigma, std).skip, noised(x0, sigma, noise))
    loss = denoising_loss(estimate, x0, sigma, std)
    torch.testing.assert_close(loss, torch.ones_like(loss))


def test_the_loss_is_the_weighted_mean_square_of_each_sample():
    estimate = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    x0 = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
    loss = denoising_loss(estimate, x0, torch.tensor([1.0, 2.0]), 0.5)
    expected = [(1 + 0.25) / 0.25 * 2.5, (4 + 0.25) / 1.0 * 5.0]
    assert loss.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 2.0, 10.0])
def test_its_minimum_is_the_posterior_mean(sigma):
    count = 100_000
    x0 = draws(P, count)
    noise = torch.randn(count, 1, generator=rng_for("noise"), dtype=torch.float64)
    level = torch.full((count,), sigma, dtype=torch.float64)
    x = noised(x0, level, noise)
    exact = denoise(P, x, level)
    for bump in (torch.ones_like(x), x, x.sin(), x.sign(), x**2):
        amount = torch.zeros((), dtype=torch.float64, requires_grad=True)

        def loss(amount, bump=bump):
            return denoising_loss(exact + amount * bump, x0, level, 2.0)

        each = loss(amount)
        (slope,) = torch.autograd.grad(each.mean(), amount)
        # The slope is the mean of `2 weight (exact - x0) bump`: zero but for chance.
        summands = 2 * (1 / (sigma * 2.0) ** 2 * (sigma**2 + 4)) * ((exact - x0) * bump)
        chance = float(summands.std()) / count**0.5
        torch.testing.assert_close(slope, summands.mean())
        assert abs(float(slope)) < 4 * chance
        size = 20 * chance / float(2 * each.mean().detach() / (exact - x0).square().mean())
        for sign in (1, -1):
            step = sign * size / float(bump.square().mean())
            assert loss(torch.tensor(step)).mean() > each.mean()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_the_error_is_computed_in_float32_at_least(given, expected):
    x0 = torch.tensor([[0.5, -1.0], [0.25, 2.0], [-0.5, 0.0]], dtype=given)
    loss = denoising_loss(x0 + 0.5, x0, torch.ones(3), 1.0)
    assert loss.dtype == expected and loss.shape == (3,)
    torch.testing.assert_close(loss.float(), torch.full((3,), 0.5), rtol=1e-6, atol=0)


def test_estimates_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"one shape, got \[4, 1\] and \[4\]"):
        denoising_loss(torch.zeros(4, 1), torch.zeros(4), torch.ones(4), 1.0)


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)])
def test_every_sample_is_noised_to_its_own_level(shape):
    x0, noise, sigma = torch.randn(3, *shape), torch.randn(3, *shape), torch.tensor([0.0, 1, 9])
    for i in range(3):
        torch.testing.assert_close(noised(x0, sigma, noise)[i], x0[i] + sigma[i] * noise[i])
    assert noised(x0.bfloat16(), sigma, noise.bfloat16()).dtype == torch.bfloat16
