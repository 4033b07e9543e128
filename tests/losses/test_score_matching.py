"""The objectives of a guide, against the closed form of fixture A and of Gaussians."""

import math

import pytest
import torch
from einops import reduce
from oracles import Attentive, P, Q, draws, exact_denoiser, exact_discriminator
from torch import nn

from hybridgen import AdversarialLoss
from hybridgen.losses.denoising import noised
from hybridgen.losses.score_matching import ScoreMatching, score_matching
from hybridgen.maths.objectives import non_saturating
from hybridgen.maths.penalties import input_gradient
from hybridgen.maths.rng import rng_for

N = 40_000


def cross_entropy(discriminator, real, fake, sigma, noise, label=None, fake_label=None):
    """`softplus(-logit(real_s)) + softplus(logit(fake_s))` of each pair, written out.

    The least mean is `2 log 2 - 2 JS(p_s, q_s)`, at `logit = log p_s - log q_s`.
    Source: Kim et al. 2023, arXiv:2211.17091, equation 7.
    """
    on_real = discriminator(real + sigma[:, None] * noise, sigma, label)
    on_fake = discriminator(fake + sigma[:, None] * noise, sigma, fake_label)
    return nn.functional.softplus(-on_real) + nn.functional.softplus(on_fake)


def game(discriminator, real, fake, sigma, noise, label=None, fake_label=None):
    """The loss by which `train_guide` trains: a GAN's game between samples with the same noise."""
    loss = AdversarialLoss(discriminator, non_saturating, float32=True)
    real, fake = noised(real, sigma, noise), noised(fake, sigma, noise)
    return loss(real=real, fake=fake, sigma=sigma, label=label, fake_label=fake_label)


def at(sigma, count=N, seed=0):
    """`count` levels and standard normal numbers, `[n]` and `[n 1]`."""
    noise = torch.randn(count, 1, generator=rng_for("noise", seed), dtype=torch.float64)
    return noise.new_full((count,), sigma), noise


class Weighted(nn.Module):
    """The exact discriminator of fixture A times a learned factor, plus a tilt: the best is (1,
    0).
    """

    def __init__(self, factor=1.0, tilt=0.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))
        self.tilt = nn.Parameter(torch.tensor(tilt, dtype=torch.float64))

    def forward(self, x, sigma, label=None):
        return self.factor * exact_discriminator()(x, sigma) + self.tilt * x[:, 0]


class Smooth(nn.Module):
    """An untrained discriminator that knows sigma and labels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1))
        self.labels = nn.Embedding(3, 1)
        self.double()

    def forward(self, x, sigma, label=None):
        logit = self.net(torch.stack([x[:, 0], sigma], dim=1))[:, 0]
        return logit if label is None else logit + self.labels(label)[:, 0]


@pytest.mark.parametrize(
    ("sigma", "best"),
    [(0.0447, 1.1359), (0.5, 1.2401), (1.0, 1.2999), (2.0, 1.3501), (5.0, 1.3785), (80.0, 1.3863)],
)
def test_the_exact_discriminator_reaches_the_least_cross_entropy_at_every_level(sigma, best):
    losses = cross_entropy(exact_discriminator(), draws(P, N), draws(Q, N, seed=1), *at(sigma))
    assert losses.shape == (N,)
    chance = 4 * float(losses.std()) / math.sqrt(N) + 5e-5  # the last digit of `best`
    assert float(losses.mean()) == pytest.approx(best, abs=chance)


def test_a_discriminator_that_knows_nothing_has_a_cross_entropy_of_twice_log_two():
    losses = cross_entropy(lambda x, *_: 0 * x[:, 0], draws(P, 8), draws(Q, 8), *at(1.0, 8))
    torch.testing.assert_close(losses, torch.full_like(losses, 2 * math.log(2)))


@pytest.mark.parametrize("sigma", [0.3, 2.0])
@pytest.mark.parametrize("objective", ["cross_entropy", "score_matching"])
def test_the_exact_discriminator_is_a_minimum_of_either_objective(objective, sigma):
    discriminator, (level, noise) = Weighted(), at(sigma)
    if objective == "cross_entropy":
        losses = cross_entropy(discriminator, draws(P, N), draws(Q, N, seed=1), level, noise)
    else:
        losses = score_matching(discriminator, exact_denoiser(), draws(P, N), level, noise)
    for number, parameter in enumerate(discriminator.parameters()):
        slope = torch.autograd.grad(losses.mean(), parameter, retain_graph=True)[0]
        # How far the slope of a mean over these samples is from 0 by chance.
        parts = [
            float(torch.autograd.grad(part.mean(), parameter, retain_graph=True)[0])
            for part in losses.chunk(40)
        ]
        error = float(torch.tensor(parts).std()) / math.sqrt(40)
        assert abs(float(slope)) < 4 * error, (objective, number)


def moved(objective, sigma, factor, tilt):
    discriminator, (level, noise) = Weighted(factor, tilt), at(sigma)
    if objective == "cross_entropy":
        return cross_entropy(discriminator, draws(P, N), draws(Q, N, seed=1), level, noise).detach()
    return score_matching(discriminator, exact_denoiser(), draws(P, N), level, noise).detach()


@pytest.mark.parametrize("sigma", [0.3, 2.0])
@pytest.mark.parametrize("objective", ["cross_entropy", "score_matching"])
def test_every_way_from_the_exact_discriminator_leads_up(objective, sigma):
    best = moved(objective, sigma, 1.0, 0.0)
    for step in ((0.4, 0.0), (-0.4, 0.0), (-2.0, 0.0), (0.0, 0.3), (0.0, -0.3)):
        rise = moved(objective, sigma, 1 + step[0], step[1]) - best
        assert float(rise.mean()) > 4 * float(rise.std()) / math.sqrt(N), step


@pytest.mark.parametrize("sigma", [0.1, 1.0, 5.0])
def test_score_matching_exceeds_its_least_by_the_squared_error_of_the_score(sigma):
    """`E s^2 |grad f - (score_p - score_q)|^2` over `p_s`, for any discriminator f."""
    level, noise = at(sigma)
    real, discriminator = draws(P, N), Smooth()
    gained = score_matching(discriminator, exact_denoiser(), real, level, noise) - score_matching(
        exact_discriminator(), exact_denoiser(), real, level, noise
    )
    x = (real + sigma * noise).requires_grad_(True)
    slope = input_gradient(discriminator(x, level), x).detach()
    wanted = P.score(x.detach(), sigma) - Q.score(x.detach(), sigma)
    expected = sigma**2 * reduce((slope - wanted).square(), "b d -> b", "mean")
    difference = (gained - expected).detach()
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(N)
    assert float(expected.mean()) > 0.01


def test_the_mean_over_coordinates_leaves_the_loss_alone_when_a_sample_is_repeated():
    discriminator, level, noise = Smooth(), *at(0.5, 6)
    real = draws(P, 6)

    def denoiser(x, sigma, label):
        return 0.5 * x

    def summed(x, sigma, label):
        return discriminator(x[:, :1], sigma) + discriminator(x[:, 1:], sigma)

    once = score_matching(discriminator, denoiser, real, level, noise)
    twice = score_matching(summed, denoiser, real.repeat(1, 2), level, noise.repeat(1, 2))
    torch.testing.assert_close(twice, once)


@pytest.mark.parametrize("discriminator", [Smooth(), Weighted()])
def test_the_gradients_of_score_matching_are_those_that_differences_show(discriminator):
    real, (sigma, noise) = draws(P, 64), at(0.7, 64)

    def loss():
        return ScoreMatching(discriminator, exact_denoiser())(real, sigma, noise)["total"]

    loss().backward()
    parameter = next(discriminator.parameters())
    step = 1e-5
    with torch.no_grad():
        place = parameter.view(-1)[:1]
        place.add_(step)
        above = float(loss())
        place.sub_(2 * step)
        below = float(loss())
        place.add_(step)
    slope = (above - below) / (2 * step)
    assert float(parameter.grad.flatten()[0]) == pytest.approx(slope, rel=1e-4)


def test_score_matching_trains_the_discriminator_alone_and_reaches_every_parameter():
    class Denoiser(nn.Linear):
        def forward(self, x, sigma, label):
            return super().forward(x)

    denoiser, discriminator = Denoiser(1, 1).double(), Smooth()
    loss = ScoreMatching(discriminator, denoiser)
    assert {id(p) for p in loss.parameters()} == {id(p) for p in discriminator.parameters()}
    loss(draws(P, 8), *at(1.0, 8), torch.zeros(8, dtype=torch.int64))["total"].backward()
    assert all(p.grad is None for p in denoiser.parameters())
    # Biases and labels move no slope; distributed training waits for their gradients all the same.
    assert all(p.grad is not None for p in discriminator.parameters())


@pytest.mark.parametrize("labelled", [False, True])
def test_the_adversarial_loss_between_noised_samples_is_the_cross_entropy(labelled):
    real, fake, (sigma, noise) = draws(P, 64), draws(Q, 64), at(0.7, 64)
    labels = (torch.arange(64) % 3, torch.arange(64) % 2) if labelled else (None, None)
    gradients = []
    for loss in (
        game(discriminator := Smooth(), real, fake, sigma, noise, *labels)["total"],
        cross_entropy(discriminator, real, fake, sigma, noise, *labels).mean(),
    ):
        gradients.append(
            (loss.detach(), *torch.autograd.grad(loss, list(discriminator.net.parameters())))
        )
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_each_half_is_shown_with_its_own_labels():
    discriminator = Smooth()
    real, fake, (sigma, noise) = draws(P, 4), draws(Q, 4), at(1.0, 4)
    label, fake_label = torch.tensor([0, 1, 2, 0]), torch.tensor([2, 2, 1, 1])
    loss = game(discriminator, real, fake, sigma, noise, label, fake_label)["total"]
    expected = cross_entropy(discriminator, real, fake, sigma, noise, label, fake_label).mean()
    torch.testing.assert_close(loss, expected)
    shared = game(discriminator, real, fake, sigma, noise, label)["total"]
    both = game(discriminator, real, fake, sigma, noise, label, label)["total"]
    torch.testing.assert_close(shared, both)
    assert abs(float((shared - loss).detach())) > 1e-3


def test_a_discriminator_with_fused_attention_can_be_differentiated_twice():
    x, sigma, noise = torch.randn(4, 6), torch.ones(4), torch.randn(4, 6)
    discriminator = Attentive()
    loss = ScoreMatching(discriminator, lambda x, sigma, label: x)(x, sigma, noise)
    loss["total"].backward()
    assert float(discriminator.entry.weight.grad.norm()) > 0


def test_under_autocast_the_discriminator_computes_in_float32():
    seen = set()

    class Noting(nn.Linear):
        def forward(self, x, sigma, label=None):
            logits = super().forward(x)
            seen.add(logits.dtype)
            return logits[:, 0]

    x, sigma = torch.randn(4, 2), torch.ones(4)
    with torch.autocast("cpu", torch.bfloat16):
        game(Noting(2, 1), x, x, sigma, x)
        ScoreMatching(Noting(2, 1), lambda x, sigma, label: x)(x, sigma, x)
    assert seen == {torch.float32}


def both(x, *_):
    """The logits of two discriminators."""
    return [x[:, 0], x[:, 0]]


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        (lambda: ScoreMatching(nn.Linear(1, 1), exact_denoiser()), "hybridgen.Unconditional"),
        (
            lambda: score_matching(both, exact_denoiser(), draws(P, 3), *at(1.0, 3)),
            r"one logit a sample, \[3\], and this discriminator returned a list of 2: \[3\]",
        ),
    ],
)
def test_misuse_gets_a_sentence(misuse, sentence):
    with pytest.raises(ValueError, match=sentence):
        misuse()
