"""Precision, recall, density and coverage: fidelity and diversity by nearest neighbours."""

from itertools import product

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

AT_ONCE = 2**18
"""Coordinates of pairs that are subtracted at a time."""
KEPT = 2**28
"""Bytes of factors that are kept for the next rows of tiles."""
ROUGH = 3e-4
"""Of a squared distance, what rounding in single precision may be for that to save time."""


class Tiles:
    """Tiles of `|x|^2 + |y|^2 - 2 x.y`, the squared distances of all pairs.

    Points are first moved to the middle of both sets. What is left of rounding is at most
    `tolerance`; where a decision is closer than that, `distances` takes differences coordinate by
    coordinate instead. So decisions are the same in double precision and, after `hurry`, in single.

    Args:
        x: `[n d]`.
        y: `[m d]`.
        chunk: side of a tile.

    Attributes:
        rows, columns: ranges of the points of `x` and `y` that make tiles.

    Raises:
        ValueError: shapes that do not fit, or features that are not finite or not when squared.
    """

    def __init__(self, x: Tensor, y: Tensor, *, chunk: int) -> None:
        if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
            raise ValueError(
                f"expected features [n d] and [m d], got {tuple(x.shape)} and {tuple(y.shape)}"
            )
        if chunk < 1 or not len(x) or not len(y):
            raise ValueError(
                f"need points and a chunk of at least 1, got {len(x)}, {len(y)}, {chunk}"
            )
        self.x, self.y = x.detach(), y.detach()
        self.rows, self.columns = _ranges(len(x), chunk), _ranges(len(y), chunk)
        self._middle = (_mean(self.x, self.rows) + _mean(self.y, self.columns)) / 2
        self._x_norms = self._squares(self.x, self.rows)
        self._y_norms = self._squares(self.y, self.columns)
        largest = float(self._x_norms.amax() + self._y_norms.amax())
        if not largest < torch.inf:
            raise ValueError("expected finite features, got some that are not, or not when squared")
        # A sum of d products errs by less than d roundings of the product of the norms.
        self._error = 2 * (x.shape[1] + 8) * largest
        self._use(torch.float64)

    def hurry(self, squared: float) -> None:
        """Multiply in single precision from now on, if that is fine enough to compare most
        distances with such a squared one, and if this machine's is none coarser by choice."""
        rough = self._error * torch.finfo(torch.float32).eps
        precise = torch.get_float32_matmul_precision() == "highest"
        if rough < ROUGH * squared and precise and self.x.device.type == "cpu":
            self._use(torch.float32)

    def tile(self, rows: range, columns: range) -> Tensor:
        """Squared distances `[rows columns]`, valid until the next call."""
        if rows not in self._left:
            self._left = {rows: self._factor(self.x, self._x_norms, rows, left=True)}
        if columns not in self._right:
            right = self._factor(self.y, self._y_norms, columns, left=False)
            if len(self._right) >= KEPT // right.nbytes:
                self._right.clear()
            self._right[columns] = right
        left, right = self._left[rows], self._right[columns]
        return torch.mm(left, right.T, out=_shaped(self._tile, rows, columns))

    def beyond(self, squared: Tensor, radii: Tensor, rows: range, columns: range) -> Tensor:
        """A number for each pair, below 0 just where the distance is less than the radius.

        Args:
            squared: the tile of these rows and columns.
            radii: `[rows 1]` or `[columns]`.

        Returns:
            `[rows columns]`, valid until the next call.
        """
        limit = radii.square().to(squared.dtype)
        out = torch.sub(squared, limit, out=_shaped(self._beyond, rows, columns))
        close = torch.abs(out, out=_shaped(self._close, rows, columns))
        doubtful = (close.amin(dim=1) <= self.tolerance).nonzero()[:, 0]
        if len(doubtful):
            i, j = (close[doubtful] <= self.tolerance).nonzero(as_tuple=True)
            i = doubtful[i]
            others = rearrange(j + columns.start, "p -> p 1")
            exact = rearrange(self.distances(i + rows.start, others), "p 1 -> p")
            out[i, j] = (exact - radii.expand_as(out)[i, j]).to(out.dtype)
        return out

    def least_beyond(self, squared: Tensor, radii: Tensor, rows: range, columns: range) -> Tensor:
        """The least of `beyond` in each row, `[rows]`, for less."""
        limit = radii.square().to(squared.dtype)
        out = torch.sub(squared, limit, out=_shaped(self._beyond, rows, columns))
        least = out.amin(dim=1)
        if float(least.abs().amin()) > self.tolerance:
            return least
        return self.beyond(squared, radii, rows, columns).amin(dim=1)

    def distances(self, i: Tensor, j: Tensor) -> Tensor:
        """`|x_i - y_j|`, from the differences, of points `i` `[p]` and for each `j` `[p s]`."""
        if not len(i):
            return self._y_norms.new_empty(j.shape)
        at_once = max(1, AT_ONCE // max(1, j.shape[1] * self.x.shape[1]))
        return torch.cat(
            [
                (self.y[b] - rearrange(self.x[a].double(), "p d -> p 1 d")).square_().sum(dim=2)
                for a, b in zip(i.split(at_once), j.split(at_once), strict=True)
            ]
        ).sqrt_()

    def _factor(self, points: Tensor, norms: Tensor, part: range, *, left: bool) -> Tensor:
        """`[-2 x, |x|^2, 1]` or `[y, 1, |y|^2]`, whose products are squared distances."""
        moved, norms = points[_slice(part)] - self._middle, norms[_slice(part)]
        ones = torch.ones_like(norms)
        parts = [-2 * moved, norms, ones] if left else [moved, ones, norms]
        return torch.cat(parts, dim=1).to(self._tile.dtype)

    def _use(self, dtype: torch.dtype) -> None:
        self._left: dict[range, Tensor] = {}
        self._right: dict[range, Tensor] = {}
        self.tolerance = self._error * torch.finfo(dtype).eps
        # Memory that is used again spares the system fresh pages, which cost as much as products.
        size = len(self.rows[0]) * len(self.columns[0])
        self._tile, self._beyond, self._close = self.x.new_empty(3, size, dtype=dtype)

    def _squares(self, points: Tensor, parts: list[range]) -> Tensor:
        moved = (points[_slice(part)] - self._middle for part in parts)
        return torch.cat([part.square().sum(dim=1, keepdim=True) for part in moved])


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)


def _ranges(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _shaped(buffer: Tensor, rows: range, columns: range) -> Tensor:
    return rearrange(buffer[: len(rows) * len(columns)], "(n m) -> n m", n=len(rows))


def _mean(points: Tensor, parts: list[range]) -> Tensor:
    sums = [points[_slice(part)].sum(dim=0, dtype=torch.float64) for part in parts]
    return torch.stack(sums).sum(dim=0) / len(points)


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


SUBSET_CHUNK = 512
REACH = 4
"""Nearest samples kept, over k: most of them are in a subset of most samples."""


def subset_prdc(
    real: Tensor,
    radii: Tensor,
    fake: Tensor,
    members: Tensor,
    *,
    neighbours: int = 5,
    chunk: int = SUBSET_CHUNK,
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
    real: Tensor, itself: float, fake: Tensor, members: Tensor, *, chunk: int = SUBSET_CHUNK
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


def mean_kernel(x: Tensor, *, chunk: int = SUBSET_CHUNK) -> float:
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


def nearest(x: Tensor, training: Tensor, *, chunk: int = 500) -> tuple[Tensor, Tensor]:
    """Distance `[b]` (float64) to the nearest of `training`, and its index `[b]`.

    Args:
        x: `[b d]`, features or pixels.
        training: `[n d]`.
        chunk: rows of `x` compared with everything at a time, which bounds the memory.
    """
    if x.ndim != 2 or training.ndim != 2 or x.shape[1] != training.shape[1] or not len(training):
        raise ValueError(
            f"expected [b d] and [n d], n >= 1, got {list(x.shape)} and {list(training.shape)}"
        )
    found = [torch.cdist(part, training.to(part)).argmin(dim=1) for part in x.split(chunk)]
    index = torch.cat(found) if found else torch.empty(0, dtype=torch.int64)
    # Distances through matrix products are rough near 0, where copies are: only ranks come of them.
    parts = zip(x.split(chunk), index.split(chunk), strict=True)
    exact = [(part.double() - training[rows].double()).norm(dim=1) for part, rows in parts]
    return (torch.cat(exact) if exact else torch.empty(0, dtype=torch.float64)), index


def closeness(distance: Tensor, held_out: Tensor) -> Tensor:
    """For each sample the share of held-out examples that are farther from training data; `[b]`.

    Equal distances count half.

    Args:
        distance: `[b]`, of the samples to their nearest training examples.
        held_out: `[m]`, likewise of examples that were never trained on.
    """
    if distance.ndim != 1 or held_out.ndim != 1 or not len(held_out):
        raise ValueError(
            f"expected distances [b] and [m], m >= 1, got {list(distance.shape)} and "
            f"{list(held_out.shape)}"
        )
    ordered = held_out.double().sort().values
    before = torch.searchsorted(ordered, distance.double().contiguous(), side="left")
    until = torch.searchsorted(ordered, distance.double().contiguous(), side="right")
    return 1 - (before + until).double() / (2 * len(ordered))


def memorisation(distance: Tensor, held_out: Tensor) -> float:
    """`P(sample closer than held-out) + P(equal) / 2` over all pairs: .5 is new, 1 is copied.

    It is below .5 where samples are farther from all data than data are from each other. The
    Mann-Whitney statistic U / (b m) of the two sets of distances; one minus the `Delta_T` of the
    source's global test, which divides the space into cells besides.
    Source: Meehan, Chaudhuri & Dasgupta 2020, arXiv:2004.05675, section 3.

    Args:
        distance, held_out: see `closeness`.
    """
    return float(closeness(distance, held_out).mean())
