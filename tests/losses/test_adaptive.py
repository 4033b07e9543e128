"""The adaptive weight against its closed form; see also test_importing_the_loss.py."""

import pytest
import torch

from hybridgen import adaptive_weight


@pytest.fixture
def pieces():
    """A linear last layer `[3 4]`, and what the losses do to its two outputs' three entries."""
    generator = torch.Generator().manual_seed(0)
    h, a, b = (torch.randn(2, n, generator=generator, dtype=torch.float64) for n in (4, 3, 3))
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    return weight, h, a, b


def test_on_a_linear_last_layer_it_is_the_ratio_of_the_norms_of_two_outer_products(pieces):
    weight, h, a, b = pieces
    out = h @ weight.T
    found = adaptive_weight((out * a).sum(), 0.01 * (out * b).sum(), weight)
    expected = (a.T @ h).norm() / (0.01 * (b.T @ h).norm() + 1e-4)
    assert not found.requires_grad
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_the_gradients_of_shares_are_averaged_before_their_norms_are_taken(pieces):
    weight, h, a, b = pieces
    shares = [adaptive_parts(weight, h[i : i + 1], a[i : i + 1], b[i : i + 1]) for i in (0, 1)]
    others = iter([torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in shares[1]])
    found = adaptive_weight(*shares[0], weight, mean=lambda gradient: (gradient + next(others)) / 2)
    whole = adaptive_weight(*(part / 2 for part in adaptive_parts(weight, h, a, b)), weight)
    assert float(found) == pytest.approx(float(whole), rel=1e-6)


def adaptive_parts(weight, h, a, b):
    out = h @ weight.T
    return (out * a).sum(), (out * b).sum()


@pytest.mark.parametrize("scale", [1e2, 1e6])
def test_the_weighted_game_is_the_same_however_the_game_is_scaled(pieces, scale):
    weight, h, a, b = pieces
    main, game = adaptive_parts(weight, h, a, b)
    once = adaptive_weight(main, 10 * game, weight) * 10 * game
    scaled = adaptive_weight(main, scale * game, weight, limit=1e9) * scale * game
    assert float(scaled.detach()) == pytest.approx(float(once.detach()), rel=1e-4)
