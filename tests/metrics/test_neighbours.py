import math
from statistics import fmean, stdev

import pytest
import torch
from prdc import compute_prdc
from scipy.stats import mannwhitneyu
from sklearn.neighbors import NearestNeighbors

from hybridgen.metrics import neighbours
from hybridgen.metrics.distances import kernel_distance, mean_kernel
from hybridgen.metrics.intervals import jackknife_subsets
from hybridgen.metrics.neighbours import (
    collision_radius,
    expected_coverage,
    memorisation,
    nearest,
    neighbour_radii,
    prdc,
    support_size,
)


def prdc_of(real, fake, **settings):
    """The four figures of all samples."""
    return {name: value.item() for name, value in prdc(real, fake, **settings).items()}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
@pytest.mark.parametrize("stretch", [0.6, 1.0, 1.5])
def test_the_four_figures_are_those_of_the_package_of_their_authors(neighbours, stretch, capsys):
    real = torch.randn(130, 6, generator=rng())
    fake = stretch * torch.randn(90, 6, generator=rng(1)) + 0.3
    theirs = compute_prdc(real.numpy(), fake.numpy(), neighbours)
    ours = prdc_of(real, fake, neighbours=neighbours, chunk=37)
    assert ours == pytest.approx({k: float(v) for k, v in theirs.items()}, abs=1e-5)


def test_mean_coverage_of_a_perfect_sampler_is_the_exact_expectation():
    n, m, k, repeats = 40, 25, 3, 400
    generator = rng()
    values = torch.tensor(
        [
            prdc_of(*torch.randn(n + m, 2, generator=generator).split([n, m]), neighbours=k)[
                "coverage"
            ]
            for _ in range(repeats)
        ]
    )
    error = values.std() / math.sqrt(repeats)
    assert abs(values.mean() - expected_coverage(n, m, neighbours=k)) < 4 * error
    assert error < 0.01


def test_expected_coverage_of_ten_thousand_is_the_published_one():
    assert expected_coverage(10_000, 10_000) == pytest.approx(0.969, abs=5e-4)
    assert expected_coverage(2, 1, neighbours=1) == pytest.approx(0.5)


def test_the_nearest_other_point_is_another_one_even_if_it_is_a_copy():
    line = torch.tensor([[0.0], [1.0], [3.0], [3.0]])
    assert neighbour_radii(line, neighbours=1).tolist() == [1, 1, 0, 0]
    assert neighbour_radii(line, neighbours=2, chunk=1).tolist() == [3, 2, 2, 2]


def test_a_point_on_the_edge_of_a_ball_is_outside():
    real, fake = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [-1.0]])
    row = prdc_of(real, fake, neighbours=1)
    assert row["precision"] == row["density"] == row["coverage"] == 0
    assert row["recall"] == 1
    row = prdc_of(fake, real, neighbours=1)
    assert row["precision"] == row["coverage"] == 1
    assert row["recall"] == 0


def test_a_collapsed_generator_keeps_its_precision_and_loses_its_recall():
    real = torch.randn(200, 4, generator=rng())
    fake = 0.01 * torch.randn(200, 4, generator=rng(1))
    row = prdc_of(real, fake)
    assert row["precision"] == 1
    assert row["recall"] < 0.02
    assert row["density"] > 1
    assert row["coverage"] < 0.5


def by_hand(real, fake, k):
    """From all distances at once, as differences coordinate by coordinate."""
    real, fake = real.double(), fake.double()
    apart = (real[:, None] - fake[None]).square().sum(dim=2).sqrt()

    def radii(x):
        own = (x[:, None] - x[None]).square().sum(dim=2).sqrt().fill_diagonal_(torch.inf)
        return own.kthvalue(k, dim=1).values

    inside = apart < radii(real)[:, None]
    return {
        "precision": inside.any(dim=0).double().mean().item(),
        "recall": (apart < radii(fake)).any(dim=1).double().mean().item(),
        "density": inside.sum().item() / len(fake) / k,
        "coverage": inside.any(dim=1).double().mean().item(),
    }


def on_a_lattice(count, seed):
    return torch.randint(4, (count, 5), generator=rng(seed)).float() / 10


def in_tight_clusters(count, seed):
    modes = torch.randint(5, (count, 2), generator=rng(seed)).double()
    return 1e4 * modes + 1e-4 * torch.randn(count, 2, generator=rng(seed + 1), dtype=torch.float64)


def wide(count, seed):
    return torch.randn(count, 20, generator=rng(seed))


def beside_an_outlier(size):
    """Fakes beside the real points, and one so far away that products lose all other distances."""
    fake = wide(100, 1) + 3
    fake[0] = size
    return wide(120, 0), fake


def copies_in_groups(apart):
    real = wide(120, 0)
    real[::2] += apart
    return real, real[20:100].clone()


HARD = {
    "ties everywhere": (on_a_lattice(210, 0), on_a_lattice(170, 1)),
    "copies of real points": (on_a_lattice(210, 0), on_a_lattice(210, 0)[:100]),
    "one point": (torch.randn(60, 3, generator=rng()), torch.full((50, 3), 0.3)),
    "tight clusters": (in_tight_clusters(300, 0), in_tight_clusters(250, 5)),
    "far from the origin": tuple(1e7 + torch.randn(2, 200, 4, generator=rng(3)).double()),
    "copies in many dimensions": (wide(60, 0), wide(60, 0)[:10].repeat(5, 1)),
    "a lattice in many dimensions": (wide(60, 0).round() / 8, wide(50, 1).round() / 8),
    "an outlier in many dimensions": beside_an_outlier(1e7),
    "copies in groups far apart": copies_in_groups(1e4),
    "far from each other": (torch.rand(90, 2, generator=rng()), 1e5 + on_a_lattice(80, 1)[:, :2]),
}


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("chunk", [1, 40, 64, 512])
def test_what_rounding_could_decide_is_decided_by_exact_differences(case, chunk):
    real, fake = (x[: 3 * chunk] if chunk < 10 else x for x in HARD[case])
    for k in (1, 2):
        ours = prdc_of(real, fake, neighbours=k, chunk=chunk)
        assert ours == pytest.approx(by_hand(real, fake, k), abs=1e-12)


def test_every_copy_lies_on_the_edge_of_balls_that_reach_to_it():
    grid = torch.cartesian_prod(*3 * [torch.arange(3.0)]) / 10
    assert prdc_of(grid, grid + 0.1, neighbours=3) == pytest.approx(by_hand(grid, grid + 0.1, 3))
    assert neighbour_radii(grid, neighbours=3) == pytest.approx(torch.full((27,), 0.1).tolist())


def test_radii_that_are_known_already_change_nothing():
    real, fake = torch.randn(80, 3, generator=rng()), torch.randn(70, 3, generator=rng(1))
    radii = neighbour_radii(real, neighbours=4)
    assert radii.dtype == torch.float64
    alone, same, wider = (
        prdc_of(real, fake, neighbours=4, radii=r) for r in (None, radii, 2 * radii)
    )
    assert same == alone
    assert wider["density"] > alone["density"]
    with pytest.raises(ValueError, match=r"one radius for each of 80 points, got \[70\]"):
        prdc(real, fake, radii=torch.ones(70))


def test_features_that_are_not_finite_are_refused():
    real, fake = torch.randn(2, 80, 3, generator=rng(), dtype=torch.float64)
    for wrong in (torch.nan, torch.inf, 1e200):
        fake[3, 1] = wrong
        with pytest.raises(ValueError, match="expected finite features"):
            prdc(real, fake)


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="5 points have no 5-th nearest other"):
        prdc(torch.zeros(5, 2), torch.zeros(9, 2))
    with pytest.raises(ValueError, match=r"got \(9, 2\) and \(9, 3\)"):
        prdc(torch.zeros(9, 2), torch.zeros(9, 3))


def normal(count, d=5, seed=0):
    return torch.randn(count, d, generator=torch.Generator().manual_seed(seed))


def test_nearest_neighbours_are_those_of_scikit_learn():
    x, training = normal(301), normal(200, seed=1)
    distance, index = nearest(x, training, chunk=100)
    expected = NearestNeighbors(n_neighbors=1).fit(training.numpy()).kneighbors(x.numpy())
    assert index.tolist() == expected[1][:, 0].tolist()
    torch.testing.assert_close(distance, torch.from_numpy(expected[0][:, 0]).double())


def test_a_copy_is_at_distance_zero_and_found():
    training = 100 + normal(500, d=64)
    rows = torch.tensor([3, 499, 3])
    distance, index = nearest(training[rows], training)
    assert index.tolist() == rows.tolist()
    assert distance.tolist() == [0.0, 0.0, 0.0]


def copied(x, training, baseline):
    """The mean memorisation of samples."""
    return float(memorisation(nearest(x, training)[0], baseline).mean())


def test_new_samples_score_one_half_and_copies_one():
    training, held_out = normal(400), normal(300, seed=1)
    baseline = nearest(held_out, training)[0]
    new = copied(normal(1_000, seed=2), training, baseline)
    assert new == pytest.approx(0.5, abs=0.05)
    assert float(memorisation(baseline, baseline).mean()) == 0.5
    assert copied(training, training, baseline) == 1.0
    half = torch.cat([training[:200], normal(200, seed=3)])
    assert copied(half, training, baseline) == pytest.approx(0.75, abs=0.05)
    assert copied(normal(200, seed=4) + 30, training, baseline) == 0.0


def test_the_share_is_the_mann_whitney_statistic():
    a = torch.tensor([1.0, 2.0, 2.0, 5.0, 0.5])
    b = torch.tensor([2.0, 3.0, 1.0, 2.0])
    statistic = mannwhitneyu(b.numpy(), a.numpy()).statistic
    assert float(memorisation(a, b).mean()) == pytest.approx(statistic / 20)
    torch.testing.assert_close(
        memorisation(a, b), torch.tensor([7 / 8, 1 / 2, 1 / 2, 0, 1]).double()
    )


def test_misuse_gets_a_sentence():
    with pytest.raises(ValueError, match=r"\[n d\] and \[m d\], got \(3, 5\) and \(3, 4\)"):
        nearest(normal(3), normal(3, d=4))
    with pytest.raises(ValueError, match="m >= 1"):
        memorisation(torch.ones(3), torch.ones(0))


def features(count, d, seed):
    return torch.randn(count, d, generator=torch.Generator().manual_seed(seed))


def members_of(subsets, count):
    members = torch.zeros(len(subsets), count, dtype=torch.bool)
    for row, index in zip(members, subsets, strict=True):
        row[index] = True
    return members


@pytest.mark.parametrize(("real", "fake", "d"), [(150, 211, 2), (60, 90, 16)])
def test_prdc_of_every_subset_is_that_of_the_subset_alone(real, fake, d):
    x, y = features(real, d, 0), 0.8 * features(fake, d, 1)
    y[:20] = x[:20]  # copies, at distances that are equal to radii
    y[20:30] = y[30:40]
    few = torch.arange(0, fake, 12)  # sparse: its neighbours are far among all samples
    members = members_of([torch.arange(fake), few], fake)
    members = torch.cat([members, jackknife_subsets(fake, subsets=4)])
    found = prdc(x, y, members, chunk=32)
    for place, member in enumerate(members):
        alone = prdc_of(x, y[member])
        assert {name: float(values[place]) for name, values in found.items()} == pytest.approx(
            alone, abs=1e-12
        )


def test_the_kernel_distance_of_every_subset_is_that_of_the_subset_alone():
    x, y = features(100, 6, 0), 0.7 * features(200, 6, 1)
    # As many as there are real ones: then one subset of all of both is what is compared.
    subsets = torch.randperm(200, generator=torch.Generator().manual_seed(2)).split(100)
    members = members_of(subsets, 200)
    found = kernel_distance(x, y, members, real_kernel=mean_kernel(x), chunk=32)
    for value, index in zip(found.tolist(), subsets, strict=True):
        alone = float(kernel_distance(x, y[index]))
        assert value == pytest.approx(alone, abs=1e-9)


def test_the_kernel_distance_of_sets_of_different_sizes_is_unbiased():
    x, values = features(400, 3, 0), []
    for seed in range(1, 60):
        values.append(float(kernel_distance(x, features(30, 3, seed))))
    values = torch.tensor(values)
    assert abs(float(values.mean())) < 4 * float(values.std()) / 59**0.5


def test_misuse_gets_a_sentence_subsets():
    x = features(20, 2, 0)
    with pytest.raises(ValueError, match=r"members \[s 20\] of true and false, got \[1, 19\]"):
        prdc(x, x, torch.ones(1, 19, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least 6 samples"):
        prdc(x, x, members_of([torch.arange(5)], 20))


def test_of_very_many_points_fewer_are_compared_at_a_time_with_equal_figures(monkeypatch):
    x, y = torch.randn(2, 70, 9, generator=rng(), dtype=torch.float64)
    assert neighbours.chunk_for(torch.empty(1_000_000, 0), 512) == 67

    def figures():
        shares = prdc(x, y)
        return [*map(float, shares.values()), float(kernel_distance(x, y)), mean_kernel(x)]

    before, sizes, distances = figures(), [], neighbours._distances
    monkeypatch.setattr(neighbours, "PAIRS", 500)
    monkeypatch.setattr(
        neighbours, "_distances", lambda a, *b, **c: sizes.append(len(a)) or distances(a, *b, **c)
    )
    assert figures() == pytest.approx(before, rel=1e-12, abs=1e-12)
    assert max(sizes) == 7


def discrete(points, samples, seed, dimension=3, noise=1e-3):
    """Samples of equally likely points, with a little noise."""
    places = torch.randn(points, dimension, generator=rng(0))
    chosen = places[torch.randint(points, (samples,), generator=rng(seed + 1))]
    return chosen + noise * torch.randn(samples, dimension, generator=rng(seed + 2))


@pytest.mark.parametrize(("points", "dimension"), [(20, 3), (100, 3), (100, 30)])
def test_the_birthday_test_counts_discrete_points_within_its_error(points, dimension):
    sizes = [
        support_size(discrete(points, 300, 3 * seed, dimension), 0.02, chunk=77)
        for seed in range(100)
    ]
    assert sum(size.low <= points <= size.high for size in sizes) >= 90
    values = [size.value for size in sizes]
    assert fmean(values) == pytest.approx(points, rel=0.03)
    reach = fmean(size.high - size.low for size in sizes) / 2
    assert 1 < reach / (1.96 * stdev(values)) < 1.5  # a little wide where all are equally likely


def test_the_interval_knows_that_points_are_not_equally_likely():
    chances = torch.tensor([0.5, 0.3, 0.1, 0.05, 0.05])
    truth, held = 1 / float(chances.square().sum()), 0
    for seed in range(100):
        index = torch.multinomial(chances, 200, replacement=True, generator=rng(seed))
        size = support_size(index[:, None].float(), 0.5)
        held += size.low <= truth <= size.high
    assert 90 <= held <= 99


def test_without_a_collision_the_support_may_be_endless():
    size = support_size(torch.arange(50.0)[:, None], 0.5)
    assert (size.value, size.high) == (math.inf, math.inf)
    # So many points would give none one time in forty.
    assert math.exp(-50 * 49 / 2 / size.low) == pytest.approx(0.025)
    assert support_size(torch.arange(50.0)[:, None], 1.5).value == pytest.approx(25)


def test_the_radius_gives_real_examples_the_support_that_was_asked_for():
    real, new = torch.randn(2, 1_000, 4, generator=rng())
    radius = collision_radius(real, support=500)
    pairs = torch.pdist(real.double()).sort().values
    assert radius == pytest.approx(float(pairs[999]), rel=1e-6)
    assert support_size(real, radius).value == pytest.approx(500, rel=2e-3)
    assert support_size(new, radius).value == pytest.approx(500, rel=0.2)
    assert support_size(0.5 * new, radius).value < 60  # a sixteenth of the volume


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        (lambda: collision_radius(torch.randn(100, 2)), "needs at least 143 examples .* got 100"),
        (lambda: collision_radius(torch.randn(100, 2), support=0), "smaller support"),
        (lambda: support_size(torch.randn(9, 2), 0.0), "a positive radius, got 9 and 0"),
        (lambda: support_size(torch.full((9, 2), math.nan), 1.0), "finite"),
    ],
)
def test_a_support_that_cannot_be_counted_gets_a_sentence(misuse, sentence):
    with pytest.raises(ValueError, match=sentence):
        misuse()
