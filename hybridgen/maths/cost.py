"""What a sample costs, counted in network calls."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Calls that one sample takes; fractions where it is their expected number that is known.

    Attributes:
        denoiser: evaluations of a denoising network.
        generator: evaluations of a generator.
        critic_forward: evaluations of a critic.
        critic_backward: gradients of a critic with respect to its input.
    """

    denoiser: float = 0
    generator: float = 0
    critic_forward: float = 0
    critic_backward: float = 0

    @property
    def calls(self) -> float:
        """Of the networks that make samples: critics are not counted."""
        return self.denoiser + self.generator

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            denoiser=self.denoiser + other.denoiser,
            generator=self.generator + other.generator,
            critic_forward=self.critic_forward + other.critic_forward,
            critic_backward=self.critic_backward + other.critic_backward,
        )

    def __mul__(self, times: float) -> "Cost":
        return Cost(
            denoiser=times * self.denoiser,
            generator=times * self.generator,
            critic_forward=times * self.critic_forward,
            critic_backward=times * self.critic_backward,
        )
