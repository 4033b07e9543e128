"""Numbers that change while a model trains."""

import math
from dataclasses import dataclass

from hybridgen.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """From `start` to `end` along half a cosine, then constant.

    `end + (start - end) (1 + cos(pi u)) / 2`, u = progress / until, at most 1. Loshchilov & Hutter
    2016, arXiv:1608.03983, equation 5; R3GAN moves learning rate, penalty weight and beta2 so
    (Huang et al. 2024, arXiv:2501.05441).

    Attributes:
        start: value at the first step.
        end: value from `until` on; `None` keeps `start` throughout.
        until: the fraction of training at which the end is reached, in (0, 1].
    """

    start: float
    end: float | None = None
    until: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.until <= 1:
            raise InputError(f"a schedule's `until` is a fraction in (0, 1], got {self.until}")
        if min(self.start, self.end or 0.0) < 0 or not math.isfinite(self.start + (self.end or 0)):
            raise InputError(
                f"a schedule runs between finite values >= 0, got {self.start} and {self.end}"
            )

    @property
    def greatest(self) -> float:
        """The largest value it takes."""
        return max(self.start, self.start if self.end is None else self.end)

    def __call__(self, progress: float) -> float:
        """The value at `progress`, the fraction of training that is done, in [0, 1]."""
        if self.end is None:
            return self.start
        u = min(progress / self.until, 1.0)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * u)) / 2
