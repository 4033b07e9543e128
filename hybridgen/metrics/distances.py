"""Distances between two sets of features, through torchmetrics.

Called Frechet distance and not FID: FID is the name only with Inception's features, so a report
says which network the features are from (`FD-lenet`).
"""

import math
import warnings

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from hybridgen.metrics.neighbours import mean_kernel, subset_kernel_distance

CHUNK = 2_000
"""Samples taken into the moments at a time."""


class PassThrough(nn.Module):
    """Stands where torchmetrics expects a network, for features that are already computed."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """`|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))` of the two sets' means and covariances.

    Biased upwards by the number of samples, so compare it with the same distance between two real
    sets of the same sizes; below as many samples as features it says little.
    Source: Heusel et al. 2017, arXiv:1706.08500, equation 6.

    Args:
        real: `[n d]`, n >= 2.
        fake: `[m d]`, m >= 2.
    """
    _check(real, fake)
    # One process judges; the others wait at the next step, not in a metric.
    metric = FrechetInceptionDistance(feature=PassThrough(real.shape[1]), sync_on_compute=False)
    # Moments are sums of products: far from the origin they would cancel but for their last digits.
    middle = real.detach().mean(dim=0, dtype=torch.float64)
    for features, is_real in ((real, True), (fake, False)):
        for part in features.detach().split(CHUNK):
            metric.update(part - middle, real=is_real)
    # Rounding can leave two equal sets at -1e-13.
    return max(0.0, float(metric.compute()))


def sliced_wasserstein(real: Tensor, fake: Tensor, *, directions: int = 64) -> float:
    """The Wasserstein-1 distance of two clouds of points, averaged over directions they are seen
    from, in the points' units; on a line it is exact.

    In two dimensions the directions are spread evenly over half a turn, so nothing is random.
    Source: Bonneel et al. 2015, J. Math. Imaging Vis. 51, with the first power.

    Args:
        real, fake: `[n d]`, as many in both, d 1 or 2.
        directions: how many, in two dimensions.

    Returns:
        Infinity if a point is not finite.

    Raises:
        ValueError: other shapes.
    """
    if real.shape != fake.shape or real.ndim != 2 or real.shape[1] not in (1, 2) or not len(real):
        raise ValueError(
            "expected two clouds of as many points [n 1] or [n 2], got "
            f"{list(real.shape)} and {list(fake.shape)}"
        )
    if not bool((torch.isfinite(real) & torch.isfinite(fake)).all()):
        return math.inf
    axes = torch.ones(1, 1, dtype=torch.float64)
    if real.shape[1] == 2:
        angle = torch.arange(directions, dtype=torch.float64) * torch.pi / directions
        axes = torch.stack([angle.cos(), angle.sin()])
    seen = [(x.detach().cpu().double() @ axes).sort(dim=0).values for x in (real, fake)]
    return float((seen[0] - seen[1]).abs().mean())


def kernel_distance(
    real: Tensor,
    fake: Tensor,
    *,
    subsets: int | None = 50,
    subset_size: int = 1_000,
    seed: int = 0,
) -> float:
    """KID: the unbiased squared MMD with kernel `(x.y/d + 1)^3`, a mean over random subsets or of
    all samples.

    Unbiased, so two sets from one distribution give 0 on average and often a negative number.
    Source: Binkowski et al. 2018, arXiv:1801.01401, section 4.

    Args:
        real: `[n d]`, n >= 2.
        fake: `[m d]`, m >= 2.
        subsets: random subsets to average over; `None` takes every pair of samples once, so that
            nothing is random, at a cost that grows with `(n + m)^2`.
        subset_size: samples drawn from either set, at most n and m.
        seed: of the subsets; nobody's random state changes.
    """
    _check(real, fake)
    if subsets is None:
        everyone = torch.ones(1, len(fake), dtype=torch.bool)
        return float(subset_kernel_distance(real, mean_kernel(real), fake, everyone))
    real, fake = real.detach().double(), fake.detach().double()
    size = min(subset_size, len(real), len(fake))
    if size < 2 or subsets < 1:
        raise ValueError(f"need subset_size >= 2 and subsets >= 1, got {subset_size=}, {subsets=}")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message=".*save all extracted features.*")
        metric = KernelInceptionDistance(
            feature=PassThrough(real.shape[1]),
            subsets=subsets,
            subset_size=size,
            sync_on_compute=False,
        )
        torch.manual_seed(seed)
        metric.update(real, real=True)
        metric.update(fake, real=False)
        mean, _ = metric.compute()
    return float(mean)


def _check(real: Tensor, fake: Tensor) -> None:
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"expected features [n d] and [m d], got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    if min(len(real), len(fake)) < 2:
        raise ValueError(f"need two samples of each kind, got {len(real)} and {len(fake)}")
