"""Refinement by a density ratio, on distributions small enough to know the answer."""

import math
from functools import partial

import pytest
import torch

from hybridgen import Refined, SinglePass

PROBABILITIES = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
MODEL = torch.tensor([0.4, 0.4, 0.1, 0.1], dtype=torch.float64)
RATIO = (PROBABILITIES / MODEL).log()
BOUND = math.log(4)


def model(noise, label=None):
    """Draws of four outcomes by the wrong probabilities."""
    level = torch.special.ndtr(noise)
    return torch.searchsorted(MODEL.cumsum(0), level).clamp_max(3).double()


def log_ratio(x, label=None):
    return RATIO[x[:, 0].long()]


def refine(how, rounds, count=100_000, bound=BOUND, ratio=log_ratio, sampler=model, seed=0):
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 1, generator=rng, dtype=torch.float64)
    return Refined(SinglePass(sampler, (1,)), ratio, how, rounds, bound).refine(noise)


def frequencies(samples):
    return torch.bincount(samples[:, 0].long(), minlength=4).double() / len(samples)


def test_what_rejection_accepts_has_the_right_probabilities():
    result = refine("rejection", 1, 400_000)
    accepted = result.samples[~result.unaccepted]
    torch.testing.assert_close(frequencies(accepted), PROBABILITIES, rtol=0, atol=0.006)
    assert len(accepted) / 400_000 == pytest.approx(1 - (1 - 1 / 4) ** 2, abs=0.004)


def test_a_bound_below_the_largest_ratio_keeps_the_models_proportions_above_it():
    result = refine("rejection", 1, 400_000, bound=math.log(2))
    expected = MODEL * (RATIO.exp() / 2).clamp_max(1)
    accepted = frequencies(result.samples[~result.unaccepted])
    torch.testing.assert_close(accepted, expected / expected.sum(), rtol=0, atol=0.006)


@pytest.mark.parametrize("k", [1, 2, 4, 40])
def test_independence_chains_follow_their_transition_matrix(k):
    move = MODEL * (RATIO - RATIO[:, None]).exp().clamp_max(1)
    move = move - torch.diag(move.diagonal())
    move = move + torch.diag(1 - move.sum(1))
    expected = MODEL @ torch.linalg.matrix_power(move, k)
    ends = frequencies(refine("metropolis_hastings", k).samples)
    torch.testing.assert_close(ends, expected, rtol=0, atol=0.008)
    assert float((ends - PROBABILITIES).abs().sum() / 2) <= (1 - 1 / 4) ** k + 0.005


@pytest.mark.parametrize("k", [1, 3])
def test_a_choice_among_few_has_the_law_that_enumeration_gives(k):
    rows = torch.cartesian_prod(*[torch.arange(4)] * (k + 1)).reshape(-1, k + 1)
    chance = MODEL[rows].prod(dim=1, keepdim=True) * torch.softmax(RATIO[rows], dim=1)
    expected = torch.zeros(4, dtype=torch.float64).index_add(0, rows.flatten(), chance.flatten())
    chosen = frequencies(refine("importance", k, 200_000).samples)
    torch.testing.assert_close(chosen, expected, rtol=0, atol=0.006)


def scripted(ratios, how, *, shift=0.0):
    """Which proposal 64 samples end with whose proposals all have these log ratios, in turn."""
    turns = iter(ratios)
    result = refine(how, len(ratios) - 1, 64, ratio=lambda x, _: x[:, 0] * 0 + next(turns) + shift)
    return set(result.proposal.tolist())


@pytest.mark.parametrize("how", ["metropolis_hastings", "importance"])
def test_what_is_impossible_is_left_at_once_and_never_chosen(how):
    no = -math.inf
    assert scripted([no, no, -40.0, no], how) == {2}
    assert scripted([1.0, no, no], how) == {0}
    assert scripted([no, no, no], how) == {0}
    assert scripted([0.0, 60.0, 0.0], how, shift=900) == {1}


def test_rejection_never_accepts_what_is_impossible_and_always_what_reaches_the_bound():
    assert scripted([-math.inf, BOUND, 0.0], "rejection") == {1}
    assert refine("rejection", 2, 64, ratio=lambda x, _: x[:, 0] - math.inf).unaccepted.all()


@pytest.mark.parametrize("how", ["rejection", "metropolis_hastings", "importance"])
def test_half_precision_logits_are_taken_as_they_are(how):
    halves = partial(torch.Tensor.to, dtype=torch.bfloat16)
    result = refine(how, 3, 500, ratio=lambda x, _: halves(log_ratio(x)))
    expected = refine(how, 3, 500, ratio=lambda x, _: halves(log_ratio(x)).double())
    assert torch.equal(result.proposal, expected.proposal)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_log_ratios_that_are_no_numbers_are_refused(value):
    with pytest.raises(ValueError, match=r"3 of 3 log ratios are nan or infinite.*raw logits"):
        refine("rejection", 1, 3, ratio=lambda x, _: x[:, 0] * 0 + value)
