"""Where the term's fakes come from, against closed forms; what it weighs; what it refuses."""

import math
from itertools import pairwise

import pytest
import torch
from oracles import P, cumulative, denoise, one_dimensional
from torch import nn

from hybridgen.errors import InputError
from hybridgen.maths import objectives
from hybridgen.maths.noise import karras_sigmas
from hybridgen.networks.mlp import MlpDiscriminator
from hybridgen.training.adversarial_term import (
    AdversarialTerm,
    TermNoise,
    discriminator_pair,
    fake_inputs,
)
from hybridgen.training.settings import LogNormal
from hybridgen.training.setup import adversarial_weight, build_adversarial

STD = 0.5
GAUSSIAN = one_dimensional([1.0], [0.0], [STD])
LEVELS = LogNormal(mean=0.3, std=0.7)
COUNT = 50


@pytest.fixture
def draws():
    rng = torch.Generator().manual_seed(0)
    noise, second = torch.randn(2, COUNT, 1, generator=rng, dtype=torch.float64)
    normal = torch.randn(COUNT, generator=rng, dtype=torch.float64)
    return TermNoise(noise, second, normal, torch.rand(COUNT, generator=rng, dtype=torch.float64))


@pytest.fixture
def x0():
    return STD * torch.randn(COUNT, 1, dtype=torch.float64)


class Exact(nn.Module):
    """The Gaussian's own denoiser, times a weight of one; remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.asked = []

    def forward(self, x, sigma, label=None):
        self.asked.append((sigma, label))
        return self.one * denoise(GAUSSIAN, x, sigma)


def chain(draws, calls, **settings):
    term, denoiser = AdversarialTerm(source="chain", **settings), Exact()
    label = torch.arange(COUNT)
    x, sigma = fake_inputs(
        term, denoiser, torch.full_like(draws.noise, 9), label, draws, LEVELS, calls
    )
    return x, sigma, denoiser.asked, label


@pytest.mark.parametrize("calls", [2, 3, 6])
def test_the_chain_ends_where_eulers_closed_form_says(draws, calls):
    x, sigma, asked, label = chain(draws, calls, lowest=0.03, high=40.0)
    sigmas = karras_sigmas(calls, 0.03, 40.0)[:-1]
    factor = sigmas[0]
    for now, after in pairwise(sigmas):
        kept = STD**2 / (STD**2 + now**2)
        factor = factor * (kept + after / now * (1 - kept))
    torch.testing.assert_close(x, factor * draws.noise, rtol=1e-6, atol=0)
    assert len(asked) == calls - 1
    for (level, told), expected in zip(asked, sigmas[:-1], strict=True):
        torch.testing.assert_close(level, expected.expand(COUNT))
        assert told is label
    torch.testing.assert_close(sigma, torch.full_like(sigma, 0.03))


def test_a_long_chain_follows_the_exact_flow(draws):
    x, *_ = chain(draws, 400, lowest=0.03, high=40.0)
    shrunk = 40.0 * math.sqrt((STD**2 + 0.03**2) / (STD**2 + 40.0**2))
    torch.testing.assert_close(x, shrunk * draws.noise, rtol=0.02, atol=0)


def test_the_chain_is_walked_without_dropout_and_leaves_every_mode_as_it_was(draws, x0):
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout, self.still = nn.Dropout(0.9), nn.Dropout(0.9).eval()

        def forward(self, x, sigma, label=None):
            return self.dropout(self.still(denoise(GAUSSIAN, x, sigma)))

    term, dropping = AdversarialTerm(source="chain", lowest=0.03), Dropping()
    x, _ = fake_inputs(term, dropping, x0, None, draws, LEVELS, 4)
    exact, *_ = chain(draws, 4, lowest=0.03)
    torch.testing.assert_close(x, exact)
    assert dropping.training and dropping.dropout.training and not dropping.still.training


def test_only_the_chains_last_step_has_a_gradient(draws):
    x, *_ = chain(draws, 4)
    assert not x.requires_grad


def test_a_clean_estimate_is_asked_for_at_levels_even_in_the_logarithm(draws, x0):
    term, denoiser = AdversarialTerm(source="clean", lowest=0.01, highest=0.09), Exact()
    x, sigma = fake_inputs(term, denoiser, x0, None, draws, LEVELS, 4)
    assert denoiser.asked == []
    assert 0.01 <= float(sigma.min()) < 0.012 and 0.08 < float(sigma.max()) <= 0.09
    torch.testing.assert_close(sigma.log(), math.log(0.01) + draws.uniform * math.log(9))
    torch.testing.assert_close(x, x0 + sigma[:, None] * draws.noise)
    ends = draws._replace(uniform=torch.linspace(0, 1, COUNT, dtype=torch.float64))
    _, sigma = fake_inputs(term, denoiser, x0, None, ends, LEVELS, 4)
    assert sigma[[0, -1]].tolist() == pytest.approx([0.01, 0.09])


def test_an_estimate_to_be_renoised_is_asked_for_at_the_levels_of_training(draws, x0):
    term, denoiser = AdversarialTerm(source="renoised"), Exact()
    x, sigma = fake_inputs(term, denoiser, x0, None, draws, LEVELS, 4)
    assert denoiser.asked == []
    torch.testing.assert_close(sigma.log(), 0.3 + 0.7 * draws.normal)
    torch.testing.assert_close(x, x0 + sigma[:, None] * draws.noise)


def test_renoised_fake_and_real_differ_by_the_error_of_the_estimate_alone(draws, x0):
    term, sigma = AdversarialTerm(source="renoised"), LEVELS(draws.normal)
    estimate = torch.randn_like(x0).requires_grad_()
    fake, real, level = discriminator_pair(term, estimate, x0, sigma, draws)
    torch.testing.assert_close(fake - real, estimate - x0)
    torch.testing.assert_close(real, x0 + level[:, None] * draws.second)
    torch.testing.assert_close(level, (0.75 + 0.25 * draws.uniform) * sigma)
    assert bool((level <= sigma).all()) and bool((level >= 0.75 * sigma).all())
    assert not torch.allclose(draws.second, draws.noise)
    (slope,) = torch.autograd.grad(fake.sum(), estimate)
    assert torch.equal(slope, torch.ones_like(slope)) and not real.requires_grad


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0, 5.0, 20.0])
def test_a_perfect_denoisers_estimate_passes_for_data_at_every_level_of_renoising(sigma):
    count, rng = 50_000, torch.Generator().manual_seed(0)
    x0, levels = P.sample(count, rng)[0].double(), torch.full((count,), sigma, dtype=torch.float64)
    noise, second = torch.randn(2, count, 1, generator=rng, dtype=torch.float64)
    estimate = denoise(P, x0 + sigma * noise, sigma)
    lowest = torch.zeros(count, dtype=torch.float64)
    draws = TermNoise(noise, second, lowest, lowest)
    fake, _, level = discriminator_pair(
        AdversarialTerm(source="renoised"), estimate, x0, levels, draws
    )
    ordered = fake[:, 0].sort().values
    exact = cumulative(P, ordered, float(level[0]))
    assert float((exact - torch.arange(count) / count).abs().max()) < 0.07


@pytest.mark.parametrize("source", ["clean", "chain"])
def test_other_estimates_are_compared_as_they_are_without_noise(draws, x0, source):
    term, estimate = AdversarialTerm(source=source), torch.randn_like(x0)
    fake, real, level = discriminator_pair(term, estimate, x0, torch.ones(COUNT), draws)
    assert fake is estimate and real is x0
    assert torch.equal(level, torch.zeros(COUNT))


def test_the_weight_rises_evenly_after_the_warm_up():
    def weights(numbers, **schedule):
        strength = adversarial_weight(AdversarialTerm(weight=0.8, **schedule))
        for number in numbers:
            strength.steps = number - 1
            yield strength.scheduled

    steps = [1, 3, 4, 5, 6, 7, 8, 1000]
    rising = [0, 0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    assert [*weights(steps, warm_up=3, ramp=4)] == pytest.approx(rising)
    assert [*weights((1, 2), warm_up=0, ramp=0)] == [0.8, 0.8]
    assert [*weights((1, 2, 3), warm_up=2, ramp=0)] == [0, 0, 0.8]
    assert adversarial_weight(AdversarialTerm(adaptive=True)).adaptive
    assert not adversarial_weight(AdversarialTerm()).adaptive


def test_clean_estimates_at_high_noise_are_refused_unless_forced():
    high = {"source": "clean", "highest": 0.13}
    with pytest.raises(InputError, match=r"up to 0.13 .* above 0.125 even a perfect .*force true"):
        AdversarialTerm(**high).validate_noise_range(0.5)
    AdversarialTerm(**high).validate_noise_range(0.53)
    AdversarialTerm(**high, force=True).validate_noise_range(0.5)
    for source in (None, "renoised", "chain"):
        AdversarialTerm(**{**high, "source": source}).validate_noise_range(0.5)
    AdversarialTerm(source="clean").validate_noise_range(0.5)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"source": "chian"}, "source must be .* 'chian'; did you mean chain"),
        ({"weight": -0.1}, "weight must be a number in .* got -0.1"),
        ({"weight": math.nan}, "weight must be .* got nan"),
        ({"weight": math.inf}, "weight must be .* got inf"),
        ({"warm_up": -1}, "warm_up must be a whole number in .* got -1"),
        ({"ramp": -1}, "ramp must be a whole number in .* got -1"),
        ({"share": 0.0}, r"share must be a number in \(0, 1\], got 0.0"),
        ({"share": 1.1}, r"share must be a number in \(0, 1\], got 1.1"),
        ({"lowest": 0.0}, "lowest must be a number in .* got 0.0"),
        ({"lowest": 0.1, "source": "clean"}, "lowest must be below highest, got 0.1 and 0.1"),
        (
            {"lowest": 0.09, "high": 0.08, "source": "chain"},
            "lowest must be below high, got 0.09 and 0.08",
        ),
        ({"highest": math.inf, "source": "clean"}, "highest must be .* got inf"),
        ({"high": math.nan}, "high must be .* got nan"),
        ({"calls": ()}, "calls names no length of a chain"),
        ({"calls": (4, 1)}, r"calls must be a list .* in \[2, 1000\], got \(4, 1\)"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        AdversarialTerm(**settings)


def test_the_game_reaches_the_discriminators_loss():
    discriminator = MlpDiscriminator(noise_conditional=True)
    loss = build_adversarial(
        discriminator, AdversarialTerm(objective="hinge", finite_difference=0.1)
    )
    assert loss.discriminator is discriminator and loss.objective is objectives.hinge
    assert loss.finite_difference == 0.1 and loss.r1 == 0  # until the loop sets r1 and r2


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"objective": "wgan"}, "objective must be one of relativistic, .* got 'wgan'"),
        ({"finite_difference": 0.0}, r"finite_difference must be a number in \[1e-12, .* got 0.0"),
    ],
)
def test_a_game_that_cannot_be_played_is_an_input_error(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        build_adversarial(MlpDiscriminator(noise_conditional=True), AdversarialTerm(**settings))
