"""Sentences beside the tables, where numbers are easily misread."""

import math
import re

from hybridgen.evaluation.results import Comparison, metrics_of
from hybridgen.report import text as words

UNEQUAL = 1.25
"""Trainings whose seconds differ by more than this factor are spoken of."""


def counted(comparison: Comparison) -> str:
    """A sentence on how many were compared, for figures that depend on it; empty if unknown."""
    shares = [name for name in ("recall", "coverage") if name in metrics_of(comparison)]
    digits = re.sub(r"[\s,\u202f\u00a0]", "", comparison.data.get("held-out examples", ""))
    if not shares or not (digits.isascii() and digits.isdigit()):
        return ""
    held_out, samples = int(digits), comparison.samples
    said = (
        f"{words.count(samples)} samples against {words.count(held_out)} held-out examples: "
        f"{' and '.join(shares)} depend{'s' * (len(shares) == 1)} on these numbers."
    )
    if samples < held_out and "coverage" in shares:
        said += (
            " With fewer samples than held-out examples coverage cannot reach 1: compare it with "
            "its floor."
        )
    return said


def unequal_trainings(comparison: Comparison) -> str:
    """A sentence if the seconds behind methods differ; empty if not, or if they are not known."""
    seconds = {model.name: model.facts.get("seconds") for model in comparison.models}
    behind: dict[tuple[str, ...], float] = {}
    for row in comparison.rows:
        parts = [seconds.get(name) for name in dict.fromkeys(row.models)]
        known = [part for part in parts if part is not None and math.isfinite(part) and part > 0]
        if known and len(known) == len(parts):
            behind[row.models] = sum(known)
    if len(behind) < 2:
        return ""
    (short, least), *_, (long, most) = sorted(behind.items(), key=lambda item: item[1])
    if most <= UNEQUAL * least:
        return ""
    little = f"{words.seconds(least)} behind what takes {words.listed([*short])}"
    much = f"{words.seconds(most)} behind what takes {words.listed([*long])}"
    return (
        f"Training was not equal: {little}, {much}. Differences between such methods may be "
        "differences in training."
    )
