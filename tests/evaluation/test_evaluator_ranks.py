"""The evaluator on samplers whose rank is known, and how often its intervals hold the mean."""

import math
from statistics import fmean

import pytest
import torch
from evaluation.conftest import RING, noisy_digits

from hybridgen.maths.mixtures import GaussianMixture
from hybridgen.maths.rng import rng_for
from hybridgen.report.ranking import loss_value


def first(modes, std=1.0):
    """The ring's first modes, wider by a factor."""
    return GaussianMixture(RING.weights[:modes], RING.means[:modes], std * RING.stds[:modes])


def broken(share, count, seed):
    """Exact points of which a share is replaced, half by two modes and half by wide noise."""
    generator = rng_for("broken", seed)
    points = RING.sample(count, generator)[0]
    bad = torch.rand(count, generator=generator) < share
    twos = first(2).sample(count, generator)[0]
    wide = torch.randn(count, 2, generator=generator)
    which = torch.rand(count, 1, generator=generator) < 0.5
    return torch.where(bad[:, None], torch.where(which, twos, wide), points)


def assert_intervals_cover(evaluator, sampler):
    rows = [evaluator(sampler(evaluator.samples, seed)) for seed in range(20)]
    covered = {}
    for name in rows[0].keys() - {"c2st_p"}:
        mean = fmean(row[name].value for row in rows)
        covered[name] = sum(row[name].low <= mean <= row[name].high for row in rows)
    assert min(covered.values()) >= 17, covered


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_intervals_cover_the_mean_of_repeats_on_the_ring(on_ring, share):
    assert_intervals_cover(on_ring, lambda count, seed: broken(share, count, seed))


def test_intervals_cover_the_mean_of_repeats_on_digits(on_digits):
    assert_intervals_cover(on_digits, lambda count, seed: noisy_digits(0.2, count, seed))


def test_exact_samples_come_out_at_the_floor(on_ring):
    row = on_ring(RING.sample(500, rng_for("exact", 1))[0])
    for name, estimate in row.items():
        # The floor is a mean over a few sets and so has half of a single set's uncertainty.
        reach = 1.2 * max(estimate.high - estimate.value, estimate.value - estimate.low)
        at_floor = abs(estimate.value - estimate.floor) <= reach
        assert at_floor or name == "c2st_p", (name, estimate)
    assert row["c2st_p"].value > 0.05
    assert row["jsd_bound"].low < 0 and row["tv_bound"].low < 0


def test_a_collapsed_sampler_is_dominated(on_ring):
    exact = on_ring(RING.sample(500, rng_for("exact", 3))[0])
    collapsed = on_ring(first(2).sample(500, rng_for("collapsed"))[0])
    for name in exact.keys() - {"precision", "density", "high_quality", "mode_std", "c2st_p"}:
        apart = loss_value(collapsed[name], name).value - loss_value(exact[name], name).value
        width = exact[name].high - exact[name].low + collapsed[name].high - collapsed[name].low
        assert apart > width / 2, name
    assert collapsed["modes"].value == 2
    assert collapsed["c2st_p"].value < 1e-6
    # Of 2 modes of 8: JSD .497 minus what 500 points do not teach, and total variation 3/4.
    assert 0.3 < collapsed["jsd_bound"].value < collapsed["jsd_bound"].high
    assert collapsed["jsd_bound"].low < math.log(2) / 2 + math.log(5 / 4) / 8 + 0.15
    assert collapsed["tv_bound"].low <= 0.75 <= collapsed["tv_bound"].high + 0.05


def test_the_order_of_graded_samplers_is_recovered(on_ring):
    rows = [on_ring(broken(share, 500, 7)) for share in (0.0, 0.2, 0.4, 0.6, 0.9)]
    ordered = {
        *("frechet_distance", "kid", "precision", "density", "coverage", "c2st_accuracy"),
        *("tv_bound", "jsd_bound", "high_quality", "reverse_kl", "sliced_wasserstein"),
    }
    for name in ordered:
        graded = [loss_value(row[name], name).value for row in rows]
        # The first two may lie within chance of each other; all others must not be exchanged.
        assert graded[1:] == sorted(graded[1:]) and max(graded[:2]) < graded[2], (name, graded)
    wider = [on_ring(first(8, std).sample(500, rng_for("wide"))[0]) for std in (1, 1.5, 2, 3, 5)]
    for name in ("precision", "density", "high_quality", "c2st_accuracy", "jsd_bound"):
        graded = [loss_value(row[name], name).value for row in wider]
        assert graded == sorted(graded), (name, graded)
