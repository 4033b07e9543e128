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
