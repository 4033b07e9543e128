"""What a sample costs, counted in network calls."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cost:
    """Calls that one sample takes.

    Attributes:
        denoiser: evaluations of a denoising network.
        critic_forward: evaluations of a critic.
        critic_backward: gradients of a critic with respect to its input.
    """

    denoiser: int = 0
    critic_forward: int = 0
    critic_backward: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.denoiser + other.denoiser,
            self.critic_forward + other.critic_forward,
            self.critic_backward + other.critic_backward,
        )

    def __mul__(self, times: int) -> "Cost":
        return Cost(
            times * self.denoiser, times * self.critic_forward, times * self.critic_backward
        )


def cost_of(denoiser: Any, sigma: float) -> Cost:
    """One call of `denoiser` at level `sigma`: what it says of itself, else one evaluation."""
    own: Callable[[float], Cost] | None = getattr(denoiser, "cost", None)
    return Cost(denoiser=1) if own is None else own(sigma)
