"""What an evaluator measures, says and refuses."""

import math

import pytest
import torch
from einops import rearrange
from evaluation.conftest import RING, noisy_digits

from hybridgen.data.images import ImageSource, digits, quantised
from hybridgen.data.points import MixturePoints
from hybridgen.errors import InputError, RunError
from hybridgen.evaluation import baselines
from hybridgen.evaluation import evaluator as evaluators
from hybridgen.evaluation.baselines import duration_warning
from hybridgen.evaluation.evaluator import Unmeasurable, build_evaluator
from hybridgen.maths.rng import rng_for
from hybridgen.metrics.distances import frechet_distance, kernel_distance, sliced_wasserstein
from hybridgen.metrics.intervals import paired_errors
from hybridgen.metrics.modes import mode_coverage
from hybridgen.metrics.neighbours import expected_coverage, prdc
from hybridgen.metrics.two_sample import two_sample_test

POINTS = {
    *("frechet_distance", "kid", "precision", "recall", "density", "coverage"),
    *("c2st_accuracy", "c2st_p", "tv_bound", "jsd_bound"),
    *("modes", "high_quality", "reverse_kl", "mode_std", "sliced_wasserstein"),
}
IMAGES = {
    *("frechet_distance", "kid", "precision", "recall", "density", "coverage"),
    *("class_reverse_kl", "c2st_accuracy", "c2st_p", "tv_bound", "jsd_bound", "memorisation"),
}


def test_values_are_those_of_the_metrics_by_themselves(on_ring):
    x, real = RING.sample(500, rng_for("alone"))[0], on_ring.held_out
    x[:100] *= 1.3
    row = on_ring(x)
    expected = {
        **{name: float(value) for name, value in prdc(real, x).items()},
        **mode_coverage(x, RING),
        "frechet_distance": frechet_distance(real, x),
        "kid": float(kernel_distance(real, x)),
        "sliced_wasserstein": sliced_wasserstein(real, x),
        **{name: figure.value for name, figure in two_sample_test(real, x, seed=0).items()},
    }
    for name, estimate in row.items():
        assert estimate.value == pytest.approx(expected[name], abs=1e-9), name
        assert estimate.low <= estimate.value <= estimate.high, name


def test_ideal_values_are_those_of_the_density(on_ring):
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
    index, distance, held_out_distance = on_digits.nearest(x[:5] + 1e-3)
    assert distance.tolist() == pytest.approx([0.0] * 5, abs=1e-4)  # in batches of another size
    features = on_digits.extractor.extract(x[:5] + 1e-3).features
    expected = torch.cdist(features.double(), on_digits.held_out.double()).min(1).values
    torch.testing.assert_close(held_out_distance, expected)
    torch.testing.assert_close(on_digits.training_examples[index], x[:5])


def test_an_evaluator_says_what_it_cannot_tell(on_digits, on_ring):
    warnings = " ".join(on_digits.warnings)
    assert "298 examples to test on" in warnings and "accuracy of 0.585 or more" in warnings
    assert "297 held-out examples" in warnings
    assert "more than its" not in warnings
    largest = build_evaluator(digits(), samples=9_999)
    assert largest.samples == 1_500
    assert any("9999 samples were asked for" in warning for warning in largest.warnings)
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
    assert (evaluator.samples, len(evaluator.held_out)) == (60, 60)
    assert evaluator.extractor.name == "bright"
    row = evaluator(x)
    assert row.keys() == IMAGES - {"class_reverse_kl"}
    assert evaluator.histogram(x) == ()
    # As they would be saved: a change within rounding to 256 levels changes nothing.
    saved = quantised(x)
    assert evaluator(saved) == evaluator(saved + 1e-3) == row
    half, single = (
        build_evaluator(
            (train, held_out), features=lambda part, to=to: bright(part).bfloat16().to(to)
        )
        for to in (torch.bfloat16, torch.float32)
    )
    assert half(x) == single(x)
    points = build_evaluator((train[:, 0, 0, :2], held_out[:, 0, 0, :2]))
    assert points.extractor.name == "coordinates"
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
    for subsets in (0, 1):
        with pytest.raises(ValueError, match=f"at least 2 subsets .* got {subsets}: give more"):
            build_evaluator(digits(), samples=100, subsets=subsets)


@pytest.mark.parametrize("intervals", [True, False])
@pytest.mark.parametrize("samples", [0, -1])
@pytest.mark.parametrize("source", [digits(), MixturePoints(mixture=RING, name="ring")])
def test_no_samples_are_not_the_default_number_of_them(source, samples, intervals):
    with pytest.raises(InputError, match=f"at least 1, got {samples}: leave it out"):
        build_evaluator(source, samples=samples, intervals=intervals)


def test_an_evaluator_says_when_it_looks_at_a_part_of_the_training_data(monkeypatch):
    monkeypatch.setattr("hybridgen.evaluation.evaluator.TRAINING", 200)
    evaluator = build_evaluator(digits(), samples=100, subsets=4)
    assert evaluator.training_examples is not None
    assert len(evaluator.training_examples) == 200
    assert "among 200 of 1500" in evaluator.warnings[-1]


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
def plain():
    return build_evaluator(digits(), samples=400, intervals=False)


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


def test_real_digits_come_out_at_the_floor(plain):
    floors = plain.floors
    assert floors.keys() == FIGURES
    x, _ = digits().reference("train", 400)
    assert plain.values(x) == floors | {f"floor_{name}": floors[name] for name in FIGURES}
    assert floors["coverage"] == pytest.approx(expected_coverage(297, 400), abs=0.03)
    assert floors["precision"] > 0.9
    assert floors["recall"] > 0.9
    assert abs(floors["kid"]) < 0.03
    assert floors["class_reverse_kl"] < 0.05


def test_noise_and_a_single_digit_come_out_far_from_it(plain):
    x, label = digits().reference("train", 1_500)
    noisy = x[:400] + torch.randn(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    zeros = x[label == 0]
    noisy, only = map(plain.values, (noisy, zeros.repeat(400 // len(zeros) + 1, 1, 1, 1)[:400]))
    for row in (noisy, only):
        assert row["frechet_distance"] > 5 * plain.floors["frechet_distance"]
        assert row["kid"] > 0.1
        assert row["coverage"] < 0.6
    assert noisy["precision"] < 0.6
    assert only["precision"] > 0.7
    assert only["recall"] < 0.6
    assert only["class_reverse_kl"] == pytest.approx(math.log(10), abs=0.1)


def test_plain_figures_repeat_themselves_and_leave_random_numbers_alone(plain):
    x = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    before = torch.random.get_rng_state()
    again = build_evaluator(digits(), samples=400, intervals=False)
    assert again.values(x) == plain.values(x)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_plain_figures_are_those_that_have_intervals_elsewhere(plain):
    x = noisy_digits(0.3, 400, 5)
    row = build_evaluator(digits(), samples=400, subsets=4)(x)
    assert {name: row[name].value for name in FIGURES} == pytest.approx(
        {name: plain(x)[name].value for name in FIGURES}, rel=1e-12
    )
    assert all(estimate.low == estimate.value == estimate.high for estimate in plain(x).values())


def test_images_are_taken_as_they_would_be_saved(plain):
    x, _ = digits().reference("train", 400)
    outside = torch.where(x > 0.99, 3.0, x) + 0.001
    assert plain(outside) == plain(x)


def test_images_that_are_not_finite_and_another_number_are_refused(plain):
    x = torch.zeros(400, 1, 8, 8)
    x[7, 0, 2, 2] = math.nan
    with pytest.raises(RunError, match="not finite"):
        plain(x)
    with pytest.raises(ValueError, match="hold for 400 samples, got 399"):
        plain(torch.zeros(399, 1, 8, 8))


def test_classes_are_counted_only_where_the_network_knows_them():
    unlabelled, foreign = noise_source(), noise_source(labels=torch.arange(60) % 10)
    for source in (unlabelled, foreign):
        plain = build_evaluator(source, intervals=False)
        assert plain.samples == 30
        assert "class_reverse_kl" not in plain.floors
        assert "coverage" in plain.floors


def test_plain_figures_need_no_more_than_the_training_images():
    assert build_evaluator(digits(), intervals=False).samples == 1_500


def test_data_that_cannot_be_measured_are_told_from_too_few_samples():
    with pytest.raises(Unmeasurable, match=r"no network is shipped for examples \[1, 16, 16\]"):
        build_evaluator(noise_source(side=16), intervals=False)
    with pytest.raises(Unmeasurable, match="5 samples beside 5 held-out examples are too few"):
        build_evaluator(noise_source(count=10), intervals=False)
    with pytest.raises(InputError, match=r"5 samples beside .* at least 6 of each") as refusal:
        build_evaluator(digits(), samples=5, intervals=False)
    assert not isinstance(refusal.value, Unmeasurable)


def test_plain_figures_of_points_are_of_modes_beside_a_perfect_sampler():
    source = MixturePoints(mixture=RING, name="ring")
    plain = build_evaluator(source, samples=500, intervals=False)
    points = RING.sample(500, torch.Generator().manual_seed(3))[0]
    row = {name: estimate.value for name, estimate in plain(points).items()}
    assert row | mode_coverage(points, RING) == row
    assert row.keys() == {*mode_coverage(points, RING), "sliced_wasserstein"} == plain.floors.keys()
    assert row["sliced_wasserstein"] < 2 * plain.floors["sliced_wasserstein"]
    assert plain.values(points + 1)["sliced_wasserstein"] > 0.8
    assert build_evaluator(source, intervals=False).samples == 2_500
    with pytest.raises(ValueError, match="got 10"):
        plain(points[:10])


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf])
def test_plain_figures_count_points_that_are_not_finite_as_of_low_quality(lost):
    plain = build_evaluator(MixturePoints(mixture=RING, name="ring"), samples=500, intervals=False)
    points = RING.means[torch.arange(500) % 8]
    assert plain.values(points)["high_quality"] == 1
    points[:50, 0] = lost
    row = plain.values(points)
    assert row["high_quality"] == 0.9
    assert row["modes"] == 8
    assert row["sliced_wasserstein"] == math.inf


def test_updating_in_batches_gives_the_figures_of_all_samples_at_once(on_ring, plain):
    points = RING.sample(500, rng_for("batches"))[0]
    for part in points.split(130):
        on_ring.update(part)
    assert on_ring.compute() == on_ring(points)  # a call adds nothing to what was collected
    on_ring.reset()
    images = noisy_digits(0.2, 400, 1)
    for part in images.split(150):
        plain.update(part)
    with pytest.raises(ValueError, match="hold for 400 samples, got 401"):
        plain.update(images[:1])
        plain.compute()
    plain.reset()
    assert len(plain.collected.features) == len(plain.collected.labels) == 0


def test_two_evaluators_that_saw_half_each_merge_to_one_that_saw_all():
    first, second = (build_evaluator(digits(), samples=400, intervals=False) for _ in range(2))
    x = noisy_digits(0.2, 400, 2)
    first.update(x[:250])
    second.update(x[250:])
    first.collected.merge_state(second.collected)
    merged, whole = first.compute(), second(x)
    assert merged.keys() == whole.keys()
    for name, estimate in whole.items():
        assert merged[name].value == pytest.approx(estimate.value, rel=1e-5), name


def test_processes_evaluate_together():
    here, there = (build_evaluator(digits(), samples=400, intervals=False) for _ in range(2))
    x = noisy_digits(0.2, 400, 3)
    here.update(x[:100])
    there.update(x[100:])
    features, labels = there.collected.compute()
    here.collected.distributed_available_fn = lambda: True
    here.collected.dist_sync_fn = lambda mine, group: [mine, features if mine.ndim > 1 else labels]
    together, whole = here.compute(), there(x)
    for name, estimate in whole.items():
        assert together[name].value == pytest.approx(estimate.value, rel=1e-5), name
    assert sum(map(len, here.collected.features)) == 100  # its own again afterwards


def student(count, degrees, d=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    chi = torch.randn(count, degrees, generator=rng).square().mean(1, keepdim=True)
    return torch.randn(count, d, generator=rng) / chi.sqrt()


@pytest.mark.parametrize(("degrees", "heavy"), [(2, True), (100, False)])
def test_heavy_tails_are_warned_of_in_data_and_in_samples(degrees, heavy):
    data, x = student(800, degrees), student(400, degrees, seed=1)
    evaluator = build_evaluator((student(400, 100, seed=2), data), samples=400, subsets=4)
    assert any("Held-out examples have heavy tails" in w for w in evaluator.warnings) == heavy
    figures, warning = evaluator.with_warning(x)
    assert ("The samples have heavy tails (kurtosis" in warning) == heavy
    assert figures == evaluator(x)


def test_no_data_set_of_ours_has_heavy_tails(on_ring, on_digits):
    for evaluator in (on_ring, on_digits):
        assert not any("tails" in warning for warning in evaluator.warnings)


def test_figures_of_the_same_noise_keep_what_pairs_them(on_ring):
    """Of a small change, the paired error is far below that of independent figures."""
    x = RING.sample(500, torch.Generator().manual_seed(0))[0] * 1.2
    a, b = on_ring(x), on_ring(0.99 * x)
    for name in ("frechet_distance", "kid", "sliced_wasserstein"):
        ((error, degrees),) = paired_errors(a[name], b[name])
        assert degrees == 31
        assert 2 * error < (a[name].high - a[name].low) / 4
    for name in ("c2st_accuracy", "jsd_bound"):
        assert a[name].deviations == ()
    assert a["recall"].least_error == pytest.approx(1.5 / len(on_ring.held_out))
    assert a["high_quality"].least_error == pytest.approx(1.5 / 500)
    assert a["kid"].least_error == 0


def test_what_takes_hours_is_said_before_it_begins(monkeypatch):
    assert duration_warning(10_000, 10_000) == ""
    assert "about 14.2 hours of one core" in duration_warning(1_000_000, 10_000)
    monkeypatch.setattr(baselines, "PAIRS_A_SECOND", 1.0)
    monkeypatch.setattr(evaluators, "FeatureExtractor", None)  # so that it ends there
    data = torch.randn(2, 300, 2, generator=rng_for("hours"))
    with pytest.warns(UserWarning, match="200 samples, .* 300 held-out"), pytest.raises(TypeError):
        build_evaluator(tuple(data), samples=200)
