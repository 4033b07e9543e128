import math

import pytest
import torch

from hybridgen.data.images import ImageSource, digits
from hybridgen.data.points import MixturePoints
from hybridgen.errors import RunError
from hybridgen.evaluation.judges import judge_for
from hybridgen.evaluation.modes import mode_coverage
from hybridgen.evaluation.prdc import expected_coverage
from hybridgen.maths.mixtures import ring

FIGURES = {
    "frechet_distance",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "class_reverse_kl",
}


@pytest.fixture(scope="module")
def judge():
    return judge_for(digits(), samples=400)


def noise_source(count=60, side=8, labels=None):
    pixels = torch.randint(
        0,
        256,
        (count, 1, side, side),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )
    half = count // 2
    return ImageSource(
        name="noise",
        train=pixels[:half],
        held_out=pixels[half:],
        train_labels=None if labels is None else labels[:half],
        held_out_labels=None if labels is None else labels[half:],
    )


def test_real_digits_are_judged_at_the_floor(judge):
    assert judge.floors.keys() == {f"floor_{name}" for name in FIGURES}
    x, _ = digits().reference("train", 400)
    assert judge(x) == {name: judge.floors[f"floor_{name}"] for name in FIGURES}
    expected = expected_coverage(297, 400)
    assert judge.floors["floor_coverage"] == pytest.approx(expected, abs=0.03)
    assert judge.floors["floor_precision"] > 0.9
    assert judge.floors["floor_recall"] > 0.9
    assert abs(judge.floors["floor_kid"]) < 0.03
    assert judge.floors["floor_class_reverse_kl"] < 0.05


def test_noise_and_a_single_digit_are_judged_far_from_it(judge):
    x, label = digits().reference("train", 1_500)
    noisy = judge(x[:400] + torch.randn(400, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    zeros = x[label == 0]
    only = judge(zeros.repeat(400 // len(zeros) + 1, 1, 1, 1)[:400])
    for row in (noisy, only):
        assert row["frechet_distance"] > 5 * judge.floors["floor_frechet_distance"]
        assert row["kid"] > 0.1
        assert row["coverage"] < 0.6
    assert noisy["precision"] < 0.6
    assert only["precision"] > 0.7
    assert only["recall"] < 0.6
    assert only["class_reverse_kl"] == pytest.approx(math.log(10), abs=0.1)


def test_judging_repeats_itself_and_leaves_random_numbers_alone(judge):
    x = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    before = torch.random.get_rng_state()
    first = judge(x)
    again = judge_for(digits(), samples=400)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again(x) == first
    assert again.floors == judge.floors


def test_images_are_judged_as_they_would_be_saved(judge):
    x, _ = digits().reference("train", 400)
    outside = torch.where(x > 0.99, 3.0, x) + 0.001
    assert judge(outside) == judge(x)


def test_images_that_are_not_finite_and_another_number_are_refused(judge):
    x = torch.zeros(400, 1, 8, 8)
    x[7, 0, 2, 2] = math.nan
    with pytest.raises(RunError, match="not finite"):
        judge(x)
    with pytest.raises(ValueError, match="hold for 400 samples, got 399"):
        judge(x[1:])


def test_classes_are_counted_only_where_the_network_knows_them():
    unlabelled, foreign = noise_source(), noise_source(labels=torch.arange(60) % 10)
    for source in (unlabelled, foreign):
        judge = judge_for(source)
        assert judge.samples == 30
        assert "floor_class_reverse_kl" not in judge.floors
        assert "floor_coverage" in judge.floors


def test_a_judge_asks_for_no_more_than_the_training_images():
    assert judge_for(digits()).samples == 1_500


def test_without_a_network_or_enough_images_there_is_no_judge():
    assert judge_for(noise_source(side=16)) is None
    assert judge_for(noise_source(count=10)) is None
    with pytest.raises(ValueError, match="more than 5 samples, got samples=5"):
        judge_for(digits(), samples=5)


def test_points_are_judged_by_modes_beside_a_perfect_sampler():
    mixture = ring().standardised()
    judge = judge_for(MixturePoints(mixture=mixture, name="ring"), samples=500)
    points = mixture.sample(500, torch.Generator().manual_seed(3))[0]
    row = judge(points)
    assert row | mode_coverage(points, mixture) == row
    assert row["sliced_wasserstein"] < 2 * judge.floors["floor_sliced_wasserstein"]
    assert judge(points + 1)["sliced_wasserstein"] > 0.8
    assert {f"floor_{name}" for name in row} == judge.floors.keys()
    assert judge_for(MixturePoints(mixture=mixture, name="ring")).samples == 2_500
    with pytest.raises(ValueError, match="got 10"):
        judge(points[:10])
