"""What a trick does to a measure: paired tests over seeds, corrected for the number of tricks."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit
from scipy.stats import permutation_test
from stability import BASE

from hybridgen.metrics.intervals import Estimate, holm, mean_of, paired_errors
from hybridgen.report.ranking import outcome, p_value

_OUTCOMES = {"better": "helps", "worse": "harms", None: "not finite"}


class Effect(NamedTuple):
    """What a trick does to a measure: its mean, the differences from the base seed by seed, their
    mean with its 95 % interval, its p-value among those of all tricks, and its outcome."""

    mean: Estimate
    differences: tuple[float, ...]
    change: Estimate
    p: float
    outcome: str


def effects(
    measure: str, values: Mapping[str, Sequence[float]], family: int = 0
) -> dict[str, Effect]:
    """Of each trick its effect, by Student's t of the paired differences over seeds, all tricks
    being one family (Holm).

    Equal differences have no variance to compare them with, and those of counts often nearly none:
    then p is at least that of the exact test that exchanges the signs of the differences.

    Args:
        values: of the measure, a seed each, of the base and of every trick, by name.
        family: the tricks that are corrected for, if more than these.
    """
    means = {name: mean_of(measure, each) for name, each in values.items()}
    base = means.pop(BASE)
    chances, differences = [], {}
    for name, mean in means.items():
        pairs = list(zip(values[name], values[BASE], strict=True))
        differences[name] = each = tuple(x - y for x, y in pairs)
        size = max(abs(value) for pair in pairs for value in pair)
        equal = math.isfinite(size) and max(each) - min(each) <= 1e-9 * size  # but for rounding
        counts = all(float(value).is_integer() for pair in pairs for value in pair)
        least = _exchanged(pairs) if equal or counts else 0.0
        chances.append(max(p_value(mean, base, measure, paired=True), least))
    chances += [1.0] * (family - len(chances))
    rows = {}
    for (name, mean), p in zip(means.items(), holm(chances), strict=False):
        result = _OUTCOMES.get(outcome(mean, base, measure, chance=p), "neutral")
        if math.isfinite(mean.value) and not math.isfinite(base.value):
            result = "base not finite"
        rows[name] = Effect(mean, differences[name], _change(mean, base), p, result)
    return rows


def _exchanged(pairs: Sequence[tuple[float, float]]) -> float:
    """The p-value of the mean difference under exchange of the two of each pair; two-sided, exact
    up to 13 seeds."""
    x, y = zip(*pairs, strict=True)

    def difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return (a - b).mean(axis)

    options = {"permutation_type": "samples", "vectorized": True, "rng": np.random.default_rng(0)}
    return float(permutation_test((x, y), difference, **options).pvalue)


def _change(mean: Estimate, base: Estimate) -> Estimate:
    """The difference of two means over the same seeds with its interval, of this one alone."""
    if not (math.isfinite(mean.value) and math.isfinite(base.value)):
        return Estimate(value=math.nan, low=-math.inf, high=math.inf)
    ((error, degrees),) = paired_errors(mean, base)
    change, reach = mean.value - base.value, float(stdtrit(degrees, 0.975)) * error
    return Estimate(value=change, low=change - reach, high=change + reach)
