"""The guidance scale by a small search, which includes not guiding at all."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from scipy.stats import t as student

Distance = tuple[float, tuple[float, ...]]
"""A distance, and its `jackknife_deviations` over the examples that it is to, if it is to any."""


@dataclass(frozen=True, kw_only=True)
class ScaleChoice:
    """The outcome of a search.

    Attributes:
        scale: chosen; 0 unless another is better, and fresh draws confirm it.
        distances: of every scale, one a sampling seed.
        gains: of the best scale over 0 in the confirmation, one a fresh seed; none if 0 is best.
    """

    scale: float
    distances: dict[float, tuple[float, ...]]
    gains: tuple[float, ...] = ()

    def mean(self, scale: float) -> float:
        """The distance at a scale that was tried, a mean over seeds."""
        return fmean(self.distances[scale])


def choose_scale(
    measure: Callable[[float, int], float],
    confirm: Callable[[float, int], Distance],
    scales: Sequence[float],
    seeds: Sequence[int],
) -> ScaleChoice:
    """The scale of the least mean distance, or 0 if that is no real improvement.

    The best of several scales looks good on the draws and on the held-out examples that chose it.
    So as many fresh seeds are drawn for it and for 0 and compared with others, and their mean
    paired gain must exceed the 95 % quantile of Student's t times its standard error, over seeds
    and over the examples: a guide that does nothing is then applied in 5 % of all searches at most.

    Args:
        measure: `(scale, seed) -> distance` to held-out examples of samples from noise of that
            seed; one that is not finite is the worst.
        confirm: `(scale, seed) -> distance` to other examples, with its deviations over them.
        scales: with 0 among them.
        seeds: two or more, of the noise.

    Raises:
        ValueError: 0 is missing, a scale is not finite or given twice, or fewer than two seeds.
    """
    if 0 not in scales or len(set(scales)) < len(scales) or not all(map(math.isfinite, scales)):
        raise ValueError(f"scales to try are different finite numbers and 0, got {list(scales)}")
    if len(seeds) < 2:
        raise ValueError(f"telling gain from noise takes at least 2 seeds, got {list(seeds)}")

    def distance(scale: float, seed: int) -> float:
        value = measure(scale, seed)
        return value if math.isfinite(value) else math.inf

    distances = {
        float(scale): tuple(distance(float(scale), seed) for seed in seeds)
        for scale in sorted(scales)
    }
    choice = ScaleChoice(scale=0.0, distances=distances)
    best = min(distances, key=choice.mean)
    if best == 0 or not math.isfinite(choice.mean(best)):
        return choice
    fresh = range(max(seeds) + 1, max(seeds) + 1 + len(seeds))
    # Seed by seed, because the same noise leads to similar samples at every scale.
    pairs = [(confirm(0.0, seed), confirm(best, seed)) for seed in fresh]
    gains = [without - guided for (without, _), (guided, _) in pairs]
    lengths = {len(over) for pair in pairs for _, over in pair}
    # Without the error over the examples of some draws, what they say is not confirmed.
    if not all(map(math.isfinite, gains)) or len(lengths) > 1:
        return choice
    changes = [[x - y for x, y in zip(a, b, strict=True)] for (_, a), (_, b) in pairs]
    over_examples = stdev(map(fmean, zip(*changes, strict=True))) if all(changes) else 0.0
    error = math.hypot(stdev(gains) / math.sqrt(len(gains)), over_examples)
    confirmed = fmean(gains) > float(student.ppf(0.95, len(gains) - 1)) * error
    return replace(choice, scale=best if confirmed else 0.0, gains=tuple(gains))
