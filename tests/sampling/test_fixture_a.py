"""Fixture A, the whole table: the right method is inside its gates, every near miss outside.

Values in comments are those the table gives; a row that passes with a mutated formula would be
worth nothing, so each known mistake is a row of its own.
"""

import math
from functools import cache

import pytest
import torch
from oracles import (
    BOUND,
    CROSS_ENTROPIES,
    REFERENCE,
    Counted,
    P,
    Q,
    cumulative,
    denoise,
    draws,
    exact_denoiser,
    exact_discriminator,
    ks,
    mass_right_of_zero,
    unit_noise,
    w1,
)

from hybridgen.maths.noise import karras_sigmas, like
from hybridgen.maths.objectives import non_saturating
from hybridgen.sampling.guidance import discriminator_guidance
from hybridgen.sampling.samplers import Heun

EVERYWHERE = (0.0, math.inf)


def guided(scale=1.0, discriminator=None, window=EVERYWHERE):
    return discriminator_guidance(
        exact_denoiser(Q), discriminator or exact_discriminator(P, Q), scale, window=window
    )


def sampled(denoiser, steps=40, churn=0.0):
    return Heun(denoiser, (1,), karras_sigmas(steps), churn=churn)(unit_noise())


@cache
def first_row():
    """The exact discriminator at both of Heun's slopes, 40 steps."""
    return sampled(guided())


def inside_the_first_gate(x):
    return w1(x) < 0.05 and ks(x) < 0.02


class PerSlope:
    """A mistake on purpose: guidance of another scale on Heun's first slopes than on its second.

    Heun asks for them in turn: first, second, first, second, ..., first.
    """

    def __init__(self, first, second):
        self.scales = [guided(scale=float(first)), guided(scale=float(second))]
        self.calls = 0

    def __call__(self, x, sigma, label=None):
        chosen = self.scales[self.calls % 2]
        self.calls += 1
        return chosen(x, sigma, label)


def shrink(sigma):
    """`a = 1 / sqrt(1 + sigma^2)`: `x_vp = a x`."""
    return 1 / (1 + sigma**2).sqrt()


def vp_discriminator(x_vp, sigma, label=None):
    """The same best discriminator, for one that was trained on `x_vp`."""
    return exact_discriminator(P, Q)(x_vp / like(shrink(sigma), x_vp), sigma)


def guided_by_hand(power):
    """`x0 + sigma^2 a^power d logit / d x_vp`: the chain rule says power 1."""

    def denoiser(x, sigma, label=None):
        with torch.enable_grad():
            x_vp = (x * like(shrink(sigma), x)).requires_grad_(True)
            (gradient,) = torch.autograd.grad(vp_discriminator(x_vp, sigma).sum(), x_vp)
        return denoise(Q, x, sigma) + like(sigma**2 * shrink(sigma) ** power, x) * gradient

    return denoiser


def test_the_exact_discriminator_turns_the_wrong_model_into_the_data():
    assert w1(first_row()) < 0.05  # .024
    assert ks(first_row()) < 0.02  # .009
    assert inside_the_first_gate(first_row())


def test_every_path_is_that_of_the_datas_own_denoiser():
    """Free of the luck of the draw, which alone moves W1 of 20 000 samples by .01."""
    torch.testing.assert_close(first_row(), sampled(exact_denoiser(P)), rtol=0, atol=1e-8)


def test_it_does_so_in_eighteen_steps():
    assert w1(sampled(guided(), steps=18)) < 0.07  # .041


def test_scale_zero_gives_the_wrong_model_back():
    x = sampled(guided(scale=0.0))
    torch.testing.assert_close(x, sampled(exact_denoiser(Q)), rtol=0, atol=0)
    assert w1(x) == pytest.approx(0.995, abs=0.03)
    assert mass_right_of_zero(x) == pytest.approx(0.20, abs=0.01)  # .199
    assert w1(x, Q) < 0.05


def test_guiding_the_first_slope_twice_and_the_second_never_converges_but_slowly():
    samples = {steps: sampled(PerSlope(2, 0), steps) for steps in (18, 40, 200)}
    distances = [w1(x) for x in samples.values()]
    for got, table in zip(distances, (0.320, 0.155, 0.050), strict=True):
        assert got == pytest.approx(table, abs=0.03)
    assert distances == sorted(distances, reverse=True)
    assert not inside_the_first_gate(samples[40])


def test_equal_scales_on_both_slopes_are_plain_guidance():
    torch.testing.assert_close(sampled(PerSlope(1, 1)), first_row(), rtol=0, atol=0)


MUTANTS = {
    "the wrong sign": (lambda: guided(scale=-1.0), 1.40),
    "the gradient for x_vp without a": (lambda: guided_by_hand(0), 2.61),
    "the gradient for x_vp times a squared": (lambda: guided_by_hand(2), 0.68),
    "a discriminator told 0.9 sigma": (lambda: at_another_level(0.9), 0.17),
    "a discriminator told 1.1 sigma": (lambda: at_another_level(1.1), 0.19),
    "twice the scale": (lambda: PerSlope(2, 2), 0.70),
    "the first slope only": (lambda: PerSlope(1, 0), 0.58),
}


def at_another_level(factor):
    discriminator = exact_discriminator(P, Q)
    return guided(
        discriminator=lambda x, sigma, label=None: discriminator(x, factor * sigma, label)
    )


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mistake_misses_the_first_gate(name):
    mutant, table = MUTANTS[name]
    x = sampled(mutant())
    assert not inside_the_first_gate(x)
    assert w1(x) == pytest.approx(table, rel=0.1, abs=0.03)


def test_a_discriminator_in_vp_scale_guides_exactly_once_the_chain_rule_is_obeyed():
    def adapted(x, sigma, label=None):
        return vp_discriminator(x * like(shrink(sigma), x), sigma, label)

    torch.testing.assert_close(sampled(guided_by_hand(1)), first_row(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        sampled(guided(discriminator=adapted)), first_row(), rtol=1e-6, atol=1e-6
    )


def test_closing_the_window_at_low_noise_costs_nothing():
    discriminator = Counted(exact_discriminator(P, Q))
    distance = w1(sampled(guided(discriminator=discriminator, window=(0.0447, math.inf))))  # .022
    assert distance == pytest.approx(w1(first_row()), abs=0.01)
    assert discriminator.calls < 2 * 40 - 1


@pytest.mark.parametrize("churn", [10.0, 40.0])
def test_guidance_holds_for_the_stochastic_sampler(churn):
    assert w1(sampled(guided(), churn=churn)) < 0.05  # .017, .011


def test_the_bound_is_the_largest_ratio_there_is():
    x = torch.linspace(-6, 6, 1_000_001, dtype=torch.float64)[:, None]
    assert float(P.log_ratio(Q, x).max().exp()) == pytest.approx(BOUND, abs=1e-4)


@pytest.mark.parametrize(("sigma", "bce", "kl"), CROSS_ENTROPIES)
def test_on_noised_draws_the_best_discriminator_scores_the_least_cross_entropy(sigma, bce, kl):
    """By draws, as a trained discriminator is measured; test_mixtures integrates the same
    numbers.
    """
    noise = unit_noise(REFERENCE, seed=4)
    real = draws(P, REFERENCE, seed=5) + sigma * noise
    fake = draws(Q, REFERENCE, seed=6) + sigma * noise.flip(0)
    discriminator, level = (
        exact_discriminator(P, Q),
        torch.full((REFERENCE,), sigma, dtype=torch.float64),
    )
    on_real, on_fake = discriminator(real, level), discriminator(fake, level)
    losses = non_saturating.discriminator(on_real, on_fake)
    assert float(sum(losses).mean()) == pytest.approx(bce, abs=0.01)
    assert float(on_real.mean()) == pytest.approx(kl, abs=0.02)


def test_draws_of_the_data_score_the_floors():
    x = draws(P, seed=7)
    assert w1(x) < 0.03  # .017
    assert ks(x) < 0.01  # .007
    assert w1(draws(Q, seed=7)) == pytest.approx(0.995, abs=0.03)
    assert float(cumulative(Q, torch.zeros(1).double())) == pytest.approx(0.8, abs=1e-3)
