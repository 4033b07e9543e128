"""Axes: from a value to a place in per cent of the picture, and where the ticks are."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

MARGIN = 5.0
"""Per cent of the picture that stay free at either end of an axis."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A place in per cent, and what is written there."""

    place: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From `low` at 0 per cent to `high` at 100, which may be the smaller one.

    Attributes:
        log: whether equal ratios are equally far apart.
        ticks: inside the range.
    """

    low: float
    high: float
    log: bool
    ticks: tuple[Tick, ...] = ()

    def at(self, value: float) -> float:
        """Per cent; what lies outside, and what has no logarithm, is moved to the near end."""
        return _place(value, self.low, self.high, self.log)


def axis(
    values: Iterable[float],
    text: Callable[[float], str],
    *,
    log: bool = False,
    flipped: bool = False,
    ticks: int = 6,
    at: Iterable[float] | None = None,
    apart: float = 5.0,
) -> Axis:
    """An axis that shows all finite `values`.

    Args:
        text: of a tick.
        log: whether equal ratios are equally far apart; values that are not positive are left out.
        flipped: from the largest to the smallest, as is natural for heights on a screen.
        ticks: about how many at most.
        at: where to put them; else at round values.
        apart: per cent that are left between two at least; of closer ones the first stays.
    """
    there = [value for value in values if math.isfinite(value)]
    if log:
        there = [value for value in there if value > 0]
    low, high = (min(there), max(there)) if there else (1.0, 2.0)
    low, high = _widened(low, high, log)
    begin, end = (high, low) if flipped else (low, high)
    wanted = list(at) if at is not None else _round_values(low, high, log, ticks)
    marked = [
        Tick(place=_place(value, begin, end, log), text=text(value))
        for value in wanted
        if low <= value <= high
    ]
    return Axis(low=begin, high=end, log=log, ticks=tuple(_apart(marked, apart)))


def _place(value: float, low: float, high: float, log: bool) -> float:
    if log:
        if value <= 0:
            return 0.0 if low < high else 100.0
        value, low, high = math.log(value), math.log(low), math.log(high)
    return min(100.0, max(0.0, 100 * (value - low) / (high - low)))


def _widened(low: float, high: float, log: bool) -> tuple[float, float]:
    share = MARGIN / (100 - 2 * MARGIN)
    if log:
        if high < low * 1.5:
            low, high = low / 1.3, high * 1.3
        factor = (high / low) ** share
        return low / factor, high * factor
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        half = abs(low) / 10 or 0.5
        low, high = low - half, high + half
    return low - share * (high - low), high + share * (high - low)


def _round_values(low: float, high: float, log: bool, ticks: int) -> list[float]:
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = [s * 10.0**e for e in range(first, last + 1) for s in steps]
            found = [value for value in found if low <= value <= high]
            if 2 <= len(found) <= ticks:
                return found
        if len(found) > ticks:
            return found[:: -(-len(found) // ticks)]
    step = _round_step((high - low) / ticks)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _round_step(least: float) -> float:
    size = 10.0 ** math.floor(math.log10(least))
    return next(m * size for m in (1, 2, 5, 10) if m * size >= least * (1 - 1e-9))


def _apart(ticks: list[Tick], least: float) -> list[Tick]:
    kept: list[Tick] = []
    for tick in ticks:
        if not kept or abs(tick.place - kept[-1].place) >= least:
            kept.append(tick)
    return kept
