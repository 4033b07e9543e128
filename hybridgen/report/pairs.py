"""Which row stands beside which: a method and the one that it is a change of, on equal terms."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hybridgen.evaluation.results import Row
from hybridgen.protocols import Cost

Change = Literal["guidance", "refinement", "training"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A row and its baseline.

    Attributes:
        change: `guidance` asks a discriminator for gradients while sampling, `refinement` asks it
            which samples to keep, `training` costs nothing when sampling.
    """

    row: Row
    base: Row
    change: Change


def pairs(rows: Sequence[Row]) -> list[Pair]:
    """Every row with its baseline at the same denoiser and generator calls.

    Refinement takes more calls by its nature, so there the baseline is the row whose budget it
    refines: the one whose words are all among its own. A row without exactly one such counterpart
    has no pair.
    """
    found = []
    for row in rows:
        base = _base(row, [other for other in rows if other.method == row.baseline])
        if base is not None and base is not row:
            found.append(Pair(row=row, base=base, change=_change(row, base)))
    return found


def _base(row: Row, others: Sequence[Row]) -> Row | None:
    calls = row.cost.calls
    if calls is None:
        return None
    known = [(other, other.cost.calls) for other in others if other.cost.calls is not None]
    equal = [other for other, cost in known if _equal(calls, cost)]
    if not equal and calls.discriminator_forward > 0:
        equal = [other for other, cost in known if _cheaper(cost, calls) and _within(other, row)]
    if len(equal) > 1:
        equal = [other for other in equal if _within(other, row)]
    return equal[0] if len(equal) == 1 else None


def _equal(a: Cost, b: Cost) -> bool:
    return math.isclose(a.denoiser, b.denoiser) and math.isclose(a.generator, b.generator)


def _cheaper(base: Cost, refined: Cost) -> bool:
    """Whether `refined` may be the outcome of drawing more than once from `base`."""
    return (
        base.calls <= refined.calls and base.discriminator_forward < refined.discriminator_forward
    )


def _within(base: Row, row: Row) -> bool:
    return set(base.setting.split(", ")) - {""} <= set(row.setting.split(", "))


def _change(row: Row, base: Row) -> Change:
    mine, its = row.cost.calls, base.cost.calls
    if mine is None or its is None:
        return "training"
    if mine.discriminator_backward > its.discriminator_backward:
        return "guidance"
    return "refinement" if mine.discriminator_forward > its.discriminator_forward else "training"
