"""From settings to the game that is played."""

from dataclasses import dataclass

from torch import nn

from hybridgen.data.augment import Augment, AugmentSettings
from hybridgen.errors import InputError
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.maths.objectives import objective
from hybridgen.training.gan import GanTraining


@dataclass(frozen=True, kw_only=True)
class Game:
    """What the players play for; the weights of r1 and r2 are scheduled in `training`.

    Attributes:
        objective: a name in `hybridgen/maths/objectives.py`: minimax, non_saturating, hinge,
            least_squares, wasserstein, relativistic.
        gp: weight of the one-centred penalty that the Wasserstein game needs.
        finite_difference: estimate r1 and r2 with steps of this size (data is in [-1, 1] or of
            unit scale) instead of a double backward, which is slow on a CPU.
    """

    objective: str = "relativistic"
    gp: float = 0.0
    finite_difference: float | None = None


def build_loss(
    critic: nn.Module, game: Game, training: GanTraining, augment: AugmentSettings
) -> AdversarialLoss:
    """The critic with its game, and the heaviest r1 and r2 that the schedules will reach.

    Raises:
        InputError: the settings contradict each other, or the critic cannot play.
    """
    augmented = augment.adaptive or augment.strength > 0
    try:
        return AdversarialLoss(
            critic,
            objective(game.objective),
            r1=training.r1.greatest,
            r2=training.r2.greatest,
            gp=game.gp,
            finite_difference=game.finite_difference,
            augment=Augment(augment) if augmented else None,
        )
    except ValueError as error:
        raise InputError(str(error)) from error
