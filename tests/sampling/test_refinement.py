"""Refinement as a sampler: fixture A through it, what it costs, and what it leaves alone."""

import math
from functools import cache

import pytest
import torch
from oracles import (
    BOUND,
    Counted,
    N,
    P,
    Q,
    cumulative,
    exact_denoiser,
    ks,
    mass_right_of_zero,
    unit_noise,
    w1,
)

from hybridgen import Heun, Refined, SinglePass
from hybridgen.maths.noise import karras_sigmas
from hybridgen.protocols import Cost

LOG_BOUND = math.log(BOUND)
MANY = 100_000


def log_ratio(x, label=None):
    return P.log_ratio(Q, x)


@cache
def quantiles():
    """The distribution function of Q on a grid."""
    grid = torch.linspace(-6, 6, 100_001, dtype=torch.float64)
    return grid, cumulative(Q, grid)


def wrong_generator(noise, label=None):
    """Q in one pass: its quantile function, linear between the points of the grid."""
    grid, reached = quantiles()
    level = torch.special.ndtr(noise[:, 0])
    after = torch.searchsorted(reached, level).clamp(1, len(grid) - 1)
    part = (level - reached[after - 1]) / (reached[after] - reached[after - 1])
    return torch.lerp(grid[after - 1], grid[after], part)[:, None]


GAN = SinglePass(wrong_generator, (1,))


def refined(how, rounds, sampler=GAN, **more):
    bound = {"log_bound": LOG_BOUND} if how == "rejection" else {}
    return Refined(sampler, log_ratio, how, rounds, **{**bound, **more})


def right(x):
    return w1(x) < 0.05 and ks(x) < 0.02


def test_the_wrong_generator_draws_from_the_wrong_model():
    assert w1(GAN(unit_noise()), Q) < 0.05
    assert not right(GAN(unit_noise()))


def test_rejection_accepts_its_share_and_leaves_the_data():
    noise = unit_noise(MANY, seed=1)
    result = refined("rejection", 60).refine(noise)
    at_once = float((result.proposal == 0).double().mean())
    assert at_once == pytest.approx(1 / BOUND, abs=0.003)  # .2250 in one draw
    made = (result.proposal + 1).sum()  # until the first acceptance: geometric
    assert float(len(noise) / made) == pytest.approx(1 / BOUND, abs=0.003)
    assert not result.unaccepted.any()
    assert right(result.samples[:N])


def test_what_rejection_never_accepts_is_counted_and_follows_the_model():
    result = refined("rejection", 2).refine(unit_noise(MANY, seed=2))
    share = float(result.unaccepted.double().mean())
    assert share == pytest.approx((1 - 1 / BOUND) ** 3, abs=0.004)
    assert bool((result.proposal[result.unaccepted] == 2).all())
    # What fails the test follows q - p / M.
    left = result.samples[result.unaccepted, 0] < 0
    expected = (0.8 - 0.5 / BOUND) / (1 - 1 / BOUND)
    assert float(left.double().mean()) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("rounds", [20, 100])
def test_a_chain_of_twenty_proposals_or_more_is_near_the_data(rounds):
    x = refined("metropolis_hastings", rounds)(unit_noise(seed=3))
    assert w1(x) < 0.05


def test_short_chains_are_as_far_off_as_their_law_says():
    for rounds, expected in ((1, 0.7301), (5, 0.2066)):  # integrated on a grid
        x = refined("metropolis_hastings", rounds)(unit_noise(seed=4))
        assert w1(x) == pytest.approx(expected, abs=0.04)


def test_importance_nears_the_data_with_every_round():
    distances = [w1(refined("importance", k)(unit_noise(seed=5))) for k in (1, 10, 100)]
    # The error falls as 1 / k: .76, .21, .04, where a chain of 20 is done.
    assert distances[0] > 0.7 and 0.15 < distances[1] < 0.27 and distances[2] < 0.06


def test_diffusion_is_refined_like_a_gan():
    diffusion = Heun(exact_denoiser(Q), (1,), karras_sigmas(40))
    noise = unit_noise(5_000, seed=6)
    assert abs(mass_right_of_zero(diffusion(noise)) - 0.2) < 0.02
    result = refined("rejection", 20, diffusion).refine(noise)
    assert mass_right_of_zero(result.samples) == pytest.approx(0.5, abs=0.02)
    assert ks(result.samples) < 0.03


@pytest.mark.parametrize("how", ["rejection", "metropolis_hastings", "importance"])
def test_the_noise_given_makes_the_first_proposal_and_decides_the_rest(how):
    noise = unit_noise(500)
    result = refined(how, 4).refine(noise)
    first, later = result.proposal == 0, result.proposal > 0
    assert 20 < int(first.sum()) < 480
    assert torch.equal(result.samples[first], GAN(noise)[first])
    assert not torch.isin(result.samples[later], GAN(noise)).any()
    again = refined(how, 4).refine(noise)
    assert torch.equal(again.samples, result.samples)
    assert not torch.equal(refined(how, 4)(noise + 1e-9)[later], result.samples[later])
    assert len(result.samples.unique()) == 500  # nothing is repeated


@pytest.mark.parametrize("how", ["metropolis_hastings", "importance"])
def test_a_constant_ratio_changes_nothing_in_a_chain_and_chooses_evenly_by_importance(how):
    result = Refined(GAN, lambda x, label: torch.full((len(x),), 7.0), how, 3).refine(
        unit_noise(4_000)
    )
    shares = torch.bincount(result.proposal, minlength=4).double() / 4_000
    expected = [0, 0, 0, 1] if how == "metropolis_hastings" else [0.25] * 4
    torch.testing.assert_close(shares, torch.tensor(expected).double(), rtol=0, atol=0.03)


@pytest.mark.parametrize("how", ["rejection", "metropolis_hastings", "importance"])
def test_labels_stay_with_their_samples(how):
    label = torch.arange(600) % 3

    def generator(noise, label):
        return label[:, None] + 0.1 * noise.tanh()

    def ratio(x, label):
        assert torch.equal(x[:, 0].round().long(), label)
        return (2 * (x[:, 0] - label)).clamp(max=0.2)

    sampler = Refined(SinglePass(generator, (1,)), ratio, how, 5, 0.2)
    result = sampler.refine(torch.randn(600, 1, generator=torch.Generator().manual_seed(0)), label)
    assert torch.equal(result.samples[:, 0].round().long(), label)
    assert (result.samples[:, 0] - label).mean() > 0.005
    assert (result.proposal > 0).any()


def test_only_what_is_not_accepted_is_proposed_again():
    sizes = []

    def generator(noise, label=None):
        sizes.append(len(noise))
        return noise

    sampler = Refined(SinglePass(generator, (1,)), lambda x, y: x[:, 0] * 0 - 1, "rejection", 6, 0)
    result = sampler.refine(unit_noise(1_000))
    assert sizes == [int((result.proposal >= number).sum()) for number in range(7)]


@pytest.mark.parametrize("rounds", [1, 3, 30])
def test_the_cost_that_is_told_is_the_cost_that_is_counted(rounds):
    judged = []

    def counted(x, label):
        judged.append(len(x))
        return log_ratio(x)

    diffusion = Heun(Counted(exact_denoiser(Q)), (1,), karras_sigmas(3))
    sampler = Refined(diffusion, counted, "metropolis_hastings", rounds)
    sampler(unit_noise(50))
    assert sampler.cost == Cost(denoiser=5 * (rounds + 1), discriminator_forward=rounds + 1)
    assert sampler.cost.calls == 5 * (rounds + 1) and sum(judged) == 50 * (rounds + 1)

    judged.clear()
    sampler = Refined(GAN, counted, "rejection", rounds, LOG_BOUND)
    sampler(unit_noise(MANY))
    proposals = sum(judged) / MANY
    assert sampler.cost.generator == pytest.approx(proposals, rel=0.01)
    assert sampler.cost.discriminator_forward == sampler.cost.generator == sampler.cost.calls


def test_a_measured_acceptance_is_what_the_cost_goes_by():
    sampler = refined("rejection", 2, acceptance=0.5, log_bound=-800.0)
    assert sampler.cost == Cost(generator=1.75, discriminator_forward=1.75)
    assert refined("rejection", 2, log_bound=-1.0).cost.calls == 1
    assert sampler.noise_shape == (1,)


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        (lambda: refined("dream", 2), "no refinement 'dream'; there are rejection"),
        (lambda: refined("importance", 0), "at least 1 round, got 0; for none use the sampler"),
        (lambda: Refined(GAN, log_ratio), "rejection needs a finite log_bound.*got None"),
        (lambda: refined("rejection", 2, log_bound=math.nan), "finite log_bound.*got nan"),
        (lambda: refined("rejection", 2, acceptance=0.0), "acceptance is a share above 0, got 0"),
        (
            lambda: Refined(GAN, lambda x, label: x, "importance", 2)(unit_noise(5)),
            r"one log ratio a sample, \[5\], got shape \[5, 1\]",
        ),
        (
            lambda: Refined(GAN, lambda x, label: x[:, 0] / 0, "importance", 2)(unit_noise(5)),
            "log ratios are nan or infinite",
        ),
        (lambda: refined("importance", 2)(torch.zeros(5, 2)), r"noise of shape \[b, \*\[1\]\]"),
    ],
)
def test_misuse_gets_a_sentence(misuse, sentence):
    with pytest.raises(ValueError, match=sentence):
        misuse()


def test_what_rejection_keeps_in_the_end_is_the_last_proposal():
    made = []

    def generator(noise, label=None):
        made.append(noise.clone())
        return noise

    sampler = Refined(SinglePass(generator, (1,)), lambda x, y: x[:, 0] * 0 - 99, "rejection", 3, 0)
    result = sampler.refine(unit_noise(50))
    assert bool(result.unaccepted.all()) and len(made) == 4
    assert torch.equal(result.samples, made[-1])
    assert not torch.isin(result.samples, torch.cat(made[:-1])).any()


@pytest.mark.parametrize("how", ["rejection", "metropolis_hastings", "importance"])
def test_every_sample_is_the_proposal_that_is_named(how):
    made = []

    def generator(noise, label=None):
        made.append(wrong_generator(noise))
        return made[-1]

    result = refined(how, 3, SinglePass(generator, (1,))).refine(unit_noise(400, seed=9))
    for number in range(len(made)):
        of_number = result.samples[result.proposal == number]
        assert len(of_number) > 0 and bool(torch.isin(of_number, made[number]).all())
