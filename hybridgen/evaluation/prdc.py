"""Precision, recall, density and coverage: fidelity and diversity by nearest neighbours."""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from hybridgen.evaluation.tiles import Tiles

CHUNK = 768
"""Side of a tile: large enough for fast products, small enough for a processor's cache."""
GROUP = 4
"""Columns of which only the nearest is looked at first."""
SPARE = 2
"""Groups looked at one by one besides k: a point's own, and one in case rounding leaves a doubt."""


def neighbour_radii(x: Tensor, *, neighbours: int = 5, chunk: int = CHUNK) -> Tensor:
    """Distance from each point of `[n d]` to its k-th nearest *other* point, `[n]` in float64.

    Other by position, not by distance: a copy of a point is another point. The k nearest points
    are in the k groups of columns whose nearest points are nearest, so only these and a few more
    are looked at one by one; where rounding leaves a doubt about the groups, everyone is.

    Args:
        neighbours: k.
        chunk: points compared with as many at a time, which bounds the memory.

    Raises:
        ValueError: no k other points, or features that are not finite.
    """
    if not 1 <= neighbours < len(x):
        raise ValueError(f"{len(x)} points have no {neighbours}-th nearest other point")
    tiles = Tiles(x, x, chunk=GROUP * -(-chunk // GROUP))
    members = torch.cat([_groups(columns, x.device) for columns in tiles.columns])
    radii = []
    for rows in tiles.rows:
        least = []
        for columns in tiles.columns:
            tile = tiles.tile(rows, columns)
            if len(columns) % GROUP:
                tile = F.pad(tile, (0, -len(columns) % GROUP), value=torch.inf)
            least.append(reduce(tile, "n (s g) -> n g", "min", s=GROUP))
        first = torch.cat(least, dim=1)
        first = first.topk(min(neighbours + SPARE + 1, first.shape[1]), largest=False)
        own = torch.arange(rows.start, rows.stop, device=x.device)
        others = rearrange(members[first.indices[:, : neighbours + SPARE]], "n k s -> n (k s)")
        found = _radii(tiles, own, others, neighbours)
        if first.values.shape[1] > neighbours + SPARE:
            least_elsewhere = first.values[:, -1] - tiles.tolerance
            unsure = own[least_elsewhere <= found.square()]
            everyone = torch.arange(len(x), device=x.device).expand(len(unsure), -1)
            found[unsure - rows.start] = _radii(tiles, unsure, everyone, neighbours)
        if not radii:
            tiles.hurry(float(found.square().median()))
        radii.append(found)
    return torch.cat(radii)


def prdc(
    real: Tensor,
    fake: Tensor,
    *,
    neighbours: int = 5,
    real_radii: Tensor | None = None,
    chunk: int = CHUNK,
) -> dict[str, float]:
    """How the two sets' k-nearest-neighbour balls contain each other's points, strictly inside.

    `precision`: fake points in some real ball; `recall`: real points in some fake ball; `density`:
    real balls a fake point is in, over k, which may exceed 1; `coverage`: real balls with a fake
    point inside. For two sets from one distribution see `expected_coverage`.
    Source: Kynkaanniemi et al. 2019, arXiv:1904.06991; Naeem et al. 2020, arXiv:2002.09797.

    Args:
        real: `[n d]`.
        fake: `[m d]`.
        neighbours: k.
        real_radii: `neighbour_radii` of `real` with the same k, for whoever compares many sets
            with one.
        chunk: points compared with as many at a time, which bounds the memory.

    Raises:
        ValueError: shapes that do not fit, no k other points, or features that are not finite.
    """
    if real_radii is None:
        real_radii = neighbour_radii(real, neighbours=neighbours, chunk=chunk)
    if real_radii.shape != real.shape[:1]:
        raise ValueError(
            f"expected one radius for each of {len(real)} points, got {list(real_radii.shape)}"
        )
    tiles = Tiles(real, fake, chunk=chunk)
    fake_radii = neighbour_radii(fake, neighbours=neighbours, chunk=chunk)
    tiles.hurry(float(min(real_radii.square().median(), fake_radii.square().median())))
    balls = torch.zeros(len(fake), dtype=torch.int64, device=real.device)
    covered, recalled = torch.zeros(2, len(real), dtype=torch.bool, device=real.device)
    for rows in tiles.rows:
        here = slice(rows.start, rows.stop)
        for columns in tiles.columns:
            there = slice(columns.start, columns.stop)
            squared = tiles.tile(rows, columns)
            beyond = tiles.beyond(squared, rearrange(real_radii[here], "n -> n 1"), rows, columns)
            balls[there] += (beyond < 0).sum(dim=0, dtype=torch.int32)
            covered[here] |= beyond.amin(dim=1) < 0
            nearest = tiles.least_beyond(squared, fake_radii[there], rows, columns)
            recalled[here] |= nearest < 0
    return {
        "precision": float((balls > 0).double().mean()),
        "recall": float(recalled.double().mean()),
        "density": float(balls.double().mean()) / neighbours,
        "coverage": float(covered.double().mean()),
    }


def expected_coverage(real: int, fake: int, *, neighbours: int = 5) -> float:
    """Mean coverage of a perfect sampler: `1 - prod_{i=1..k} (n - i) / (n + m - i)`.

    A real point stays uncovered if its k nearest among all others are all real. Exact for any
    distribution without ties. Source: Naeem et al. 2020, arXiv:2002.09797, lemma 2.
    """
    missed = 1.0
    for i in range(1, neighbours + 1):
        missed *= (real - i) / (real + fake - i)
    return 1 - missed


class Prdc(Metric):
    """`prdc` of features that come in batches and on many processes."""

    full_state_update = False
    real: list[Tensor]
    fake: list[Tensor]

    def __init__(self, *, neighbours: int = 5) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("fake", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, *, real: bool) -> None:
        (self.real if real else self.fake).append(features.detach())

    def compute(self) -> dict[str, float]:
        return prdc(dim_zero_cat(self.real), dim_zero_cat(self.fake), neighbours=self.neighbours)


def _radii(tiles: Tiles, own: Tensor, others: Tensor, neighbours: int) -> Tensor:
    """Exact distance of points `[n]` to the k-th nearest of `[n s]`, but for themselves; `[n]`."""
    distances = tiles.distances(own, others.clamp(max=len(tiles.y) - 1))
    nobody = (others == rearrange(own, "n -> n 1")) | (others >= len(tiles.y))
    distances.masked_fill_(nobody, torch.inf)
    return distances.topk(neighbours, largest=False).values[:, -1]


def _groups(columns: range, device: torch.device) -> Tensor:
    """Which columns of a tile share a group, `[g s]`; the last may reach past the end."""
    padded = columns.start + torch.arange(len(columns) + -len(columns) % GROUP, device=device)
    return rearrange(padded, "(s g) -> g s", s=GROUP)
