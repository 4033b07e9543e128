"""Sequential Monte Carlo on fixture A: with exact ratios a batch of q becomes one of p."""

import math

import pytest
import torch
from oracles import (
    Counted,
    P,
    Q,
    draws,
    exact_denoiser,
    exact_discriminator,
    ks,
    mass_right_of_zero,
    unit_noise,
    w1,
)

from hybridgen.errors import RunError
from hybridgen.maths.noise import karras_sigmas
from hybridgen.networks.mlp import MlpDiscriminator
from hybridgen.protocols import Cost
from hybridgen.sampling.extrapolation import autoguidance
from hybridgen.sampling.guidance import discriminator_guidance
from hybridgen.sampling.particles import Particles, resample
from hybridgen.sampling.samplers import Heun


def heun(steps=40, churn=8.0, denoiser=None):
    return Heun(denoiser or exact_denoiser(Q), (1,), karras_sigmas(steps), churn=churn)


def particles(discriminator=None, sampler=None, **options):
    return Particles(sampler or heun(), discriminator or exact_discriminator(P, Q), **options)


def test_the_exact_ratio_turns_a_batch_of_the_wrong_model_into_one_of_the_data():
    x = particles()(unit_noise())
    assert w1(x) < 0.05 and ks(x) < 0.02  # .011, .006; over four seeds up to .051, .013
    assert len(x.unique()) > 0.8 * len(x)  # copies part by churn


def test_scale_is_the_power_of_the_ratio():
    plain = heun()(unit_noise())
    x = particles(scale=0.0)(unit_noise())
    torch.testing.assert_close(x.sort(0)[0], plain.sort(0)[0], rtol=0, atol=0)
    half = particles(scale=0.5, window=(0.0, math.inf))(unit_noise())
    wide = torch.linspace(-6, 6, 20_001, dtype=torch.float64)[:, None]
    mixed = (0.5 * P.log_density(wide, 0.0) + 0.5 * Q.log_density(wide, 0.0)).exp()
    exact = float(mixed[wide[:, 0] > 0].sum() / mixed.sum())  # between .2 and .5
    assert mass_right_of_zero(half) == pytest.approx(exact, abs=0.03)


class Shifted:
    """A mistake on purpose: a ratio that a part of the window is wrong by much."""

    def __init__(self, change):
        self.change = change

    def __call__(self, x, sigma, label=None):
        return self.change(exact_discriminator(P, Q)(x, sigma, label), sigma)


@pytest.mark.parametrize("change", [lambda d, s: -d, lambda d, s: 2 * d, lambda d, s: 0 * d])
def test_every_mistake_misses_the_gate(change):
    x = particles(Shifted(change))(unit_noise())
    assert w1(x) > 0.3


def test_what_a_level_is_wrong_by_for_all_alike_does_not_count():
    """Only ratios inside a class decide, so an offset of each level is harmless."""
    off = particles(Shifted(lambda d, s: d + 7 * s.clamp(max=3)))(unit_noise()[:4_000])
    torch.testing.assert_close(off, particles()(unit_noise()[:4_000]), rtol=0, atol=0)


def test_errors_high_up_are_forgiven_by_the_levels_below():
    """Weights telescope: of a wrong ratio at high noise nothing is left but its choices."""
    x = particles(Shifted(lambda d, s: torch.where(s > 3, d + 0.2 * torch.sign(d), d)))(
        unit_noise()
    )
    assert w1(x) < 0.06


def test_the_discriminator_is_asked_once_a_level_of_the_window_and_that_is_the_cost():
    discriminator = Counted(exact_discriminator(P, Q))
    denoiser = Counted(exact_denoiser(Q))
    denoiser.cost = lambda sigma: Cost(denoiser=1)
    sampler = particles(discriminator, heun(denoiser=denoiser), window=(0.1, 5.0))
    levels = [level for level in karras_sigmas(40).tolist()[1:] if 0.1 <= level < 5]
    sampler(unit_noise()[:10])
    assert discriminator.calls == len(levels) == sampler.cost.discriminator_forward
    assert denoiser.calls == sampler.cost.denoiser == 79


def test_equal_noise_gives_equal_samples_and_classes_keep_their_numbers():
    """Of class 0 the data is q itself, of class 1 it is p."""

    def discriminator(x, sigma, label=None):
        return exact_discriminator(P, Q)(x, sigma) * label

    noise, label = unit_noise(), torch.arange(20_000) % 2
    sampler = particles(discriminator)
    x = sampler(noise, label)
    assert torch.equal(x, sampler(noise, label))
    assert w1(x[label == 1]) < 0.09 and w1(x[label == 0], Q) < 0.09
    assert not torch.equal(x, sampler(noise.flip(0), label))


def test_systematic_resampling_takes_each_member_as_often_as_its_weight_says():
    rng = torch.Generator().manual_seed(0)
    log_weight = torch.randn(60, generator=rng).double() * 2
    group = torch.arange(60) % 3
    total = torch.zeros(60, dtype=torch.float64)
    for _ in range(1_000):
        rows, left = resample(log_weight, group, 1.0, rng)
        assert bool((left == 0).all()) and torch.equal(group[rows], group)
        taken = rows.bincount(minlength=60)
        expected = torch.zeros(60, dtype=torch.float64)
        for g in range(3):
            expected[group == g] = 20 * log_weight[group == g].softmax(0)
        assert bool(((taken - expected).abs() < 1).all())
        total += taken
    torch.testing.assert_close(total / 1_000, expected, rtol=0, atol=0.06)


def test_a_group_stays_as_long_as_enough_of_it_count():
    weight = torch.tensor([0.7, 0.1, 0.1, 0.1, 0.25, 0.25, 0.25, 0.25], dtype=torch.float64)
    group = torch.tensor([0] * 4 + [1] * 4)  # effective numbers 1 / .52 = 1.92 and 4
    for threshold, anew in ((0.47, False), (0.49, True)):
        rows, left = resample(
            weight.log() + 300, group, threshold, torch.Generator().manual_seed(0)
        )
        assert bool((left[:4] == 0).all()) == anew
        assert torch.equal(rows[4:], torch.arange(4, 8)) and bool((left[4:] != 0).all())
        assert (rows[:4] == 0).sum() >= (2 if anew else 1)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="is guided by a discriminator"):
        guided = discriminator_guidance(exact_denoiser(Q), exact_discriminator(P, Q))
        particles(sampler=heun(denoiser=guided))
    with pytest.raises(ValueError, match="is guided by a discriminator"):
        particles(sampler=heun(denoiser=autoguidance(guided, exact_denoiser(Q), 2.0)))
    with pytest.raises(ValueError, match="without churn copies stay copies"):
        particles(sampler=heun(churn=0.0))
    with pytest.raises(ValueError, match="a guide must know the noise level"):
        particles(MlpDiscriminator(width=4, depth=1))
    with pytest.raises(ValueError, match="a window is"):
        particles(window=(2.0, 1.0))
    for options in ({"scale": math.nan}, {"threshold": 0.0}, {"threshold": 1.5}):
        with pytest.raises(ValueError, match="expected a finite scale and a threshold"):
            particles(**options)
    broken = particles(Shifted(lambda d, s: d * math.nan))
    with pytest.raises(RunError, match=r"logits at noise level .* are not finite"):
        broken(unit_noise()[:10])
    with pytest.raises(ValueError, match="expected noise of shape"):
        particles()(torch.randn(3, 2))


def test_draws_of_the_data_pass_the_gate():
    assert w1(draws(P, seed=9)) < 0.05
