"""Near pairs of features: precision, recall, density, coverage, memorisation, size of support."""

import math
from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor

from hybridgen.metrics.intervals import Estimate, Z
from hybridgen.networks.blocks import in_chunks

CHUNK = 160
"""Points compared with all others at a time, which bounds the memory."""
PAIRS = 2**26
"""Pairs at a time, at most: of very many points, fewer are compared with all others at a time."""
REACH = 4
"""Nearest samples looked at, over k: of most samples a subset of most of them holds k."""
EXACT = 8
"""Dimensions up to which distances come from differences, and above from products, for speed."""
ROUGH = 1e-3
"""Of the squared norms, a squared distance below which products have too few digits left."""
EDGE = 1 - 1e-10
"""Of a radius, what is inside: rounding must not move a point on the edge of a ball into it."""


def neighbour_radii(x: Tensor, *, neighbours: int = 5, chunk: int = CHUNK) -> Tensor:
    """Distance from each point of `[n d]` to its k-th nearest *other* point, `[n]` in float64.

    Other by position, not by distance: a copy of a point is another point.

    Raises:
        ValueError: no k other points, or features that are not finite.
    """
    x, _ = _comparable(x, x, chunk)
    return _subset_radii(x, subsets_of(x, None), neighbours, chunk)[0]


def prdc(
    real: Tensor,
    fake: Tensor,
    members: Tensor | None = None,
    *,
    radii: Tensor | None = None,
    neighbours: int = 5,
    chunk: int = CHUNK,
) -> dict[str, Tensor]:
    """How the two sets' k-nearest-neighbour balls contain each other's points, strictly inside.

    `precision`: fake points in some real ball; `recall`: real points in some fake ball; `density`:
    real balls a fake point is in, over k, which may exceed 1; `coverage`: real balls with a fake
    point inside. For two sets from one distribution see `expected_coverage`.
    Source: Kynkaanniemi et al. 2019, arXiv:1904.06991; Naeem et al. 2020, arXiv:2002.09797.

    Args:
        real, fake: `[n d]` and `[m d]`.
        members: subsets of `fake`, bool `[s m]`, at least k + 1 in each; all of it if not given.
        radii: `[n]`, `neighbour_radii(real)` if that was worked out already.
        neighbours: k.
        chunk: see `CHUNK`.

    Returns:
        The figures of each subset, `[s]` in float64.

    Raises:
        ValueError: shapes that do not fit, no k other points, or features that are not finite.
    """
    members = subsets_of(fake, members)
    if radii is None:
        radii = neighbour_radii(real, neighbours=neighbours, chunk=chunk)
    if radii.shape != real.shape[:1]:
        raise ValueError(
            f"expected one radius for each of {len(real)} points, got {list(radii.shape)}"
        )
    real, fake = _comparable(real, fake, chunk)
    fake_radii = EDGE * _subset_radii(fake, members, neighbours, chunk)
    farthest = fake_radii.amax(dim=0)
    balls = fake.new_zeros(len(fake))
    covered, recalled = [], []
    chunk = chunk_for(fake, chunk)
    for points, radius in zip(real.split(chunk), (EDGE * radii).split(chunk), strict=True):
        distance = _distances(points, fake)
        inside = (distance < rearrange(radius, "n -> n 1")).float()
        balls += inside.sum(dim=0)
        covered.append(members.float() @ inside.T > 0)
        # Few pairs are near enough for any subset's balls, so only these meet every subset.
        i, j = (distance < farthest).nonzero(as_tuple=True)
        near, hits = distance[i, j], members.new_zeros(len(members), len(points))
        for subset_radii, hit in zip(fake_radii, hits, strict=True):
            hit[i[near < subset_radii[j]]] = True
        recalled.append(hits)
    weights = members.double()
    sizes = weights.sum(dim=1)
    return {
        "precision": weights @ (balls > 0).double() / sizes,
        "recall": torch.cat(recalled, dim=1).double().mean(dim=1),
        "density": weights @ balls / sizes / neighbours,
        "coverage": torch.cat(covered, dim=1).double().mean(dim=1),
    }


def expected_coverage(real: int, fake: int, *, neighbours: int = 5) -> float:
    """Mean coverage of a perfect sampler: `1 - prod_{i=1..k} (n - i) / (n + m - i)`.

    A real point stays uncovered if its k nearest among all others are all real. Exact for any
    distribution without ties. Source: Naeem et al. 2020, arXiv:2002.09797, lemma 2.
    """
    return 1 - math.comb(real - 1, neighbours) / math.comb(real + fake - 1, neighbours)


def subsets_of(x: Tensor, members: Tensor | None) -> Tensor:
    """Subsets `[s m]` of samples `[m d]`, rows of true and false; one of all if not given."""
    if members is None:
        return torch.ones(1, len(x), dtype=torch.bool, device=x.device)
    if members.ndim != 2 or members.shape[1] != len(x) or members.dtype != torch.bool:
        raise ValueError(
            f"expected members [s {len(x)}] of true and false, got {list(members.shape)} of "
            f"{members.dtype}"
        )
    return members


def chunk_for(others: Tensor, chunk: int) -> int:
    """How many points are compared with all of `others` at a time: `chunk`, or fewer."""
    return min(chunk, max(1, PAIRS // max(1, len(others))))


def check_features(real: Tensor, fake: Tensor, fewest: int = 1) -> None:
    """Refuse sets that are not `[n d]` and `[m d]`, or hold fewer samples than `fewest`."""
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"expected features [n d] and [m d], got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    if min(len(real), len(fake)) < fewest:
        raise ValueError(f"need {fewest} samples of each kind, got {len(real)} and {len(fake)}")


def _comparable(x: Tensor, y: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Both in double precision, around the origin where distances come from products."""
    check_features(x, y)
    if chunk < 1:
        raise ValueError(f"need a chunk of at least 1, got {chunk}")
    x, y = x.detach().double(), y.detach().double()
    if not float(x.square().sum() + y.square().sum()) < torch.inf:
        raise ValueError("expected finite features, got some that are not, or not when squared")
    middle = (x.mean(dim=0) + y.mean(dim=0)) / 2 if x.shape[1] > EXACT else 0
    return x - middle, y - middle


def _distances(x: Tensor, y: Tensor, itself: Tensor | None = None) -> Tensor:
    """`|x_i - y_j|`, `[n m]`, of `_comparable` points; infinite where `y_j` is `x_i` itself.

    Products are fast; rows with a pair that is near beside the norms are taken by differences.
    """
    every, differences = torch.arange(len(x), device=x.device), "donot_use_mm_for_euclid_dist"
    products = x.shape[1] > EXACT
    mode = "use_mm_for_euclid_dist" if products else differences
    distance = torch.cdist(x, y, compute_mode=mode)
    if itself is not None:
        distance[every, itself] = torch.inf
    if products:
        norms = x.square().sum(dim=1) + y.square().sum(dim=1).amax()
        rough = (distance.amin(dim=1).square() < ROUGH * norms).nonzero()[:, 0]
        distance[rough] = torch.cdist(x[rough], y, compute_mode=differences)
        if itself is not None:
            distance[every, itself] = torch.inf
    return distance


def _subset_radii(x: Tensor, members: Tensor, neighbours: int, chunk: int) -> Tensor:
    """Distance of each member to the k-th nearest other member, `[s n]`; 0 for all others."""
    fewest = int(members.sum(dim=1).min())
    if not 1 <= neighbours < fewest:
        raise ValueError(
            f"{fewest} points have no {neighbours}-th nearest other point: every subset needs at "
            f"least {neighbours + 1} samples"
        )
    radii = []
    for rows in torch.arange(len(x), device=x.device).split(chunk_for(x, chunk)):
        distance = _distances(x[rows], x, itself=rows)
        reach = min(REACH * neighbours, len(x) - 1)
        near, index = distance.topk(reach, dim=1, largest=False)
        ranks = members[:, index].cumsum(dim=2)
        kth = rearrange((ranks < neighbours).sum(dim=2).clamp_max(reach - 1), "s n -> s n 1")
        radius = rearrange(near.expand(len(members), -1, -1).gather(2, kth), "s n 1 -> s n")
        for s, row in (ranks[:, :, -1] < neighbours).nonzero().tolist():
            radius[s, row] = distance[row, members[s]].kthvalue(neighbours).values
        radii.append(radius * members[:, rows])
    return torch.cat(radii, dim=1)


def nearest(x: Tensor, training: Tensor, *, chunk: int = 500) -> tuple[Tensor, Tensor]:
    """Distance `[b]` (float64) to the nearest of `training`, and its index `[b]`.

    Args:
        x: `[b d]`, features or pixels.
        training: `[n d]`.
        chunk: rows of `x` compared with everything at a time, which bounds the memory.
    """
    check_features(x, training)
    # Distances through matrix products are rough near 0, where copies are: only ranks come of them.
    index = in_chunks(lambda part: torch.cdist(part, training.to(part)).argmin(1), x, size=chunk)
    apart = in_chunks(
        lambda a, i: (a.double() - training[i].double()).norm(dim=1), x, index, size=chunk
    )
    return apart, index


def memorisation(distance: Tensor, held_out: Tensor) -> Tensor:
    """For each sample the share of held-out examples that are farther from training data; `[b]`.

    Equal distances count half. The mean over samples is `P(sample closer than held-out) +
    P(equal) / 2`, the Mann-Whitney statistic U / (b m): .5 for new samples, 1 for copies, and below
    .5 where samples are farther from all data than data are from each other. It is one minus the
    `Delta_T` of the source's global test, which divides the space into cells besides.
    Source: Meehan, Chaudhuri & Dasgupta 2020, arXiv:2004.05675, section 3.

    Args:
        distance: `[b]`, of the samples to their nearest training examples.
        held_out: `[m]`, likewise of examples that were never trained on.
    """
    if distance.ndim != 1 or held_out.ndim != 1 or not len(held_out):
        raise ValueError(
            f"expected distances [b] and [m], m >= 1, got {list(distance.shape)} and "
            f"{list(held_out.shape)}"
        )
    ordered, distance = held_out.double().sort().values, distance.double().contiguous()
    before = torch.searchsorted(ordered, distance, side="left")
    until = torch.searchsorted(ordered, distance, side="right")
    return 1 - (before + until).double() / (2 * len(ordered))


def collision_radius(real: Tensor, *, support: int = 1_000, chunk: int = CHUNK) -> float:
    """The distance below which real examples `[n d]` count as the same: so that `support_size` of
    them is `support`, because that fraction of their pairs is as close.

    So a sampler's size is to be read against `support`: half of it, half of the diversity. The
    examples' own size is as uncertain as a sampler's: by 10 % or more with `sqrt(200 support)`.

    Raises:
        ValueError: fewer than ten pairs would be as close.
    """
    if not support > 0 or len(real) * (len(real) - 1) < 20 * support:
        fewest = math.isqrt(20 * max(1, support)) + 2
        raise ValueError(
            f"a support of {support} needs at least {fewest} examples to set its radius by, got "
            f"{len(real)}: take more, or a smaller support"
        )
    closer = round(len(real) * (len(real) - 1) / 2 / support)
    closest = real.new_empty(0, dtype=torch.float64)
    for distance in _pairs(real, chunk):
        finite = distance[distance.isfinite()]
        closest = torch.cat([closest, finite])
        closest = closest.topk(min(closer + 1, len(closest)), largest=False).values
    return float(closest.max())


def support_size(x: Tensor, radius: float, *, chunk: int = CHUNK) -> Estimate:
    """The birthday test: how many equally likely points would give as many pairs of samples `[s d]`
    that are closer than `radius`: `s (s - 1) / (2 pairs)`, with its 95 % interval.

    Of samples that are not equally likely it is the inverse of the probability that two are the
    same, less than their number. The variance of the share of pairs is that of a U-statistic
    (Hoeffding 1948), its first part from how unequally the pairs fall on the samples. Without any
    pair the size is infinite, and the interval begins at `s (s - 1) / 2 / -log(.025)`.
    Source: Arora & Zhang 2017, arXiv:1706.08224, section 2.

    Args:
        radius: see `collision_radius`.
    """
    if len(x) < 2 or not radius > 0:
        raise ValueError(f"need two samples and a positive radius, got {len(x)} and {radius}")
    close = torch.cat([(d < radius).sum(dim=1) for d in _pairs(x, chunk, both=True)]).double()
    others, pairs = len(x) - 1, len(x) * (len(x) - 1) / 2
    share = float(close.sum()) / 2 / pairs
    if share == 0:
        return Estimate(value=math.inf, low=pairs / -math.log(0.025), high=math.inf)
    chance = share * (1 - share)
    first = max(0.0, float((close / others).var()) - chance / others)
    reach = Z * math.sqrt(4 * first / len(x) + chance / pairs)
    high = 1 / (share - reach) if share > reach else math.inf
    return Estimate(value=1 / share, low=1 / (share + reach), high=high)


def _pairs(x: Tensor, chunk: int, *, both: bool = False) -> Iterator[Tensor]:
    """Distances of some points at a time to all, infinite to themselves and, unless `both`, to
    those before them."""
    x, _ = _comparable(x, x, chunk)
    every = torch.arange(len(x), device=x.device)
    for rows in every.split(chunk_for(x, chunk)):
        distance = _distances(x[rows], x, itself=rows)
        if not both:
            distance[every < rearrange(rows, "n -> n 1")] = torch.inf
        yield distance
