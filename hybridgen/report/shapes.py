"""What a large picture consists of, ready for its template."""

from collections.abc import Mapping
from dataclasses import dataclass

from hybridgen.report.axes import Tick
from hybridgen.report.labels import Label
from hybridgen.report.palette import Look


@dataclass(frozen=True, kw_only=True)
class Point:
    """A row in a picture; places in per cent.

    Attributes:
        facts: what a reader is told about it, one thing each.
    """

    x: float
    y: float
    x_ends: tuple[float, float]
    y_ends: tuple[float, float]
    look: Look
    faded: bool
    facts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    """The budgets of one method, as a path in a square of 100 by 100."""

    path: str
    look: Look
    places: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A line across the picture, the band of its interval, and what to write there: the shorter
    texts where the first does not fit."""

    y: float
    ends: tuple[float, float]
    style: str
    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture ready to draw.

    Attributes:
        labels: size of the page -> texts that fit there.
        stairs: a path along the rows that none beats in both.
        notes: what it does not show.
    """

    metric: str
    title: str
    summary: str
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]
    lines: tuple[Line, ...]
    references: tuple[Reference, ...]
    labels: Mapping[str, tuple[Label, ...]]
    stairs: str = ""
    notes: tuple[str, ...] = ()
