"""What a call of a denoiser costs, guided or not; `Cost` itself is a matter of the protocols."""

from collections.abc import Callable
from typing import Any

from hybridgen.maths.cost import Cost

__all__ = ["Cost", "cost_of"]


def cost_of(denoiser: Any, sigma: float) -> Cost:
    """One call of `denoiser` at level `sigma`: what it says of itself, else one evaluation."""
    own: Callable[[float], Cost] | None = getattr(denoiser, "cost", None)
    return Cost(denoiser=1) if own is None else own(sigma)
