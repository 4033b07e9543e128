import math

import pytest
import torch
from prdc import compute_prdc

from hybridgen.evaluation.prdc import Prdc, expected_coverage, neighbour_radii, prdc


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
