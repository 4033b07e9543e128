"""Choosing among the critics that a training passes through."""

import copy
import math
from collections.abc import Mapping
from typing import Any

from torch import nn


class Choice:
    """The best critic so far by the held-out samples, and how long ago it was.

    Attributes:
        module: a copy of it, in eval mode.
        loss: its held-out loss less that of knowing nothing.
        step: when it was.
        waited: looks since.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = copy.deepcopy(module)
        self.loss, self.step, self.waited = math.inf, 0, 0

    def offer(self, module: nn.Module, loss: float, step: int) -> None:
        """Keep a copy of `module` if it is better than all before."""
        self.waited += 1
        if loss < self.loss:
            self.module.load_state_dict(module.state_dict())
            self.loss, self.step, self.waited = loss, step, 0

    def state_dict(self) -> dict[str, float]:
        """The numbers; the module is saved by itself."""
        return {"loss": self.loss, "step": self.step, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.loss, self.step, self.waited = state["loss"], state["step"], state["waited"]

    def over(self, step: int, steps: int, patience: int) -> bool:
        """Whether a training of `steps` with this patience ends with `step`."""
        return step == steps or self.waited >= patience
