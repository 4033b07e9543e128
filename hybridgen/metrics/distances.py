"""Distances between two sets of features: Frechet, kernel (KID) and sliced Wasserstein.

Called Frechet distance and not FID: FID is the name only with Inception's features, so a report
says which network the features are from (`FD-lenet`).
"""

import math

import torch
from torch import Tensor

from hybridgen.metrics.neighbours import check_features, chunk_for, subsets_of

CHUNK = 512
"""Samples whose kernels with all others are worked out at a time, which bounds the memory."""


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """`|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))` of the two sets' means and covariances.

    Biased upwards by the number of samples, so compare it with the same distance between two real
    sets of the same sizes; below as many samples as features it says little.
    Source: Heusel et al. 2017, arXiv:1706.08500, equation 6.

    Args:
        real, fake: `[n d]` and `[m d]`, two or more of each.
    """
    check_features(real, fake, 2)
    # Moments are sums of products: far from the origin they would cancel but for their last digits.
    middle = real.detach().mean(dim=0, dtype=torch.float64)
    (mean, covariance), (other_mean, other) = (_moments(x.detach() - middle) for x in (real, fake))
    root = torch.linalg.eigvals(covariance @ other).sqrt().real.sum()
    traces = covariance.trace() + other.trace()
    distance = (mean - other_mean).square().sum() + traces - 2 * root
    return max(0.0, float(distance))  # rounding can leave two equal sets at -1e-13


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.sum(dim=0) / len(x)
    return mean, (x.T @ x - len(x) * torch.outer(mean, mean)) / (len(x) - 1)


def sliced_wasserstein(real: Tensor, fake: Tensor) -> float:
    """The Wasserstein-1 distance of two clouds of points, averaged over projections onto lines, in
    the points' units; on a line it is exact.

    In two dimensions 64 directions are spread evenly over half a turn, so nothing is random.
    Source: Bonneel et al. 2015, J. Math. Imaging Vis. 51, with the first power.

    Args:
        real, fake: `[n d]`, as many in both, d 1 or 2.

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
    real, fake = real.detach().cpu(), fake.detach().cpu()
    if not bool((torch.isfinite(real) & torch.isfinite(fake)).all()):
        return math.inf
    axes = torch.ones(1, 1, dtype=torch.float64)
    if real.shape[1] == 2:
        angle = torch.arange(64, dtype=torch.float64) * torch.pi / 64
        axes = torch.stack([angle.cos(), angle.sin()])
    a, b = ((x.double() @ axes).sort(dim=0).values for x in (real, fake))
    return float((a - b).abs().mean())


def kernel_distance(
    real: Tensor,
    fake: Tensor,
    members: Tensor | None = None,
    *,
    real_kernel: float | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """KID: the unbiased squared MMD with kernel `(x.y/d + 1)^3`, of every pair of samples.

    Unbiased, so two sets from one distribution give 0 on average and often a negative number.
    Source: Binkowski et al. 2018, arXiv:1801.01401, section 4; Gretton et al. 2012, JMLR 13,
    equation 3.

    Args:
        real, fake: `[n d]` and `[m d]`, two or more of each.
        members: subsets of `fake`, bool `[s m]`, at least 2 in each; all of it if not given.
        real_kernel: `mean_kernel(real)` if that was worked out already.

    Returns:
        The distance of each subset, `[s]`.
    """
    check_features(real, fake, 2)
    if real_kernel is None:
        real_kernel = mean_kernel(real, chunk=chunk)
    weights = subsets_of(fake, members).double()
    sizes = weights.sum(dim=1)
    if float(sizes.min()) < 2:
        raise ValueError("every subset needs at least 2 samples")
    fake = _single(fake).to(torch.promote_types(fake.dtype, _single(real).dtype))
    real = _single(real).to(fake.dtype)
    within, across = sizes.new_zeros(len(sizes)), []
    chunk = chunk_for(fake if len(fake) > len(real) else real, chunk)
    for start in range(0, len(fake), chunk):
        part, weight = fake[start : start + chunk], weights[:, start : start + chunk]
        kernel = _kernel(fake[start:], part)
        # Every pair counts twice; those inside the part are in the kernel twice already.
        pairs = 2 * weights[:, start:] @ kernel - weight @ kernel[: len(part)]
        within += (weight * pairs).sum(dim=1)
        across.append(sum(_kernel(part, other).sum(dim=1) for other in real.split(chunk)))
    within -= weights @ _kernel_diagonal(fake)
    between = weights @ torch.cat(across) / (sizes * len(real))
    return real_kernel + within / (sizes * (sizes - 1)) - 2 * between


def mean_kernel(x: Tensor, *, chunk: int = CHUNK) -> float:
    """The mean of `(x.y/d + 1)^3` over all pairs of different rows of `[n d]`."""
    x, chunk = _single(x), chunk_for(x, chunk)
    kernels = (_kernel(x[i:], x[i : i + chunk]) for i in range(0, len(x), chunk))
    total = sum(float(2 * kernel.sum() - kernel[:chunk].sum()) for kernel in kernels)
    return (total - float(_kernel_diagonal(x).sum())) / (len(x) * (len(x) - 1))


def _single(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """Kernels `[n m]` in float64, from products in the features' own precision, which takes half
    the time and moves a distance by far less than other samples do."""
    base = (a @ b.T).div_(a.shape[1]).add_(1)
    return base.square().mul_(base).double()  # a power of 3 takes ten times as long


def _kernel_diagonal(x: Tensor) -> Tensor:
    return (x.double().square().mean(dim=1) + 1) ** 3
