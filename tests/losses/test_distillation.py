"""What pulls at a student: against Gaussians, whose scores, ratios and divergences are known."""

import math

import pytest
import torch
from oracles import denoise, one_dimensional
from torch.autograd import grad

from hybridgen.losses.distillation import (
    distribution_matching,
    divergence_weight,
    matching_direction,
)

DATA = one_dimensional([1.0], [0.0], [1.0])
N = 200_000


def normal(count=N, seed=0):
    return torch.randn(count, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_ratio(student, x, sigma):
    return DATA.log_density(x, sigma) - student.log_density(x, sigma)


def directions(x, sigma, student, *, exchanged=False, weight=None):
    y = x + sigma * normal(len(x), seed=1)
    answers = [denoise(mixture, y, sigma) for mixture in (student, DATA)]
    follower, teacher = reversed(answers) if exchanged else answers
    weight = None if weight is None else divergence_weight(log_ratio(student, y, sigma), weight)
    return matching_direction(x, follower, teacher, weight), (x - teacher).abs()


def test_follower_and_teacher_differ_by_the_distance_of_their_means_shrunk_by_the_noise():
    m, u = 1.0, 0.8
    student = one_dimensional([1.0], [m], [1.0])
    direction, scale = directions(m + normal(), u, student)
    # In one dimension the mean over a sample's coordinates is its only one.
    assert float((direction * scale).mean()) == pytest.approx(m * u**2 / (1 + u**2), abs=1e-3)


def test_the_gradient_at_the_samples_is_the_direction_over_the_coordinates():
    x = torch.randn(5, 3, 4, requires_grad=True)
    direction = torch.randn(5, 3, 4)
    (gradient,) = grad(distribution_matching(x, direction).sum(), x)
    torch.testing.assert_close(gradient, direction / 12)


def test_a_direction_carries_no_gradient_and_is_finite_where_the_teacher_answers_the_sample():
    x = torch.ones(2, 3, requires_grad=True)
    direction = matching_direction(x, 2 * x, x)
    assert not direction.requires_grad
    assert torch.isfinite(direction).all()


@pytest.mark.parametrize("weight", [None, "reverse_kl", "forward_kl", "jensen_shannon"])
def test_a_linear_student_comes_to_rest_at_the_data(weight):
    """`x = a z + c` with exact scores: at the mean and deviation of the data, and nowhere else."""
    z, a, c = normal(2_000), 1.6, 0.7
    for step in range(400):
        x = a * z + c
        student = one_dimensional([1.0], [c], [abs(a)])
        pull, _ = directions(x, (0.3, 1.0, 3.0)[step % 3], student, weight=weight)
        a, c = a - 0.05 * float((pull * z).mean()), c - 0.05 * float(pull.mean())
    assert (a, c) == pytest.approx((1.0, 0.0), abs=0.06)


def test_with_follower_and_teacher_exchanged_it_runs_away():
    z, a, c = normal(2_000), 1.1, 0.1
    for _ in range(30):
        student = one_dimensional([1.0], [c], [abs(a)])
        pull, _ = directions(a * z + c, 1.0, student, exchanged=True)
        a, c = a - 0.05 * float((pull * z).mean()), c - 0.05 * float(pull.mean())
    assert math.hypot(a - 1, c) > 4 * math.hypot(0.1, 0.1)


def divergence(name, m, grid):
    """Of the data from N(m, 1.3^2), by quadrature."""
    student = one_dimensional([1.0], [m], [1.3])
    p, q = DATA.log_density(grid[:, None]), student.log_density(grid[:, None])
    if name == "reverse_kl":
        integrand = q.exp() * (q - p)
    elif name == "forward_kl":
        integrand = p.exp() * (p - q)
    else:
        middle = torch.logaddexp(p, q) - math.log(2)
        integrand = (p.exp() * (p - middle) + q.exp() * (q - middle)) / 2
    return float(torch.trapezoid(integrand, grid))


@pytest.mark.parametrize(
    ("name", "factor"), [("reverse_kl", 1.0), ("forward_kl", 1.0), ("jensen_shannon", 0.5)]
)
def test_weighted_score_differences_are_the_gradient_of_the_divergence(name, factor):
    """d D / d m = E_q[h(r) (score_q - score_p)] for a student N(m, s^2) that only moves; half of it
    for Jensen-Shannon's, whose h is r / (2 + 2 r) to the letter."""
    grid = torch.linspace(-14, 14, 40_001, dtype=torch.float64)
    for m in (0.5, 1.5):
        step = 1e-3
        slope = (divergence(name, m + step, grid) - divergence(name, m - step, grid)) / (2 * step)
        student = one_dimensional([1.0], [m], [1.3])
        x = grid[:, None]
        difference = (student.score(x, 0.0) - DATA.score(x, 0.0))[:, 0]
        logit, q = log_ratio(student, x, 0.0), student.log_density(x).exp()
        weight = divergence_weight(logit, name)
        # Over the grid its mean is 1; h itself is known where r is 1.
        at_one = {"reverse_kl": 1.0, "forward_kl": 1.0, "jensen_shannon": 0.5}[name]
        one = weight[logit.abs().argmin()] / at_one
        expected = factor * float(torch.trapezoid(q * weight / one * difference, grid))
        assert slope == pytest.approx(expected, rel=2e-3)


def test_weights_have_mean_one_and_no_gradient():
    logit = torch.randn(64, requires_grad=True)
    for name in ("reverse_kl", "forward_kl", "jensen_shannon"):
        weight = divergence_weight(logit, name)
        assert not weight.requires_grad
        assert float(weight.mean()) == pytest.approx(1.0, abs=1e-5)
    huge = divergence_weight(torch.tensor([300.0, 0.0]), "forward_kl")
    torch.testing.assert_close(huge, torch.tensor([2.0, 0.0]))
