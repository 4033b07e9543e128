"""Which rows a reader sees at once, and which on request."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from hybridgen.evaluation.results import Row
from hybridgen.report.ranking import badness


class Named(Protocol):
    """What bears the name of a row, or another."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


@dataclass(frozen=True, kw_only=True)
class Gallery(Generic[T]):
    """Things in two parts, each in its order; false if empty."""

    shown: tuple[T, ...]
    more: tuple[T, ...]

    def __bool__(self) -> bool:
        return bool(self.shown or self.more)


def best_of_kinds(rows: Sequence[Row], metric: str) -> set[str]:
    """Names of the best row of each kind; of one without a finite figure the first row."""
    best: dict[str, Row] = {}
    ranked = sorted(
        rows,
        key=lambda row: (
            badness(row.figures[metric], metric).value if metric in row.figures else float("inf")
        ),
    )
    for row in ranked:
        best.setdefault(row.kind, row)
    return {row.name for row in best.values()}


def gallery(things: Sequence[T], rows: Sequence[Row], shown: Collection[str]) -> Gallery[T]:
    """Things that bear the names of `shown` rows, or of none at all, come first."""
    hidden = {row.name for row in rows} - set(shown)
    return Gallery(
        shown=tuple(thing for thing in things if thing.name not in hidden),
        more=tuple(thing for thing in things if thing.name in hidden),
    )
