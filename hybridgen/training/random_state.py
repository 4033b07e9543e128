"""The global random state of every process, as one part of a checkpoint.

Our own draws are functions of (seed, step); this is for modules that draw by themselves, such as
dropout and random augmentation.
"""

import torch
from accelerate import Accelerator
from torch import Tensor


class RandomState:
    """torch's global generators of all processes; looks like a module to a checkpoint."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._cuda = accelerator.device.type == "cuda"
        self._collected: dict[str, Tensor] = {}

    def collect(self) -> None:
        """Gather the states `[processes n]`; every process must call this before a save."""
        states = {"cpu": torch.get_rng_state()}
        if self._cuda:
            states["cuda"] = torch.cuda.get_rng_state()
        device = self._accelerator.device
        gathered = {k: self._accelerator.gather(v[None].to(device)) for k, v in states.items()}
        self._collected = {name: torch.as_tensor(value).cpu() for name, value in gathered.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """What was collected last."""
        return self._collected

    def load_state_dict(self, states: dict[str, Tensor]) -> None:
        """Go on from this process's row; a process that had none keeps its own seed."""
        rank = self._accelerator.process_index
        if rank >= len(states["cpu"]):
            return
        torch.set_rng_state(states["cpu"][rank])
        if self._cuda and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"][rank])
