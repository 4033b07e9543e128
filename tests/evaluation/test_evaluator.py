"""What a evaluator measures, says and refuses."""

import math

import pytest
import torch
from einops import rearrange

from hybridgen.data.images import ImageSource, digits, quantised
from hybridgen.data.points import MixturePoints
from hybridgen.errors import InputError, RunError
from hybridgen.evaluation.evaluator import build_evaluator, judge_for
from hybridgen.maths.mixtures import ring
from hybridgen.maths.rng import rng_for
from hybridgen.metrics.distances import frechet_distance, kernel_distance, sliced_wasserstein
from hybridgen.metrics.modes import mode_coverage
from hybridgen.metrics.neighbours import expected_coverage, prdc
from hybridgen.metrics.two_sample import two_sample_test

RING = ring().standardised()
POINTS = {
    *("frechet_distance", "kid", "precision", "recall", "density", "coverage"),
    *("c2st_accuracy", "c2st_p", "tv_bound", "jsd_bound"),
    *("modes", "high_quality", "reverse_kl", "mode_std", "sliced_wasserstein"),
}
IMAGES = {
    *("frechet_distance", "kid", "precision", "recall", "density", "coverage"),
    *("class_reverse_kl", "c2st_accuracy", "c2st_p", "tv_bound", "jsd_bound", "memorisation"),
}


@pytest.fixture(scope="module")
def on_ring():
    return build_evaluator(MixturePoints(mixture=RING, name="ring"), samples=500)


@pytest.fixture(scope="module")
def on_digits():
    return build_evaluator(digits(), samples=300)


def noisy_digits(noise, count, seed):
    """Training digits with noise on every pixel."""
    generator, (pool, _) = rng_for("noisy", seed), digits().reference("train", 1_500)
    x = pool[torch.randint(len(pool), (count,), generator=generator)]
    return x + noise * torch.randn(x.shape, generator=generator)


def test_values_are_those_of_the_metrics_by_themselves(on_ring):
    x, real = RING.sample(500, rng_for("alone"))[0], on_ring.reference.held_out
    x[:100] *= 1.3
    row, test = on_ring(x), two_sample_test(real, x, seed=0)
    expected = {
        **prdc(real, x),
        **mode_coverage(x, RING),
        "frechet_distance": frechet_distance(real, x),
        "kid": kernel_distance(real, x, subsets=1, subset_size=500),
        "sliced_wasserstein": sliced_wasserstein(real, x),
        "c2st_accuracy": test.accuracy.value,
        "c2st_p": test.p,
        "tv_bound": test.tv_bound.value,
        "jsd_bound": test.jsd_bound.value,
    }
    for name, estimate in row.items():
        assert estimate.value == pytest.approx(expected[name], abs=1e-9), name
        assert estimate.low <= estimate.value <= estimate.high, name


def test_truths_are_those_of_the_density(on_ring):
    row = on_ring(RING.sample(500, rng_for("exact", 2))[0])
    assert row.keys() == POINTS
    assert row["high_quality"].ideal == pytest.approx(1 - math.exp(-4.5))
    assert row["mode_std"].ideal == pytest.approx(0.974, abs=5e-4)
    assert row["modes"].ideal == 8
    assert row["c2st_accuracy"].ideal == 0.5
    assert row["frechet_distance"].ideal == row["kid"].ideal == row["jsd_bound"].ideal == 0
    for name in ("high_quality", "mode_std", "modes", "density", "coverage", "c2st_accuracy"):
        assert row[name].low <= row[name].ideal <= row[name].high, name
    assert row["precision"].ideal is None


def test_digits_are_measured_beside_real_ones(on_digits):
    x, _ = digits().reference("train", 300)
    real, noisy = on_digits(x), on_digits(noisy_digits(0.5, 300, 0))
    assert real.keys() == noisy.keys() == IMAGES
    assert real["memorisation"].value == 1.0
    assert noisy["memorisation"].value < 0.5
    assert all(row["memorisation"].floor == 0.5 for row in (real, noisy))
    for name in ("frechet_distance", "kid", "c2st_accuracy", "jsd_bound"):
        assert noisy[name].value > real[name].value and noisy[name].ideal is None, name
    for name in ("precision", "density", "coverage"):
        assert noisy[name].value < real[name].value, name
    assert noisy["frechet_distance"].low > noisy["frechet_distance"].floor


def test_classes_are_counted_and_neighbours_found(on_digits):
    x, label = digits().reference("train", 300)
    counted = torch.tensor(on_digits.histogram(x))
    assert (counted - torch.bincount(label, minlength=10)).abs().sum() < 10
    assert len(on_digits.histogram(digits().reference("held_out", 50)[0])) == 10
    distance, index = on_digits.nearest(x[:5] + 1e-3)
    assert distance.tolist() == [0.0] * 5
    torch.testing.assert_close(on_digits.train[index], x[:5])


def test_a_ruler_says_what_it_cannot_tell(on_digits, on_ring):
    said = " ".join(on_digits.warnings)
    assert "298 examples to test on" in said and "accuracy of 0.585 or more" in said
    assert "297 held-out examples" in said
    assert "more than its" not in said
    asked = build_evaluator(digits(), samples=9_999)
    assert asked.samples == 1_500
    assert any("9999 samples were asked for" in warning for warning in asked.warnings)
    few = build_evaluator(digits(), samples=60)
    assert any("more examples than its 64 features" in warning for warning in few.warnings)
    assert [w for w in on_ring.warnings if "held-out" in w] == [
        w for w in on_ring.warnings if w.startswith("There are 500 held-out")
    ]


def test_measuring_repeats_itself_and_leaves_random_numbers_alone(on_ring):
    x = RING.sample(500, rng_for("again"))[0]
    before = torch.random.get_rng_state()
    again = build_evaluator(MixturePoints(mixture=RING, name="ring"), samples=500)
    other = build_evaluator(MixturePoints(mixture=RING, name="ring"), samples=500, seed=1)
    assert again(x) == on_ring(x)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.key == on_ring.key != other.key
    first, second, third = x.split(100)[:3]
    assert build_evaluator((first, second)).key != build_evaluator((first, third)).key


def test_ones_own_data_and_features_take_tensors():
    images = torch.rand(180, 3, 4, 4, generator=rng_for("images")) * 2 - 1
    train, held_out, x = images.split(60)

    def bright(part):
        return rearrange(part, "b c h w -> b (c h w)")[:, :5]

    evaluator = build_evaluator((train, held_out), features=bright)
    assert (evaluator.samples, evaluator.held_out, evaluator.features) == (60, 60, "bright")
    row = evaluator(x)
    assert row.keys() == IMAGES - {"class_reverse_kl"}
    assert evaluator.histogram(x) == ()
    # As they would be saved: a change within rounding to 256 levels changes nothing.
    saved = quantised(x)
    assert evaluator(saved) == evaluator(saved + 1e-3) == row
    points = build_evaluator((train[:, 0, 0, :2], held_out[:, 0, 0, :2]))
    assert points.features == "coordinates"
    assert "memorisation" in points(x[:, 0, 0, :2])


def test_misuse_gets_a_sentence(on_ring, on_digits):
    with pytest.raises(ValueError, match="hold for 500 samples, got 499"):
        on_ring(torch.zeros(499, 2))
    with pytest.raises(ValueError, match=r"expected examples \[2\], got \[3\]"):
        on_ring(torch.zeros(500, 3))
    with pytest.raises(RunError, match="not finite"):
        on_ring(torch.full((500, 2), math.nan))
    with pytest.raises(RunError, match="not finite"):
        on_digits(torch.full((300, 1, 8, 8), math.inf))
    with pytest.raises(ValueError, match="without end have no nearest"):
        on_ring.nearest(torch.zeros(3, 2))
    x = torch.linspace(-1, 1, 4_800).reshape(100, 3, 4, 4)
    with pytest.raises(InputError, match=r"no network is shipped for examples \[3, 4, 4\]: pass"):
        build_evaluator((x, x))
    with pytest.raises(InputError, match=r"must be \[100 d\], got \[100, 3, 4, 4\]"):
        build_evaluator((x, x), features=lambda part: part)
    with pytest.raises(InputError, match="30 samples beside 297 held-out examples are too few"):
        build_evaluator(digits(), samples=30)
    with pytest.raises(InputError, match="one shape"):
        build_evaluator((x, x[:, :1]))


def test_a_ruler_says_when_it_looks_at_a_part_of_the_training_data(monkeypatch):
    monkeypatch.setattr("hybridgen.evaluation.evaluator.TRAINING", 200)
    found = build_evaluator(digits(), samples=100, parts=4)
    assert found.train is not None
    assert len(found.train) == 200
    assert "among 200 of 1500" in found.warnings[-1]


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
