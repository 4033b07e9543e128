"""Refinement by a density ratio, on distributions small enough to know the answer."""

import math

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridgen.sampling.refinement import (
    importance_choice,
    metropolis_hastings,
    rejection,
)

PROBABILITIES = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
MODEL = torch.tensor([0.4, 0.4, 0.1, 0.1], dtype=torch.float64)
RATIO = (PROBABILITIES / MODEL).log()
BOUND = math.log(4)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def from_model(*shape, seed=0):
    """Draws of four outcomes by the wrong probabilities."""
    draws = torch.multinomial(MODEL, math.prod(shape), replacement=True, generator=rng(seed))
    return draws.reshape(shape)


def frequencies(outcomes):
    return torch.bincount(outcomes, minlength=4).double() / len(outcomes)


def test_what_rejection_accepts_has_the_right_probabilities():
    outcomes = from_model(200_000)
    accepted = rejection(RATIO[outcomes], BOUND, torch.rand(200_000, generator=rng(1)))
    torch.testing.assert_close(frequencies(outcomes[accepted]), PROBABILITIES, rtol=0, atol=0.006)
    assert float(accepted.double().mean()) == pytest.approx(1 / 4, abs=0.004)


def test_rejection_compares_the_uniform_with_the_ratio_over_the_bound():
    log_ratio = torch.tensor([0.0, 1.0, -1.0, -math.inf, 5.0])
    just_below = torch.tensor([math.exp(-1), 1.0, math.exp(-2), 0.0, 1.0]) - 1e-6
    just_above = torch.tensor([math.exp(-1), 1.0, math.exp(-2), 0.0, 1.0]) + 1e-6
    accepted = rejection(log_ratio, 1.0, just_below.clamp_min(0))
    assert accepted.tolist() == [True, True, True, False, True]
    accepted = rejection(log_ratio, 1.0, just_above.clamp_max(0.999999))
    assert accepted.tolist() == [False, True, False, False, True]


def test_a_bound_below_the_largest_ratio_keeps_the_models_proportions_above_it():
    outcomes = from_model(400_000)
    accepted = rejection(RATIO[outcomes], math.log(2), torch.rand(400_000, generator=rng(1)))
    expected = MODEL * (RATIO.exp() / 2).clamp_max(1)
    got = frequencies(outcomes[accepted])
    torch.testing.assert_close(got, expected / expected.sum(), rtol=0, atol=0.006)


def chains(k, count=100_000):
    outcomes = from_model(count, k + 1)
    uniform = torch.rand(count, k, generator=rng(1))
    index = metropolis_hastings(RATIO[outcomes], uniform)
    return frequencies(outcomes.gather(1, index[:, None])[:, 0])


@pytest.mark.parametrize("k", [0, 1, 2, 4])
def test_independence_chains_follow_their_transition_matrix(k):
    move = MODEL * (RATIO - RATIO[:, None]).exp().clamp_max(1)
    move = move - torch.diag(move.diagonal())
    move = move + torch.diag(1 - move.sum(1))
    expected = MODEL @ torch.linalg.matrix_power(move, k)
    torch.testing.assert_close(chains(k), expected, rtol=0, atol=0.008)


@pytest.mark.parametrize("k", [1, 4, 8])
def test_chains_approach_the_data_at_least_as_fast_as_the_bound_says(k):
    distance = float((chains(k) - PROBABILITIES).abs().sum() / 2)
    assert distance <= (1 - 1 / 4) ** k + 0.005


def test_chains_that_start_at_real_samples_follow_the_data_at_once():
    real = torch.multinomial(PROBABILITIES, 100_000, replacement=True, generator=rng(2))
    outcomes = torch.cat([real[:, None], from_model(100_000, 1)], dim=1)
    index = metropolis_hastings(RATIO[outcomes], torch.rand(100_000, 1, generator=rng(1)))
    ends = outcomes.gather(1, index[:, None])[:, 0]
    assert float((index == 1).double().mean()) > 0.3
    torch.testing.assert_close(frequencies(ends), PROBABILITIES, rtol=0, atol=0.006)


def test_long_chains_forget_the_model():
    torch.testing.assert_close(chains(40), PROBABILITIES, rtol=0, atol=0.008)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(0, 6), st.integers(0, 1000))
def test_chains_are_those_of_a_plain_loop(count, k, seed):
    log_ratio = 3 * torch.randn(count, k + 1, generator=rng(seed))
    uniform = torch.rand(count, k, generator=rng(seed + 1))
    expected = []
    for row, draws in zip(log_ratio.tolist(), uniform.tolist(), strict=True):
        state = 0
        for proposal, draw in enumerate(draws, start=1):
            if draw < min(1.0, math.exp(row[proposal] - row[state])):
                state = proposal
        expected.append(state)
    assert metropolis_hastings(log_ratio, uniform).tolist() == expected


def test_a_chain_leaves_an_impossible_start_and_never_goes_to_an_impossible_place():
    log_ratio = torch.tensor([[-math.inf, -math.inf, -40.0, -math.inf]])
    uniform = torch.tensor([[0.0, 0.999, 0.0]])
    assert metropolis_hastings(log_ratio, uniform).tolist() == [2]


@pytest.mark.parametrize("k", [0, 1, 3])
def test_a_choice_among_few_has_the_law_that_enumeration_gives(k):
    rows = torch.cartesian_prod(*[torch.arange(4)] * (k + 1)).reshape(-1, k + 1)
    chance = MODEL[rows].prod(dim=1, keepdim=True) * torch.softmax(RATIO[rows], dim=1)
    expected = torch.zeros(4, dtype=torch.float64).index_add(0, rows.flatten(), chance.flatten())
    outcomes = from_model(200_000, k + 1)
    index = importance_choice(RATIO[outcomes], torch.rand(200_000, generator=rng(1)))
    got = frequencies(outcomes.gather(1, index[:, None])[:, 0])
    torch.testing.assert_close(got, expected, rtol=0, atol=0.006)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(0, 6), st.integers(0, 1000))
def test_a_choice_is_where_the_uniform_falls_in_the_rows_distribution(count, k, seed):
    log_ratio = 3 * torch.randn(count, k + 1, generator=rng(seed), dtype=torch.float64)
    uniform = torch.rand(count, generator=rng(seed + 1), dtype=torch.float64)
    reached = torch.softmax(log_ratio, dim=1).cumsum(dim=1)
    expected = [
        next((j for j, level in enumerate(row) if draw < level), k)
        for row, draw in zip(reached.tolist(), uniform.tolist(), strict=True)
    ]
    assert importance_choice(log_ratio, uniform).tolist() == expected
    assert importance_choice(log_ratio + 900, uniform).tolist() == expected


def test_a_choice_never_falls_on_what_is_impossible():
    no = -math.inf
    log_ratio = torch.tensor([[no, 0.0, no], [no, no, 2.0], [1.0, no, no], [no, no, no]])
    for uniform in (0.0, 0.5, 1 - 2**-53):
        draws = torch.full((4,), uniform, dtype=torch.float64)
        assert importance_choice(log_ratio, draws).tolist() == [1, 2, 0, 0]


def test_half_precision_logits_are_taken_as_they_are():
    log_ratio, uniform = torch.tensor([0.5, -0.5, 2.0]), torch.tensor([0.9, 0.1, 0.5])
    halves = log_ratio.bfloat16()
    assert rejection(halves, 2.0, uniform).tolist() == rejection(log_ratio, 2.0, uniform).tolist()
    rows = rearrange(log_ratio, "n -> n 1").expand(3, 2)
    assert torch.equal(
        importance_choice(rows.bfloat16(), uniform), importance_choice(rows, uniform)
    )


ZEROS = torch.zeros(3)


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        (lambda: rejection(torch.zeros(3, 1), 0.0, ZEROS), r"ratios \[n\].*\[3, 1\]"),
        (lambda: rejection(torch.zeros(0), 0.0, torch.zeros(0)), "not empty"),
        (lambda: rejection(ZEROS, 0.0, torch.zeros(4)), r"uniforms of shape \[3\], got \[4\]"),
        (lambda: rejection(ZEROS, math.nan, ZEROS), "log_bound must be finite, got nan"),
        (lambda: rejection(ZEROS, 0.0, ZEROS + 1), r"uniforms in \[0, 1\)"),
        (lambda: rejection(ZEROS, 0.0, ZEROS - 0.1), r"uniforms in \[0, 1\)"),
        (lambda: rejection(ZEROS, 0.0, ZEROS * math.nan), r"uniforms in \[0, 1\)"),
        (lambda: rejection(ZEROS * math.nan, 0.0, ZEROS), "3 of 3 log ratios are nan"),
        (lambda: rejection(ZEROS + math.inf, 0.0, ZEROS), "raw logits"),
        (lambda: importance_choice(ZEROS, ZEROS), r"\[n k\+1\].*\[3\]"),
        (lambda: importance_choice(torch.zeros(2, 3), ZEROS), r"shape \[2\], got \[3\]"),
        (lambda: metropolis_hastings(ZEROS, torch.zeros(3, 0)), r"\[n k\+1\].*\[3\]"),
        (
            lambda: metropolis_hastings(torch.zeros(3, 2), torch.zeros(3, 2)),
            r"shape \[3, 1\], got \[3, 2\]",
        ),
    ],
)
def test_misuse_gets_a_sentence(misuse, sentence):
    with pytest.raises(ValueError, match=sentence):
        misuse()
