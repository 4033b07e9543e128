import math

import pytest
import torch
from einops import reduce
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from hybridgen.metrics.distances import frechet_distance, kernel_distance, sliced_wasserstein


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(count, mean, root, seed=0):
    """A set whose sample mean is `mean` and sample covariance `root root^T`, exactly."""
    z = torch.randn(count, len(mean), generator=rng(seed), dtype=torch.float64)
    z = z - z.mean(dim=0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(z.T.cov()), z.T, upper=False).T
    return white @ root.T + mean


def matrix_root(c):
    values, vectors = torch.linalg.eigh(c)
    return vectors @ values.clamp_min(0).sqrt().diag() @ vectors.T


def test_frechet_distance_of_axis_aligned_gaussians_is_that_of_means_and_deviations():
    m = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    s, t = (torch.tensor(v, dtype=torch.float64) for v in ([1.0, 2.0, 3.0], [2.0, 0.5, 3.0]))
    real, fake = gaussian(50, 0 * m, s.diag()), gaussian(80, m, t.diag(), seed=1)
    exact = m.square().sum() + (s - t).square().sum()
    assert frechet_distance(real, fake) == pytest.approx(exact.item(), rel=1e-9)
    assert frechet_distance(fake, real) == pytest.approx(exact.item(), rel=1e-9)


def test_frechet_distance_of_skew_gaussians_is_the_closed_form():
    a, b = torch.randn(2, 6, 6, generator=rng(3), dtype=torch.float64)
    m, n = torch.randn(2, 6, generator=rng(4), dtype=torch.float64)
    c, d = a @ a.T, b @ b.T
    cross = matrix_root(matrix_root(c) @ d @ matrix_root(c))
    exact = (m - n).square().sum() + c.trace() + d.trace() - 2 * cross.trace()
    result = frechet_distance(gaussian(40, m, a), gaussian(30, n, b, seed=1))
    assert result == pytest.approx(exact.item(), rel=1e-8)


def test_frechet_distance_to_a_collapsed_generator_is_all_the_variance_and_the_offset():
    real = torch.randn(100, 64, generator=rng(), dtype=torch.float64)
    fake = torch.full((20, 64), 0.3, dtype=torch.float64)
    exact = (real.mean(dim=0) - 0.3).square().sum() + real.var(dim=0).sum()
    assert frechet_distance(real, fake) == pytest.approx(exact.item(), rel=1e-6)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_does_not_depend_on_where_the_origin_is():
    real, fake = torch.randn(2, 4_500, 8, generator=rng(), dtype=torch.float64)
    fake = 0.5 * fake + 1
    here, far = frechet_distance(real, fake), frechet_distance(real + 1e6, fake + 1e6)
    assert far == pytest.approx(here, rel=1e-8)


def test_frechet_distance_is_what_torchmetrics_says_of_the_images():
    class Flat(nn.Module):
        num_features = 4

        def forward(self, x):
            return reduce(x, "b c (h i) (w j) -> b (c h w)", "mean", i=4, j=4)

    real, fake = torch.rand(2, 60, 1, 8, 8, generator=rng(), dtype=torch.float64)
    fake = fake.square()
    theirs = FrechetInceptionDistance(feature=Flat())
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    ours = frechet_distance(Flat()(real), Flat()(fake))
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-12)


def kernel(x, y):
    return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3


def direct_mmd(real, fake):
    r, f = real.tolist(), fake.tolist()
    n, m = len(r), len(f)
    within_real = sum(kernel(r[i], r[j]) for i in range(n) for j in range(n) if i != j)
    within_fake = sum(kernel(f[i], f[j]) for i in range(m) for j in range(m) if i != j)
    across = sum(kernel(x, y) for x in r for y in f)
    return within_real / (n * (n - 1)) + within_fake / (m * (m - 1)) - 2 * across / (n * m)


def test_kid_of_whole_sets_is_the_unbiased_mmd_with_the_cubic_kernel():
    real, fake = torch.randn(2, 25, 7, generator=rng(), dtype=torch.float64)
    fake = 1.4 * fake + 0.5
    assert float(kernel_distance(real, fake)) == pytest.approx(direct_mmd(real, fake), rel=1e-10)


def test_kid_of_all_samples_is_the_unbiased_mmd_whatever_their_numbers():
    real, fake = torch.randn(25, 7, generator=rng()), 1.4 * torch.randn(17, 7, generator=rng(1))
    exact = direct_mmd(real.double(), fake.double())
    assert float(kernel_distance(real.double(), fake.double())) == pytest.approx(exact, rel=1e-10)
    for chunk in (4, 17, 512):  # in parts, in one, and in less than one
        assert float(kernel_distance(real, fake, chunk=chunk)) == pytest.approx(exact, rel=1e-6)
        assert float(kernel_distance(fake, real, chunk=chunk)) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("offset", [0.0, 3.0, 30.0])
def test_kid_of_features_in_single_precision_is_right_to_a_fraction_of_its_deviation(offset):
    sets = torch.randn(12, 100, 256, generator=rng()) + offset
    single, double = (
        torch.cat([kernel_distance(a, b) for a, b in pairs.chunk(6)])
        for pairs in (sets, sets.double())
    )
    assert (single - double).abs().max() < 0.01 * double.std()


def moments(mean, root):
    """First three moments of a Gaussian."""
    c = root @ root.T
    lifted = torch.einsum("i,jk->ijk", mean, c)
    sides = (lifted, lifted.permute(1, 0, 2), lifted.permute(1, 2, 0))
    third = torch.einsum("i,j,k->ijk", mean, mean, mean) + sum(sides)
    return mean, c + torch.outer(mean, mean), third


def test_kid_of_all_samples_of_gaussians_is_on_average_the_closed_form():
    d, n, m = 3, 20, 30
    a, b = torch.eye(d).double(), torch.tensor([[0.6, 0, 0], [0.5, 1, 0], [0, 0.3, 1.2]]).double()
    mean = torch.tensor([0.5, -0.2, 0.4], dtype=torch.float64)
    pairs = zip(moments(0 * mean, a), moments(mean, b), strict=True)
    first, second, third = ((x - y).square().sum() for x, y in pairs)
    exact = 3 * first / d + 3 * second / d**2 + third / d**3
    z = torch.randn(1_000, n + m, d, generator=rng(), dtype=torch.float64)
    values = torch.cat([kernel_distance(x[:n] @ a.T, x[n:] @ b.T + mean) for x in z])
    error = values.std() / len(values) ** 0.5
    assert error < 0.05 * exact
    assert abs(values.mean() - exact) < 4 * error


def test_kid_of_two_sets_from_one_distribution_is_zero_on_average():
    values = torch.cat(
        [kernel_distance(*torch.randn(2, 40, 3, generator=rng(seed))) for seed in range(150)]
    )
    assert bool((values < 0).any())
    assert abs(values.mean()) < 4 * values.std() / 150**0.5


def test_features_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"got \(9, 4\) and \(9, 5\)"):
        frechet_distance(torch.zeros(9, 4), torch.zeros(9, 5))
    with pytest.raises(ValueError, match="2 samples of each kind, got 9 and 1"):
        kernel_distance(torch.zeros(9, 4), torch.zeros(1, 4))


def test_sliced_wasserstein_of_a_shifted_cloud_is_two_over_pi_of_the_shift():
    cloud = torch.randn(200, 2, generator=rng(), dtype=torch.float64)
    shift = torch.tensor([3.0, -4.0], dtype=torch.float64)
    assert sliced_wasserstein(cloud, cloud + shift) == pytest.approx(5 * 2 / math.pi, rel=1e-3)
    assert sliced_wasserstein(cloud, cloud[torch.randperm(200, generator=rng())]) == 0


def test_on_a_line_sliced_wasserstein_is_the_distance_of_quantiles():
    a, b = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[6.0], [0.0], [3.0]])
    assert sliced_wasserstein(a, b) == pytest.approx((0 + 2 + 1) / 3)
    assert sliced_wasserstein(a, b * torch.inf) == math.inf
    with pytest.raises(ValueError, match=r"as many points .* got \[3, 1\] and \[2, 1\]"):
        sliced_wasserstein(a, b[:2])
