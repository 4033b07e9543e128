"""What held-out samples say of a guide whose right answer is known."""

import math

import pytest
import torch
from oracles import P, Q, draws, exact_denoiser, exact_discriminator

from hybridgen.training.validation import CHANCE, LOWEST, HeldOutValidation, ValidationResult

LEVELS = torch.tensor([0.5, 1.0, 2.0])
BEST = (1.2401 + 1.2999 + 1.3501) / 3


def validation(count=4_000, real=P, fake=Q, denoiser=None):
    return HeldOutValidation(
        draws(real, count), draws(fake, count, seed=1), LEVELS, denoiser=denoiser, seed=3
    )


def nothing(x, sigma, label=None):
    return 0 * x[:, 0]


def test_the_exact_discriminator_passes_and_its_cross_entropy_is_the_least():
    outcome = validation().outcome(exact_discriminator())
    assert outcome.significant
    assert outcome.bce == pytest.approx(BEST, abs=4 * outcome.standard_error)
    assert outcome.gain == pytest.approx(CHANCE - outcome.bce)


@pytest.mark.parametrize("denoiser", [None, exact_denoiser()])
def test_a_discriminator_that_knows_nothing_gains_nothing_and_is_not_significant(denoiser):
    outcome = validation(denoiser=denoiser).outcome(nothing)
    assert outcome.gain == pytest.approx(0, abs=1e-12) and not outcome.significant
    assert outcome.bce == pytest.approx(CHANCE)


@pytest.mark.parametrize("denoiser", [None, exact_denoiser()])
def test_a_discriminator_that_is_sure_of_the_opposite_is_worse_than_nothing(denoiser):
    asked = validation(denoiser=denoiser)
    assert (
        asked.loss(lambda *given: -exact_discriminator()(*given))
        > 0
        > asked.loss(exact_discriminator())
    )


def test_score_matching_gains_the_squared_difference_of_the_scores():
    """Half of the Fisher divergences: `E_p s^2 (score_p - score_q)^2`, a mean over levels."""
    asked = validation(20_000, denoiser=exact_denoiser())
    outcome = asked.outcome(exact_discriminator())
    x = draws(P, 100_000, seed=5)
    noise = draws(P, 100_000, seed=6)  # any independent numbers; made standard normal below
    noise = torch.randn(noise.shape, generator=torch.Generator().manual_seed(0)).double()
    expected = [
        float((s * (P.score(x + s * noise, s) - Q.score(x + s * noise, s))).square().mean())
        for s in LEVELS.tolist()
    ]
    assert outcome.gain == pytest.approx(sum(expected) / 3, abs=5 * outcome.standard_error)
    assert outcome.significant


def test_a_number_added_at_one_level_changes_nothing_that_score_matching_decides():
    asked = validation(denoiser=exact_denoiser())

    def shifted(x, sigma, label=None):
        return exact_discriminator()(x, sigma) + 3 * sigma

    assert asked.loss(shifted) == pytest.approx(asked.loss(exact_discriminator()))
    assert asked.outcome(shifted).bce == pytest.approx(asked.outcome(exact_discriminator()).bce)
    assert asked.outcome(shifted).bce == pytest.approx(BEST, abs=0.02)


def test_even_samples_choose_and_odd_ones_judge():
    def trained_on_the_first(x, sigma, label=None):
        return torch.where(torch.arange(len(x)) % 2 == 0, 1.0, -1.0) * exact_discriminator()(
            x, sigma
        )

    outcome = validation().outcome(trained_on_the_first)
    assert validation().loss(trained_on_the_first) < 0
    assert outcome.gain < 0 and not outcome.significant


def test_the_standard_error_is_that_of_repeated_validations():
    gains, errors = [], []
    for seed in range(60):
        asked = HeldOutValidation(
            draws(P, 200, seed=2 * seed), draws(Q, 200, seed=2 * seed + 1), LEVELS
        )
        outcome = asked.outcome(exact_discriminator())
        gains.append(outcome.gain)
        errors.append(outcome.standard_error)
    spread = float(torch.tensor(gains).std())
    assert spread == pytest.approx(sum(errors) / 60, rel=0.35)


def test_the_question_is_the_same_every_time_and_in_parts(monkeypatch):
    before = validation().logits(exact_discriminator())
    monkeypatch.setattr("hybridgen.training.validation._AT_ONCE", 7)
    for again, first in zip(validation().logits(exact_discriminator()), before, strict=True):
        torch.testing.assert_close(again, first)


def test_labels_are_shown_with_their_samples():
    seen = []

    def discriminator(x, sigma, label):
        seen.extend(label.tolist())
        return 0 * x[:, 0]

    HeldOutValidation(
        draws(P, 4),
        draws(Q, 5),
        torch.ones(1),
        label=torch.tensor([0, 1, 2, 3]),
        fake_label=torch.tensor([9, 8, 7, 6, 5]),
    ).logits(discriminator)
    assert seen == [0, 1, 2, 3, 9, 8, 7, 6, 5]


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="at least four samples of each kind, got 3 real and 9"):
        HeldOutValidation(draws(P, 3), draws(Q, 9), LEVELS)
    assert math.isclose(CHANCE, 1.386294, abs_tol=1e-6)


@pytest.mark.parametrize("count", [4, 8])
def test_of_few_samples_a_gain_must_be_larger_to_be_no_chance(count):
    """A logit that is as likely right as wrong on samples of one distribution."""
    passed = 0
    for seed in range(300):
        asked = HeldOutValidation(
            draws(P, count, seed=2 * seed), draws(P, count, seed=2 * seed + 1), LEVELS[:1]
        )
        passed += asked.outcome(lambda x, sigma, label=None: 0.01 * x[:, 0]).significant
    assert passed <= 12  # 4 %


@pytest.mark.parametrize(("gain", "significant"), [(0.021, True), (0.019, False), (-0.03, False)])
def test_a_gain_within_two_standard_errors_is_no_blessing(gain, significant):
    outcome = ValidationResult(bce=CHANCE - gain, gain=gain, standard_error=0.01)
    assert outcome.significant == significant
    assert ("is not significant" in outcome.sentence) != significant


def test_every_level_and_side_has_noise_of_its_own():
    seen = []

    def discriminator(x, sigma, label):
        seen.append(x / sigma[:, None])
        return 0 * x[:, 0]

    HeldOutValidation(torch.zeros(4, 1), torch.zeros(4, 1), torch.tensor([1.0, 2.0])).logits(
        discriminator
    )
    assert len({tuple(noise.flatten().tolist()) for noise in seen}) == 4


def test_the_numbers_that_score_matching_leaves_open_are_chosen_on_the_choosing_half():
    def odd_ones_out(x, sigma, label=None):
        return 5.0 * (torch.arange(len(x)) % 2)

    real, fake = validation(100, denoiser=exact_denoiser()).logits(odd_ones_out)
    for logits in (real, fake):
        torch.testing.assert_close(logits[:, ::2], torch.zeros(3, 50).double())
        torch.testing.assert_close(logits[:, 1::2], torch.full((3, 50), 5.0).double())


@pytest.mark.parametrize("denoiser", [None, exact_denoiser()])
def test_the_window_reaches_half_the_way_beyond_the_levels_where_something_is_known(denoiser):
    asked = validation(denoiser=denoiser)

    def known_from(low, high):
        def discriminator(x, sigma, label=None):
            return exact_discriminator()(x, sigma) * ((sigma >= low) & (sigma <= high))

        return asked.window(discriminator)

    assert known_from(0, 9) == (LOWEST, math.inf)
    assert known_from(0, 1) == (LOWEST, pytest.approx(math.sqrt(2)))
    assert known_from(1, 1) == (pytest.approx(math.sqrt(0.5)), pytest.approx(math.sqrt(2)))
    assert known_from(2, 9) == (pytest.approx(math.sqrt(2)), math.inf)
    assert asked.window(nothing) == (LOWEST, math.inf)
    assert asked.window(nothing, 9.0) == (LOWEST, 9.0)  # a guide that was trained below it


def test_the_window_is_found_on_the_choosing_half():
    def known_on_odd_rows(x, sigma, label=None):
        return (
            torch.where(torch.arange(len(x)) % 2 == 1, 1.0, 0.0)
            * exact_discriminator()(x, sigma)
            * (sigma < 1)
        )

    assert validation().window(known_on_odd_rows) == (LOWEST, math.inf)


WIDE = torch.tensor([0.1, 0.3, 0.9, 2.7, 8.0, 24.0, 72.0])


def harmful_above(limit):
    """The exact discriminator up to a noise level; above, numbers that know nothing of it."""

    def discriminator(x, sigma, label=None):
        chance = 6 * torch.sin(1e4 * x[:, 0])
        return torch.where(sigma < limit, exact_discriminator()(x, sigma), chance)

    return discriminator


def asked_at(levels, count, seed=0, fake=Q):
    return HeldOutValidation(draws(P, count, seed=seed), draws(fake, count, seed=-seed - 1), levels)


def test_a_guide_is_judged_where_it_is_asked():
    asked = asked_at(WIDE, 300)
    outcome = asked.outcome(harmful_above(0.5))
    assert asked.window(harmful_above(0.5)) == (LOWEST, pytest.approx(math.sqrt(0.3 * 0.9)))
    assert outcome.significant
    assert outcome.gain == pytest.approx(CHANCE - outcome.bce)
    within = asked_at(WIDE[:2], 300).outcome(exact_discriminator())
    assert outcome.gain == pytest.approx(within.gain)


def test_a_guide_that_knows_nothing_is_seldom_significant_wherever_it_is_asked():
    passed = sum(
        asked_at(WIDE, 100, seed, fake=P).outcome(harmful_above(0.0)).significant
        for seed in range(50)
    )
    assert passed <= 3


def test_what_a_guide_says_where_it_is_not_asked_does_not_end_its_training():
    asked = asked_at(WIDE, 1_000)
    whole, part = asked.loss(exact_discriminator()), asked.loss(harmful_above(0.5))
    assert whole < part < 0
    known = asked_at(WIDE[:2], 1_000).loss(exact_discriminator())
    assert part == pytest.approx(known * 2 / 7)  # at the other five it counts as nothing


def test_logits_however_far_from_zero_get_the_number_they_lack():
    def shifted(x, sigma, label=None):
        return exact_discriminator()(x, sigma) + 5_000

    plain, far = (
        validation(denoiser=exact_denoiser()).logits(each)
        for each in (exact_discriminator(), shifted)
    )
    for a, b in zip(plain, far, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
