"""Figures of many subsets of the generated samples, in one pass over the distances.

An interval takes the figures of dozens of parts. Distances between samples do not depend on which
of them are in a part, so they are computed once: each figure is that of `prdc` and of the kernel
distance over the subset, at a few times the cost of one instead of dozens of times.
"""

from itertools import product

import torch
from einops import rearrange
from torch import Tensor

from hybridgen.evaluation.tiles import Tiles

CHUNK = 512
REACH = 4
"""Nearest samples kept, over k: most of them are in a subset of most samples."""


def subset_prdc(
    real: Tensor,
    radii: Tensor,
    fake: Tensor,
    members: Tensor,
    *,
    neighbours: int = 5,
    chunk: int = CHUNK,
) -> dict[str, Tensor]:
    """`prdc(real, fake[members])` of every subset, each `[s]` in float64.

    Args:
        real: `[n d]`.
        radii: `[n]`, from `neighbour_radii(real)`.
        fake: `[m d]`.
        members: `[s m]`, bool; at least k + 1 in each.
        chunk: points compared with everything at a time, which bounds the memory.
    """
    _check(fake, members, neighbours + 1)
    reach = _subset_radii(fake, members, neighbours, chunk)
    farthest = reach.amax(dim=0).square()
    balls = torch.zeros(len(fake), dtype=torch.float64)
    covered, recalled = torch.zeros(2, len(members), len(real), dtype=torch.bool)
    tiles = Tiles(real, fake, chunk=chunk)
    for rows, columns in product(tiles.rows, tiles.columns):
        squared = tiles.tile(rows, columns)
        here = slice(columns.start, columns.stop)
        i, j = (squared < farthest[here] + tiles.tolerance).nonzero(as_tuple=True)
        i, j = i + rows.start, j + columns.start
        apart = _apart(tiles, i, j)
        radius = rearrange(radii[rows.start : rows.stop], "n -> n 1")
        inside = tiles.beyond(squared, radius, rows, columns) < 0
        balls[here] += inside.sum(dim=0)
        ball, point = inside.nonzero(as_tuple=True)
        ball, point = ball + rows.start, point + columns.start
        for s, member in enumerate(members):
            covered[s, ball[member[point]]] = True
            recalled[s, i[apart < reach[s, j]]] = True
    weights = members.double()
    sizes = weights.sum(dim=1)
    return {
        "precision": weights @ (balls > 0).double() / sizes,
        "recall": recalled.double().mean(dim=1),
        "density": weights @ balls / sizes / neighbours,
        "coverage": covered.double().mean(dim=1),
    }


def subset_kernel_distance(
    real: Tensor, itself: float, fake: Tensor, members: Tensor, *, chunk: int = CHUNK
) -> Tensor:
    """The unbiased squared MMD between all of `real` and every subset of `fake`, `[s]`.

    The kernel is that of the KID, `(x.y/d + 1)^3`.
    Source: Gretton et al. 2012, JMLR 13, equation 3; Binkowski et al. 2018, arXiv:1801.01401.

    Args:
        real: `[n d]`.
        itself: `mean_kernel(real)`.
        fake: `[m d]`.
        members: `[s m]`, bool; at least 2 in each.
    """
    _check(fake, members, 2)
    real, fake, weights = real.double(), fake.double(), members.double()
    within = torch.zeros(len(members), dtype=torch.float64)
    across = []
    for part, mine in zip(fake.split(chunk), weights.split(chunk, dim=1), strict=True):
        within += (mine * (weights @ _kernel(fake, part))).sum(dim=1)
        across.append(sum(_kernel(part, other).sum(dim=1) for other in real.split(chunk)))
    sizes = weights.sum(dim=1)
    within -= weights @ _own_kernel(fake)
    between = weights @ torch.cat(across) / (sizes * len(real))
    return itself + within / (sizes * (sizes - 1)) - 2 * between


def mean_kernel(x: Tensor, *, chunk: int = CHUNK) -> float:
    """The mean of `(x.y/d + 1)^3` over all pairs of different rows of `[n d]`."""
    x = x.double()
    total = sum(float(_kernel(part, x).sum()) for part in x.split(chunk))
    return (total - float(_own_kernel(x).sum())) / (len(x) * (len(x) - 1))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    base = (a @ b.T).div_(a.shape[1]).add_(1)
    return base.square().mul_(base)  # a power of 3 takes ten times as long


def _own_kernel(x: Tensor) -> Tensor:
    return (x.square().mean(dim=1) + 1) ** 3


def _subset_radii(fake: Tensor, members: Tensor, neighbours: int, chunk: int) -> Tensor:
    """Distance of each member to the k-th nearest other member, `[s m]`; 0 for all others."""
    radii = torch.zeros(members.shape, dtype=torch.float64)
    kept = min(REACH * neighbours, len(fake) - 1)
    tiles = Tiles(fake, fake, chunk=chunk)
    for rows in tiles.rows:
        own = torch.arange(rows.start, rows.stop)
        who = _nearest_others(tiles, rows, kept)
        near = _apart(tiles, own.repeat_interleave(kept), who.flatten())
        near, order = rearrange(near, "(n k) -> n k", k=kept).sort(dim=1)
        who = who.gather(1, order)
        for s, member in enumerate(members):
            ranks = member[who].cumsum(dim=1)
            place = (ranks < neighbours).sum(dim=1, keepdim=True).clamp_max(kept - 1)
            radius = near.gather(1, place)[:, 0]
            for few in (ranks[:, -1] < neighbours).nonzero()[:, 0].tolist():
                others = member.nonzero()[:, 0]
                others = others[others != own[few]]
                far = _apart(tiles, own[few].expand_as(others), others)
                radius[few] = far.kthvalue(neighbours).values
            radii[s, own] = radius * member[own]
    return radii


def _nearest_others(tiles: Tiles, rows: range, count: int) -> Tensor:
    """Which `count` other points are nearest to each of the rows, but for rounding, `[n count]`."""
    near = torch.empty(len(rows), 0, dtype=torch.float64)
    who = torch.empty(len(rows), 0, dtype=torch.int64)
    for columns in tiles.columns:
        tile = tiles.tile(rows, columns)
        if rows == columns:
            tile.fill_diagonal_(torch.inf)
        least, place = tile.topk(min(count, len(columns)), dim=1, largest=False)
        near = torch.cat([near, least], dim=1)
        who = torch.cat([who, place + columns.start], dim=1)
        near, best = near.topk(min(count, near.shape[1]), dim=1, largest=False)
        who = who.gather(1, best)
    return who


def _apart(tiles: Tiles, i: Tensor, j: Tensor) -> Tensor:
    """`|x_i - y_j|` of pairs, `[p]`."""
    return rearrange(tiles.distances(i, rearrange(j, "p -> p 1")), "p 1 -> p")


def _check(fake: Tensor, members: Tensor, least: int) -> None:
    if members.ndim != 2 or members.shape[1] != len(fake) or members.dtype != torch.bool:
        raise ValueError(
            f"expected members [s {len(fake)}] of true and false, got {list(members.shape)} of "
            f"{members.dtype}"
        )
    if int(members.sum(dim=1).min()) < least:
        raise ValueError(f"every subset needs at least {least} samples")
