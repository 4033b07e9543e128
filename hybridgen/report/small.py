"""Small pictures in rows: histograms of classes, and curves of trainings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybridgen.evaluation.results import Comparison, TrainingSummary
from hybridgen.report import text as words
from hybridgen.report.palette import Look

MOST = 240
"""Places of a curve that are drawn at most."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One class: place, width and height in per cent, and what hovering tells."""

    x: float
    width: float
    height: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """The classes of one row over the outline of the held-out ones."""

    name: str
    look: Look | None
    bars: tuple[Bar, ...]
    outline: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One quantity of a training as a path in a square of 100 by 100."""

    name: str
    path: str
    top: str
    bottom: str
    last: str
    log: bool
    steps: str


def histograms(comparison: Comparison, looked: Mapping[str, Look]) -> list[Histogram]:
    """The held-out classes, then those of every row that counted as many; all to one scale."""
    real = _shares(comparison.real_histogram)
    found: list[tuple[str, Look | None, list[float]]] = []
    if real:
        found.append(("held-out examples", None, real))
    for row in comparison.rows:
        if any(row.histogram) and (not real or len(row.histogram) == len(real)):
            found.append((row.name, looked[row.kind], _shares(row.histogram)))
    if len(found) <= bool(real):
        return []
    top = max(share for *_, shares in found for share in shares)
    return [
        Histogram(
            name=name,
            look=look,
            bars=_bars(shares, top, comparison.classes),
            outline=_outline(real, top) if look is not None and real else "",
        )
        for name, look, shares in found
    ]


def curves(trained: TrainingSummary) -> list[Curve]:
    """Those with two finite values or more."""
    found = (_curve(name, *places) for name, places in trained.curves.items())
    return [curve for curve in found if curve is not None]


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts)
    return [count / total for count in counts] if total else []


def _bars(shares: list[float], top: float, classes: Sequence[str]) -> tuple[Bar, ...]:
    width = 100 / len(shares)
    names = classes if len(classes) == len(shares) else [str(i) for i in range(len(shares))]
    return tuple(
        Bar(
            x=i * width + 0.12 * width,
            width=0.76 * width,
            height=100 * share / top,
            text=f"{name}: {100 * share:.1f} %",
        )
        for i, (share, name) in enumerate(zip(shares, names, strict=True))
    )


def _outline(shares: list[float], top: float) -> str:
    width = 100 / len(shares)
    steps = [f"{i * width:.2f} {100 - 100 * s / top:.2f}h{width:.2f}" for i, s in enumerate(shares)]
    return "M" + "L".join(steps)


def _curve(name: str, steps: Sequence[float], values: Sequence[float]) -> Curve | None:
    places = list(zip(steps, values, strict=False))
    finite = [(s, v) for s, v in places if math.isfinite(s) and math.isfinite(v)]
    if len(finite) < 2:
        return None
    low, high = min(v for _, v in finite), max(v for _, v in finite)
    first, last = finite[0][0], finite[-1][0]
    log = low > 0 and high > 30 * low
    begin, end = (math.log(low), math.log(high)) if log else (low, high)

    def at(step: float, value: float) -> str:
        height = (math.log(value) if log else value) - begin
        x = 100 * (step - first) / ((last - first) or 1)
        return f"{x:.1f} {100 - 100 * height / ((end - begin) or 1):.1f}"

    path, pen = [], "M"
    for step, value in places[:: -(-len(places) // MOST)]:
        if math.isfinite(step) and math.isfinite(value):
            path.append(pen + at(step, value))
            pen = "L"
        else:
            pen = "M"
    return Curve(
        name=name.replace("_", " "),
        path="".join(path),
        top=words.number(high),
        bottom=words.number(low),
        last=words.number(finite[-1][1]),
        log=log,
        steps=words.number(last),
    )
