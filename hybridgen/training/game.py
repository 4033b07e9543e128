"""From settings to the game that is played."""

import math
from dataclasses import dataclass

from torch import nn

from hybridgen.data.augment import Augment, AugmentSettings
from hybridgen.errors import InputError
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.maths.objectives import known, objective


@dataclass(frozen=True, kw_only=True)
class Game:
    """What the players play for; the weights of r1 and r2 are scheduled in `training`.

    Attributes:
        objective: minimax, non_saturating, hinge, least_squares, wasserstein or relativistic.
        gp: weight of the one-centred penalty that the Wasserstein game needs.
        finite_difference: estimate r1 and r2 with steps of this size (data is in [-1, 1] or of
            unit scale) instead of a double backward, which is slow on a CPU.
    """

    objective: str = "relativistic"
    gp: float = 0.0
    finite_difference: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.gp < math.inf:
            raise InputError(f"game.gp must be finite and >= 0, got {self.gp}")
        if self.finite_difference is not None and not 0 < self.finite_difference < math.inf:
            raise InputError(
                f"game.finite_difference is a step > 0 in data units, got {self.finite_difference}"
            )
        if self.objective not in known():
            raise InputError(
                f"no game.objective {self.objective!r}; there are {', '.join(known())}"
            )


def build_loss(critic: nn.Module, game: Game, augment: AugmentSettings) -> AdversarialLoss:
    """The critic with its game; r1 and r2 are left to the schedules.

    Raises:
        InputError: the settings contradict each other, or the critic cannot play.
    """
    augmented = augment.adaptive or augment.strength > 0
    try:
        return AdversarialLoss(
            critic,
            objective(game.objective),
            gp=game.gp,
            finite_difference=game.finite_difference,
            augment=Augment(augment) if augmented else None,
        )
    except ValueError as error:
        raise InputError(str(error)) from error
