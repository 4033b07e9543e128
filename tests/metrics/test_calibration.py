"""Calibration of discriminators whose probabilities are known."""

import math

import numpy as np
import pytest
import torch
from oracles import P, Q, draws, exact_discriminator
from PIL import Image

from hybridgen.evaluation.plots import draw_calibration
from hybridgen.metrics.calibration import (
    calibration_figures,
    effect_size,
    expected_calibration_error,
    reliability,
)

N = 20_000


def logits(factor=1.0, sigma=0.5, count=N):
    """Of the exact discriminator, made bolder by a factor, on real and generated samples at a
    level.
    """
    noise = torch.randn(2, count, 1, generator=torch.Generator().manual_seed(0)).double()
    real = draws(P, count) + sigma * noise[0]
    fake = draws(Q, count, seed=1) + sigma * noise[1]
    return factor * exact_discriminator()(real, sigma), factor * exact_discriminator()(fake, sigma)


def test_the_exact_discriminator_is_right_as_often_as_it_says():
    predicted, observed, share = reliability(*logits())
    torch.testing.assert_close(share, torch.full((10,), 0.1).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(predicted, observed, rtol=0, atol=0.03)
    assert predicted.diff().min() > 0
    assert float(predicted[-1] - predicted[0]) > 0.4
    chance = 0.4 * math.sqrt(10 / (2 * N))
    assert expected_calibration_error(*logits()) < 2 * chance


def test_boldness_and_timidity_are_errors():
    exact = expected_calibration_error(*logits())
    for factor in (0.3, 3.0):
        assert expected_calibration_error(*logits(factor)) > 10 * exact


def test_the_error_of_a_constant_discriminator_is_its_distance_from_one_half():
    same = torch.full((7,), math.log(3.0))
    assert expected_calibration_error(same, same) == pytest.approx(0.25)


def test_two_bins_by_hand():
    real, fake = torch.tensor([2.0, 2.0, -2.0]), torch.tensor([-2.0])
    predicted, observed, share = reliability(real, fake, bins=2)
    p = 1 / (1 + math.exp(-2.0))
    torch.testing.assert_close(predicted, torch.tensor([1 - p, p]).double())
    # Each kind weighs one half: below are a sixth of real and a half of fake, above the rest.
    torch.testing.assert_close(observed, torch.tensor([(1 / 6) / (2 / 3), 1.0]).double())
    torch.testing.assert_close(share, torch.tensor([2 / 3, 1 / 3]).double())


def test_the_number_of_generated_samples_does_not_move_the_shares():
    real, fake = logits()
    _, few, _ = reliability(real, fake[: N // 4])
    _, many, _ = reliability(real, fake)
    torch.testing.assert_close(few, many, rtol=0, atol=0.04)


def test_figures_name_each_level_and_its_cross_entropy():
    a, b = zip(logits(sigma=0.5), logits(sigma=2.0), strict=True)
    rows = calibration_figures(torch.stack(a), torch.stack(b), torch.tensor([0.5, 2.0]))
    assert [row["sigma"] for row in rows] == [0.5, 2.0]
    assert [row["bce"] for row in rows] == pytest.approx([1.2401, 1.3501], abs=0.01)
    assert 0.5 < rows[1]["accuracy"] < rows[0]["accuracy"] < 0.75


def test_the_picture_has_a_panel_for_each_level(tmp_path):
    sizes = {}
    for levels in (1, 4, 6):
        sigmas = torch.logspace(-1, 1, levels)
        a, b = zip(*(logits(sigma=float(s), count=300) for s in sigmas), strict=True)
        real, fake = torch.stack(a), torch.stack(b)
        figures = calibration_figures(real, fake, sigmas)
        draw_calibration(figures, real, fake, tmp_path / "c.png")
        with Image.open(tmp_path / "c.png") as image:
            sizes[levels] = image.size
    assert sizes[4][0] == 4 * sizes[1][0] and sizes[4][1] == sizes[1][1]
    assert sizes[6] == (sizes[4][0], 2 * sizes[4][1])


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        (lambda: reliability(torch.zeros(0), torch.zeros(2)), "logits of both kinds"),
        (
            lambda: calibration_figures(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(3)),
            r"\[l n\] and \[l m\] at levels \[l\], got \[2, 3\]",
        ),
    ],
)
def test_misuse_gets_a_sentence(misuse, sentence):
    with pytest.raises(ValueError, match=sentence):
        misuse()


def test_an_effect_size_is_the_difference_of_means_in_deviations():
    one, other = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0, 1.0, 3.0, 1.0])
    spread = np.sqrt((np.var([1, 2, 3], ddof=1) + np.var([-1, 1, 3, 1], ddof=1)) / 2)
    assert effect_size(one, other) == pytest.approx((2 - 1) / spread)
    assert effect_size(other, one) == -effect_size(one, other)
    assert effect_size(torch.zeros(3), torch.zeros(4)) == 0
    assert effect_size(torch.ones(3), torch.zeros(4)) == math.inf


def test_an_effect_size_of_equal_distributions_is_within_its_standard_error():
    rng = torch.Generator().manual_seed(0)
    sizes = [
        effect_size(torch.randn(256, generator=rng), 3 * torch.randn(128, generator=rng))
        for _ in range(200)
    ]
    error = math.sqrt((1 / 256 + 9 / 128) / 5)  # of unequal variances, in their root mean square
    assert np.std(sizes) == pytest.approx(error, rel=0.15)
