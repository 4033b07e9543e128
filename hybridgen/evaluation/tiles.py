"""Distances of all pairs, a tile at a time: fast products, and exact where it is close."""

import torch
from einops import rearrange
from torch import Tensor

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
