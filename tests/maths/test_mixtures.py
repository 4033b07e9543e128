import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import CROSS_ENTROPIES, P, Q, denoise, jensen_shannon, one_dimensional

from hybridgen.maths.mixtures import (
    GaussianMixture,
    grid,
    reverse_kl,
    ring,
)

LEVELS = st.floats(0.0, 80.0)


def line(low, high, count=200_001):
    return torch.linspace(low, high, count, dtype=torch.float64)[:, None]


@settings(max_examples=15, deadline=None)
@given(LEVELS)
def test_the_density_integrates_to_one_at_every_noise_level(sigma):
    reach = 5 + 8 * sigma
    x = line(-reach, reach)
    area = torch.trapezoid(Q.log_density(x, sigma).exp(), x[:, 0])
    assert abs(float(area) - 1) < 1e-6


@settings(max_examples=25, deadline=None)
@given(LEVELS, st.integers(1, 5), st.integers(1, 4))
def test_the_score_is_the_gradient_of_the_log_density(sigma, dimension, modes):
    torch.manual_seed(modes)
    mixture = GaussianMixture(
        torch.rand(modes) + 0.1, torch.randn(modes, dimension), torch.rand(modes) + 0.1
    )
    x = torch.randn(6, dimension, dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(mixture.log_density(x, sigma).sum(), x)
    torch.testing.assert_close(mixture.score(x, sigma), exact)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 3.0])
def test_the_denoiser_is_the_posterior_mean(sigma):
    """Against the integral of x0 p(x0) N(x; x0, sigma^2), not against Tweedie's formula."""
    x0, x = line(-6, 6, 20_001), torch.tensor([[-2.2], [0.1], [1.3]], dtype=torch.float64)
    weight = Q.log_density(x0).exp()[:, None] * torch.exp(-((x.T - x0) ** 2) / (2 * sigma**2))
    mean = torch.trapezoid(weight * x0, x0[:, 0], dim=0) / torch.trapezoid(weight, x0[:, 0], dim=0)
    torch.testing.assert_close(denoise(Q, x, sigma)[:, 0], mean, rtol=1e-5, atol=1e-6)


def test_noise_levels_may_differ_within_a_batch():
    x, sigma = torch.randn(4, 1).double(), torch.tensor([0.1, 1.0, 5.0, 0.0]).double()
    together = P.score(x, sigma)
    alone = torch.cat([P.score(x[i : i + 1], float(sigma[i])) for i in range(4)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize(("sigma", "bce", "kl"), CROSS_ENTROPIES)
def test_the_density_ratio_reproduces_the_optimal_cross_entropies_of_fixture_a(sigma, bce, kl):
    x = line(-6 - 8 * sigma, 6 + 8 * sigma)
    p, q = P.log_density(x, sigma).exp(), Q.log_density(x, sigma).exp()
    logit = P.log_ratio(Q, x, sigma)
    softplus = torch.nn.functional.softplus
    loss = torch.trapezoid(p * softplus(-logit) + q * softplus(logit), x[:, 0])
    assert abs(float(loss) - bce) < 1e-4
    assert abs(float(torch.trapezoid(p * logit, x[:, 0])) - kl) < 6e-4


@pytest.mark.parametrize("sigma", [0.0, 0.7])
def test_samples_have_the_moments_of_the_mixture(sigma):
    generator = torch.Generator().manual_seed(0)
    x, component = Q.sample(200_000, generator)
    mean = float(Q.weights @ Q.means[:, 0])
    second = float(Q.weights @ (Q.means[:, 0] ** 2 + Q.stds**2))
    assert abs(float(x.mean()) - mean) < 0.02
    assert abs(float(x.square().mean()) - second) < 0.03
    assert abs(float((component == 0).float().mean()) - 0.8) < 0.005
    on_first = x[component == 0]
    assert abs(float(on_first.std()) - 0.45) < 0.005


def test_ring_and_grid_are_convention_a():
    circle, square = ring(), grid()
    torch.testing.assert_close(circle.means.norm(dim=1), torch.ones(8).double())
    assert sorted({round(v, 6) for v in square.means.flatten().tolist()}) == [-4, -2, 0, 2, 4]
    assert (circle.components, square.components) == (8, 25)
    assert float(circle.stds[0]) == pytest.approx(0.01)
    assert float(square.stds[0]) == pytest.approx(0.05)


@pytest.mark.parametrize(("mixture", "scale"), [(ring(), 0.7071), (grid(), 2.83)])
def test_standardising_divides_by_the_scale_of_the_data(mixture, scale):
    standard = mixture.standardised()
    ratio = float(mixture.stds[0] / standard.stds[0])
    assert ratio == pytest.approx(scale, rel=2e-3)
    x, _ = standard.sample(50_000, torch.Generator().manual_seed(0))
    assert float(x.square().mean()) == pytest.approx(1, rel=0.02)
    torch.testing.assert_close(mixture.means / ratio, standard.means)


@pytest.mark.parametrize(("kept", "of", "js"), [(1, 8, 0.497), (4, 8, 0.216), (20, 25, 0.075)])
def test_keeping_some_of_equal_modes_costs_the_known_divergences(kept, of, js):
    q = torch.cat([torch.ones(kept), torch.zeros(of - kept)])
    assert reverse_kl(q) == pytest.approx(math.log(of / kept))
    assert jensen_shannon(torch.ones(of), q) == pytest.approx(js, abs=5e-4)


def test_divergences_know_their_extremes():
    assert reverse_kl(torch.ones(7)) == pytest.approx(0, abs=1e-12)
    assert reverse_kl(torch.zeros(7)) == math.inf
    assert jensen_shannon(torch.tensor([1, 0]), torch.tensor([0, 1])) == pytest.approx(math.log(2))
    p, q = torch.tensor([1, 2, 3]), torch.tensor([3, 2, 2])
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p))


@pytest.mark.parametrize(
    ("mu", "value"), [(0.0, -1.3863), (0.5, -1.3257), (1.0, -1.1635), (2.0, -0.7126)]
)
def test_the_games_value_between_two_gaussians_is_the_lectures(mu, value):
    p, q = one_dimensional([1.0], [0.0], [1.0]), one_dimensional([1.0], [mu], [1.0])
    x = line(-10, 10 + mu)
    logit = p.log_ratio(q, x)
    log_sigmoid = torch.nn.functional.logsigmoid
    integrand = p.log_density(x).exp() * log_sigmoid(logit)
    integrand = integrand + q.log_density(x).exp() * log_sigmoid(-logit)
    assert float(torch.trapezoid(integrand, x[:, 0])) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize(
    "parts",
    [
        (torch.ones(2), torch.zeros(3, 1), torch.ones(3)),
        (torch.ones(2), torch.zeros(2), torch.ones(2)),
        (torch.tensor([1.0, 0.0]), torch.zeros(2, 1), torch.ones(2)),
        (torch.ones(2), torch.zeros(2, 1), torch.tensor([1.0, -1.0])),
    ],
)
def test_impossible_mixtures_are_refused(parts):
    with pytest.raises(ValueError, match=r"expected weights|positive"):
        GaussianMixture(*parts)


def test_points_of_another_dimension_are_refused():
    with pytest.raises(ValueError, match=r"expected points \[b 2\], got \(3, 5\)"):
        ring().log_density(torch.zeros(3, 5))
