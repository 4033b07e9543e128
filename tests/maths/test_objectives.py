import math

import pytest
import torch
from oracles import jensen_shannon

from hybridgen.maths import objectives

GAMES = objectives.by_name()

# Written out by hand from METHODS' table, on plain numbers: (discriminator, player).
BY_HAND = {
    "minimax": (lambda r, f: sp(-r) + sp(f), lambda f, r: -sp(f)),
    "non_saturating": (lambda r, f: sp(-r) + sp(f), lambda f, r: sp(-f)),
    "hinge": (lambda r, f: max(0, 1 - r) + max(0, 1 + f), lambda f, r: -f),
    "least_squares": (lambda r, f: (r - 1) ** 2 + f**2, lambda f, r: (f - 1) ** 2),
    "wasserstein": (lambda r, f: f - r, lambda f, r: -f),
    "relativistic": (lambda r, f: sp(f - r), lambda f, r: sp(r - f)),
}


def sp(x):
    return math.log1p(math.exp(x))


def test_all_six_games_are_there():
    assert set(GAMES) == set(BY_HAND)


@pytest.mark.parametrize("name", BY_HAND)
def test_every_game_is_the_published_formula(name):
    real = torch.tensor([-2.5, 0.3, 1.7, 0.0], dtype=torch.float64)
    fake = torch.tensor([0.4, -1.2, 3.0, -0.5], dtype=torch.float64)
    discriminator, generator = BY_HAND[name]
    game = objectives.objective(name)
    on_discriminator = [
        discriminator(r, f) for r, f in zip(real.tolist(), fake.tolist(), strict=True)
    ]
    on_player = [generator(f, r) for r, f in zip(real.tolist(), fake.tolist(), strict=True)]
    torch.testing.assert_close(sum(game.discriminator(real, fake)).tolist(), on_discriminator)
    torch.testing.assert_close(game.generator(fake, real).tolist(), on_player)


@pytest.mark.parametrize("name", BY_HAND)
def test_the_discriminator_wants_real_up_and_fake_down_and_the_player_wants_fake_up(name):
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    game = GAMES[name]
    up, down = torch.autograd.grad(
        sum(game.discriminator(real, fake)).sum(), (real, fake), allow_unused=True
    )
    assert (up < 0).all()
    # The least-squares game asks for fake logits of 0, where they are.
    assert (down >= 0).all()
    (generator,) = torch.autograd.grad(game.generator(fake, real).sum(), fake)
    assert (generator < 0).all()


@pytest.mark.parametrize("name", BY_HAND)
def test_flipped_labels_are_the_mean_over_all_that_may_be_exchanged(name):
    """Each pair's real and fake logit exchange their roles with the share as probability."""
    real = torch.tensor([-2.5, 0.3, 1.7, 0.0], dtype=torch.float64)
    fake = torch.tensor([0.4, -1.2, 3.0, -0.5], dtype=torch.float64)
    discriminator, _ = BY_HAND[name]
    game = objectives.flipped(GAMES[name], 0.3)
    pairs = list(zip(real.tolist(), fake.tolist(), strict=True))
    expected = [0.7 * discriminator(r, f) + 0.3 * discriminator(f, r) for r, f in pairs]
    torch.testing.assert_close(sum(game.discriminator(real, fake)).tolist(), expected)
    assert game.generator(fake, real).tolist() == GAMES[name].generator(fake, real).tolist()


def test_labels_that_would_say_nothing_are_refused():
    with pytest.raises(ValueError, match=r"in \[0, 1/2\), got 0\.5"):
        objectives.flipped(objectives.hinge, 0.5)


@pytest.mark.parametrize("name", ["minimax", "non_saturating"])
def test_the_best_discriminator_reaches_the_jensen_shannon_divergence(name):
    p, q = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.1, 0.1, 0.8]).double()
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    game = GAMES[name]

    def value(logits):
        on_real, on_fake = game.discriminator(logits, logits)
        return (p * on_real).sum() + (q * on_fake).sum()

    best = (p / q).log().requires_grad_()
    expected = 2 * math.log(2) - 2 * jensen_shannon(p, q)
    torch.testing.assert_close(value(best).item(), expected)
    (gradient,) = torch.autograd.grad(value(best), best)
    torch.testing.assert_close(gradient, torch.zeros(3, dtype=torch.float64))
    assert value(logits).item() > expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_the_game_survive_sure_discriminators(dtype):
    """The non-saturating player's slope is -1 where the discriminator is sure of a fake, never
    0.
    """
    logit = torch.tensor([-13.0, -40.0], dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(GAMES["non_saturating"].generator(logit, None).sum(), logit)
    torch.testing.assert_close(gradient.float(), torch.tensor([-1.0, -1.0]), atol=1e-2, rtol=0)
    for sign in (1, -1):
        x = torch.tensor([sign * 40.0], dtype=dtype, requires_grad=True)
        for game in GAMES.values():
            losses = sum(game.discriminator(x, -x)).sum() + game.generator(x, -x).sum()
            (slope,) = torch.autograd.grad(losses, x)
            assert torch.isfinite(losses).all()
            assert torch.isfinite(slope).all()


def test_a_relativistic_game_without_real_samples_says_so():
    with pytest.raises(ValueError, match="pass a batch of real samples"):
        objectives.relativistic.generator(torch.zeros(2), None)


def test_an_unknown_game_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"no objective 'wgan'.*hinge.*relativistic"):
        objectives.objective("wgan")
