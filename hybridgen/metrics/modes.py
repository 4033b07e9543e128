"""Mode coverage: which peaks of a known mixture a sampler hits, how often, and how sharply."""

import torch
from einops import rearrange, reduce
from torch import Tensor

from hybridgen.maths.mixtures import GaussianMixture, reverse_kl

HIGH_QUALITY = 3.0
"""A sample is of high quality strictly within this many standard deviations of the nearest mean."""


def mode_statistics(points: Tensor, mixture: GaussianMixture) -> tuple[Tensor, Tensor]:
    """How many high-quality points each mode has, and how wide they are spread; `[k]`, float64.

    The spread is their deviation a coordinate over the mixture's, 0 below two points. Well below 1
    the mode has collapsed towards a point. A perfect sampler in two dimensions gives .974, because
    high-quality points are a Gaussian cut off at three standard deviations.

    Args:
        points: `[b d]`; a point that is not finite counts as drawn and of low quality.
        mixture: k modes.
    """
    if points.ndim != 2 or points.shape[1] != mixture.dimension:
        raise ValueError(f"expected points [b {mixture.dimension}], got {tuple(points.shape)}")
    points, distance, nearest = _nearest_modes(points, mixture)
    means, stds = mixture.means.to(points), mixture.stds.to(points)
    # Chosen by index, not multiplied by zero: what is not finite must not reach the sums.
    rows = torch.nonzero(distance < HIGH_QUALITY * stds[nearest])[:, 0]
    mode = nearest[rows]
    hits = torch.bincount(mode, minlength=mixture.components).to(points)
    first = torch.zeros_like(means).index_add(0, mode, points[rows] - means[mode])
    second = torch.zeros_like(stds).index_add(0, mode, distance[rows].square())
    scatter = second - first.square().sum(dim=1) / hits.clamp_min(1)
    variance = scatter.clamp_min(0) / (hits - 1).clamp_min(1) / mixture.dimension
    return hits, variance.sqrt() / stds


def _nearest_modes(points: Tensor, mixture: GaussianMixture) -> tuple[Tensor, Tensor, Tensor]:
    """The points in float64 on the CPU, and distance and index of each one's nearest mean."""
    points = points.detach().cpu().double()
    offsets = rearrange(points, "b d -> b 1 d") - mixture.means.to(points)
    distance, nearest = reduce(offsets.square(), "b k d -> b k", "sum").sqrt().min(dim=1)
    return points, distance, nearest


def mode_shares(points: Tensor, mixture: GaussianMixture) -> Tensor:
    """Which share of the points `[b d]` is nearest to each mean, `[k]`, float64; of those that are
    finite. Unlike convention A it counts points of low quality too, so it tells early where a
    sampler goes."""
    _, distance, nearest = _nearest_modes(points, mixture)
    counts = torch.bincount(nearest[distance.isfinite()], minlength=mixture.components)
    return counts.double() / counts.sum().clamp_min(1)


def mode_coverage(points: Tensor, mixture: GaussianMixture) -> dict[str, float]:
    """Mode coverage by convention A, the one of VEEGAN and PacGAN.

    Source: Srivastava et al. 2017, arXiv:1705.07761; Lin et al. 2018, arXiv:1712.04086.

    Args:
        points: `[b d]`.
        mixture: k modes, in the coordinates of the points.

    Returns:
        `modes`: how many have a high-quality sample; `high_quality`: the fraction of points within
        three standard deviations of the nearest mean; `reverse_kl`: the histogram of those over
        the modes against uniform, infinite without any; `mode_std` and `mode_std_min`: mean and
        least spread of `mode_statistics` over the modes that are hit.
    """
    if not len(points):
        raise ValueError("mode coverage needs at least one point, got none")
    hits, stds = mode_statistics(points, mixture)
    covered = stds[hits > 0] if hits.any() else stds.new_zeros(1)
    return {
        "modes": float((hits > 0).sum()),
        "high_quality": float(hits.sum() / len(points)),
        "reverse_kl": reverse_kl(hits),
        "mode_std": float(covered.mean()),
        "mode_std_min": float(covered.min()),
    }


def mode_distance(points: Tensor, mixture: GaussianMixture) -> float:
    """Total variation between the two of `mode_histogram`, in [0, 1]: so wrong weights, modes of
    the wrong width and points between the modes all count."""
    observed, expected = mode_histogram(points, mixture)
    return float((observed - expected).abs().sum()) / 2


def mode_histogram(points: Tensor, mixture: GaussianMixture) -> tuple[Tensor, Tensor]:
    """The shares of points and of the mixture around its modes, `[k 3 + 1]` each.

    The cells are shells around each mode, up to one, two and three of its standard deviations, and
    last all that is outside. Shells of different modes are taken not to overlap.

    Args:
        points: `[b d]`; one that is not finite is outside.
        mixture: what they should come from.
    """
    points, distance, nearest = _nearest_modes(points, mixture)
    radii = torch.arange(1, HIGH_QUALITY + 1, dtype=torch.float64, device=points.device)
    shell = torch.searchsorted(radii, distance / mixture.stds.to(points)[nearest])
    shells = mixture.components * len(radii)
    index = torch.where(shell < len(radii), nearest * len(radii) + shell, shells)
    observed = torch.bincount(index, minlength=shells + 1).to(points) / len(points)
    within = torch.special.gammainc(radii.new_tensor(mixture.dimension / 2), radii.square() / 2)
    share = within.diff(prepend=within.new_zeros(1))
    expected = rearrange(torch.outer(mixture.weights.to(points), share), "k s -> (k s)")
    return observed, torch.cat([expected, 1 - expected.sum(dim=0, keepdim=True)])
