import pytest
import torch

from hybridgen.maths.penalties import (
    interpolates,
    one_centred,
    squared_gradient_norm,
    squared_slope,
)

W = torch.tensor([3.0, -4.0])


@pytest.mark.parametrize("batch", [1, 16, 256])
def test_the_penalty_of_a_linear_discriminator_is_its_squared_weight_at_any_batch_size(batch):
    x = torch.randn(batch, 2, requires_grad=True)
    torch.testing.assert_close(squared_gradient_norm(x @ W, x), torch.full((batch,), 25.0))


def test_the_squared_gradient_is_summed_over_all_coordinates_of_an_image():
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 4, 4, dtype=torch.float64)
    logits = (weight * x.square()).flatten(1).sum(1)
    exact = (2 * weight * x).square().flatten(1).sum(1)
    torch.testing.assert_close(squared_gradient_norm(logits, x), exact)


def test_the_penalty_can_be_differentiated_once_more():
    w = torch.tensor([3.0, -4.0], requires_grad=True)
    x = torch.randn(5, 2, requires_grad=True)
    squared_gradient_norm(x @ w, x).mean().backward()
    torch.testing.assert_close(w.grad, 2 * w.detach())


def test_the_mean_squared_slope_of_a_linear_discriminator_is_its_squared_weight():
    generator = torch.Generator().manual_seed(0)
    n = torch.randn(200_000, 2, generator=generator, dtype=torch.float64)
    w, x, step = W.double(), torch.zeros(1, 2, dtype=torch.float64), 0.1
    slopes = squared_slope(x @ w, (x + step * n) @ w, step)
    # (w n)^2 has mean |w|^2 and standard deviation sqrt(2) |w|^2.
    assert abs(float(slopes.mean()) - 25) < 4 * 25 * 2**0.5 / 200_000**0.5


def test_the_squared_slope_approaches_the_directional_derivative():
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    n = torch.randn(6, 3, dtype=torch.float64)

    def discriminator(x):
        return x.sin().sum(1)

    exact = ((x.cos() * n).sum(1)).square()
    estimate = squared_slope(discriminator(x), discriminator(x + 1e-6 * n), 1e-6)
    torch.testing.assert_close(estimate, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0])
def test_the_one_centred_penalty_of_a_linear_discriminator(scale):
    w = torch.tensor([0.6, -0.8]) * scale
    w.requires_grad_(True)
    x = torch.randn(4, 2, requires_grad=True)
    loss = one_centred(x @ w, x)
    torch.testing.assert_close(loss, torch.full((4,), (scale - 1) ** 2), atol=3e-6, rtol=0)
    (gradient,) = torch.autograd.grad(loss.sum(), w)
    assert torch.isfinite(gradient).all()


def test_interpolates_lie_between_real_at_one_and_fake_at_zero():
    real, fake = torch.ones(3, 1, 2, 2), torch.zeros(3, 1, 2, 2)
    mix = torch.tensor([0.0, 0.25, 1.0])
    torch.testing.assert_close(interpolates(real, fake, mix)[:, 0, 0, 0], mix)
