import math
from itertools import product

import pytest
import torch
from einops import rearrange
from prdc import compute_prdc
from scipy.stats import mannwhitneyu
from sklearn.neighbors import NearestNeighbors

from hybridgen.metrics import neighbours as tiles_module
from hybridgen.metrics.distances import kernel_distance
from hybridgen.metrics.intervals import random_parts
from hybridgen.metrics.neighbours import (
    Prdc,
    Tiles,
    closeness,
    expected_coverage,
    mean_kernel,
    memorisation,
    nearest,
    neighbour_radii,
    prdc,
    subset_kernel_distance,
    subset_prdc,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
@pytest.mark.parametrize("stretch", [0.6, 1.0, 1.5])
def test_the_four_figures_are_those_of_the_package_of_their_authors(neighbours, stretch, capsys):
    real = torch.randn(130, 6, generator=rng())
    fake = stretch * torch.randn(90, 6, generator=rng(1)) + 0.3
    theirs = compute_prdc(real.numpy(), fake.numpy(), neighbours)
    ours = prdc(real, fake, neighbours=neighbours, chunk=37)
    assert ours == pytest.approx({k: float(v) for k, v in theirs.items()}, abs=1e-5)


def test_mean_coverage_of_a_perfect_sampler_is_the_exact_expectation():
    n, m, k, repeats = 40, 25, 3, 400
    generator = rng()
    values = torch.tensor(
        [
            prdc(*torch.randn(n + m, 2, generator=generator).split([n, m]), neighbours=k)[
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
    row = prdc(real, fake, neighbours=1)
    assert row["precision"] == row["density"] == row["coverage"] == 0
    assert row["recall"] == 1
    row = prdc(fake, real, neighbours=1)
    assert row["precision"] == row["coverage"] == 1
    assert row["recall"] == 0


def test_a_collapsed_generator_keeps_its_precision_and_loses_its_recall():
    real = torch.randn(200, 4, generator=rng())
    fake = 0.01 * torch.randn(200, 4, generator=rng(1))
    row = prdc(real, fake)
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


HARD = {
    "ties everywhere": (on_a_lattice(210, 0), on_a_lattice(170, 1)),
    "copies of real points": (on_a_lattice(210, 0), on_a_lattice(210, 0)[:100]),
    "one point": (torch.randn(60, 3, generator=rng()), torch.full((50, 3), 0.3)),
    "tight clusters": (in_tight_clusters(300, 0), in_tight_clusters(250, 5)),
    "far from the origin": tuple(1e7 + torch.randn(2, 200, 4, generator=rng(3)).double()),
    "far from each other": (torch.rand(90, 2, generator=rng()), 1e5 + on_a_lattice(80, 1)[:, :2]),
}


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("chunk", [1, 40, 64, 512])
def test_what_rounding_could_decide_is_decided_by_exact_differences(case, chunk):
    real, fake = (x[: 3 * chunk] if chunk < 10 else x for x in HARD[case])
    for k in (1, 2):
        ours = prdc(real, fake, neighbours=k, chunk=chunk)
        assert ours == pytest.approx(by_hand(real, fake, k), abs=1e-12)


def test_every_copy_lies_on_the_edge_of_balls_that_reach_to_it():
    grid = torch.cartesian_prod(*3 * [torch.arange(3.0)]) / 10
    assert prdc(grid, grid + 0.1, neighbours=3) == pytest.approx(by_hand(grid, grid + 0.1, 3))
    assert neighbour_radii(grid, neighbours=3) == pytest.approx(torch.full((27,), 0.1).tolist())


def test_radii_that_are_known_already_change_nothing():
    real, fake = torch.randn(80, 3, generator=rng()), torch.randn(70, 3, generator=rng(1))
    radii = neighbour_radii(real, neighbours=4)
    assert radii.dtype == torch.float64
    assert prdc(real, fake, neighbours=4, real_radii=radii) == prdc(real, fake, neighbours=4)
    wider = prdc(real, fake, neighbours=4, real_radii=2 * radii)
    assert wider["density"] > prdc(real, fake, neighbours=4)["density"]
    with pytest.raises(ValueError, match=r"one radius for each of 80 points, got \[70\]"):
        prdc(real, fake, real_radii=torch.ones(70))


def test_features_that_are_not_finite_are_refused():
    real, fake = torch.randn(2, 80, 3, generator=rng(), dtype=torch.float64)
    for wrong in (torch.nan, torch.inf, 1e200):
        fake[3, 1] = wrong
        with pytest.raises(ValueError, match="expected finite features"):
            prdc(real, fake)


def test_the_metric_of_batches_is_the_function_of_all():
    real, fake = torch.randn(40, 3, generator=rng()), torch.randn(30, 3, generator=rng(1))
    metric = Prdc(neighbours=2)
    for part in real.split(15):
        metric.update(part, real=True)
    for part in fake.split(7):
        metric.update(part, real=False)
    assert metric.compute() == prdc(real, fake, neighbours=2)


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


def test_new_samples_score_one_half_and_copies_one():
    training, held_out = normal(400), normal(300, seed=1)
    own = nearest(held_out, training)[0]
    new = memorisation(nearest(normal(1_000, seed=2), training)[0], own)
    assert new == pytest.approx(0.5, abs=0.05)
    assert memorisation(own, own) == 0.5
    assert memorisation(nearest(training, training)[0], own) == 1.0
    half = torch.cat([training[:200], normal(200, seed=3)])
    assert memorisation(nearest(half, training)[0], own) == pytest.approx(0.75, abs=0.05)
    assert memorisation(nearest(normal(200, seed=4) + 30, training)[0], own) == 0.0


def test_the_share_is_the_mann_whitney_statistic():
    a = torch.tensor([1.0, 2.0, 2.0, 5.0, 0.5])
    b = torch.tensor([2.0, 3.0, 1.0, 2.0])
    statistic = mannwhitneyu(b.numpy(), a.numpy()).statistic
    assert memorisation(a, b) == pytest.approx(statistic / 20)
    torch.testing.assert_close(closeness(a, b), torch.tensor([7 / 8, 1 / 2, 1 / 2, 0, 1]).double())


def test_misuse_gets_a_sentence():
    with pytest.raises(ValueError, match=r"\[b d\] and \[n d\], n >= 1, got \[3, 5\] and \[3, 4\]"):
        nearest(normal(3), normal(3, d=4))
    with pytest.raises(ValueError, match="m >= 1"):
        closeness(torch.ones(3), torch.ones(0))


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
    subsets = [torch.arange(fake), few, *random_parts(fake, parts=4)]
    found = subset_prdc(x, neighbour_radii(x), y, members_of(subsets, fake), chunk=32)
    for place, index in enumerate(subsets):
        alone = prdc(x, y[index])
        assert {name: float(values[place]) for name, values in found.items()} == pytest.approx(
            alone, abs=1e-12
        )


def test_the_kernel_distance_of_every_subset_is_that_of_the_subset_alone():
    x, y = features(100, 6, 0), 0.7 * features(200, 6, 1)
    # As many as there are real ones: then one subset of all of both is what is compared.
    subsets = torch.randperm(200, generator=torch.Generator().manual_seed(2)).split(100)
    found = subset_kernel_distance(x, mean_kernel(x), y, members_of(subsets, 200), chunk=32)
    for value, index in zip(found.tolist(), subsets, strict=True):
        alone = kernel_distance(x, y[index], subsets=1, subset_size=100)
        assert value == pytest.approx(alone, abs=1e-9)


def test_the_kernel_distance_of_sets_of_different_sizes_is_unbiased():
    x, values = features(400, 3, 0), []
    for seed in range(1, 60):
        y = features(30, 3, seed)
        everything = torch.ones(1, 30, dtype=torch.bool)
        values.append(float(subset_kernel_distance(x, mean_kernel(x), y, everything)))
    values = torch.tensor(values)
    assert abs(float(values.mean())) < 4 * float(values.std()) / 59**0.5


def test_misuse_gets_a_sentence_subsets():
    x = features(20, 2, 0)
    with pytest.raises(ValueError, match=r"members \[s 20\] of true and false, got \[1, 19\]"):
        subset_prdc(x, neighbour_radii(x), x, torch.ones(1, 19, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least 6 samples"):
        subset_prdc(x, neighbour_radii(x), x, members_of([torch.arange(5)], 20))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def direct(x, y):
    return (x[:, None] - y[None]).square().sum(dim=2)


def assembled(tiles):
    rows = [[tiles.tile(r, c).double().clone() for c in tiles.columns] for r in tiles.rows]
    return torch.cat([torch.cat(row, dim=1) for row in rows])


@pytest.mark.parametrize("hurried", [False, True])
@pytest.mark.parametrize("apart", [0.0, 30.0, 1e6])
def test_squared_distances_are_right_within_the_tolerance(apart, hurried):
    x = torch.randn(70, 9, generator=seeded(), dtype=torch.float64)
    y = torch.randn(90, 9, generator=seeded(1), dtype=torch.float64) + apart
    tiles = Tiles(x + 1e4, y + 1e4, chunk=32)
    exact, rough = direct(x + 1e4, y + 1e4), tiles.tolerance
    if hurried:
        tiles.hurry(1e30)
        assert tiles.tile(tiles.rows[0], tiles.columns[0]).dtype == torch.float32
        assert tiles.tolerance > 1e8 * rough
    error = (assembled(tiles) - exact).abs().amax()
    assert error <= tiles.tolerance
    assert tiles.tolerance < 1e5 * max(float(error), 1e-30)


def test_single_precision_is_used_only_where_it_is_fine_enough():
    x = torch.randn(40, 3, generator=seeded())
    tiles, scale = Tiles(x, x, chunk=16), float(direct(x, x).median())
    tiles.hurry(1e-6 * scale)
    assert tiles.tile(tiles.rows[0], tiles.columns[1]).dtype == torch.float64
    tiles.hurry(scale)
    assert tiles.tile(tiles.rows[0], tiles.columns[1]).dtype == torch.float32


@pytest.mark.parametrize("hurried", [False, True])
def test_the_signs_are_those_of_exact_differences_also_on_the_edge(hurried):
    x = torch.randint(3, (60, 4), generator=seeded()).double() / 10
    y = torch.randint(3, (50, 4), generator=seeded(1)).double() / 10
    apart = direct(x, y).sqrt()
    by_row = apart[torch.arange(60), torch.randint(50, (60,), generator=seeded(2))]
    by_column = apart[torch.randint(60, (50,), generator=seeded(3)), torch.arange(50)]
    tiles = Tiles(x, y, chunk=16)
    if hurried:
        tiles.hurry(1e30)
    ties = 0
    for rows, columns in product(tiles.rows, tiles.columns):
        r, c = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
        for radii in (rearrange(by_row[r], "n -> n 1"), by_column[c]):
            squared, exact = tiles.tile(rows, columns), apart[r, c] - radii
            ties += int((exact == 0).sum())
            beyond = tiles.beyond(squared, radii, rows, columns)
            assert torch.equal(beyond.sign().double(), exact.sign())
            least = tiles.least_beyond(squared, radii, rows, columns)
            assert torch.equal(least.sign().double(), exact.amin(dim=1).sign())
    assert ties > 100


def test_factors_that_are_not_kept_are_made_again(monkeypatch):
    x, y = (
        torch.randn(70, 9, generator=seeded()),
        torch.randn(90, 9, generator=seeded(1)),
    )
    kept = assembled(Tiles(x, y, chunk=16))
    for limit in (1, 4_000):
        monkeypatch.setattr(tiles_module, "KEPT", limit)
        assert torch.equal(assembled(Tiles(x, y, chunk=16)), kept)


def test_sets_that_cannot_be_compared_are_refused():
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(3, 1\)"):
        Tiles(x, x[:, :1], chunk=4)
    with pytest.raises(ValueError, match="need points and a chunk"):
        Tiles(x, x[:0], chunk=4)
    with pytest.raises(ValueError, match="expected finite features"):
        Tiles(x, x / 0, chunk=4)
