"""What further training starts from: a finished run's denoiser, or a pipeline's, and its data."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from hybridgen.data.settings import DataSettings
from hybridgen.errors import InputError
from hybridgen.evaluation.runs import SavedRun
from hybridgen.sampling.load import INDEX, load_denoiser
from hybridgen.sampling.settings import SamplerSettings


@dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """A finished denoiser that further training starts from.

    Attributes:
        name: of its run's folder, or of the pipeline.
        network: `(x, sigma, label) -> x0`, in eval mode.
        data: what it was trained on, or is to be trained on further.
        sampler: of its run; `None` of a pipeline.
        levels: the lowest and the highest noise level at which it can be asked.
        fingerprint: of its weights.
    """

    name: str
    network: Any
    data: DataSettings
    sampler: SamplerSettings | None
    levels: tuple[float, float]
    fingerprint: str

    @property
    def data_std(self) -> float:
        """Of the data, as the network takes it; 0.5 where it does not say."""
        return getattr(self.network, "config", {}).get("data_std", 0.5)

    def check(self, shape: tuple[int, ...], classes: int, levels: Sequence[float] = ()) -> None:
        """Refuse, by `InputError`, data of another shape or with other labels, and levels at which
        it cannot be sampled.
        """
        expected = self.network.shape, self.network.classes
        if (shape, classes) != expected:
            raise InputError(
                f"{self.name} denoises samples of shape {expected[0]} with {expected[1]} classes, "
                f"and the data has shape {shape} with {classes}: give data like that "
                "(data.resolution, data.channels, data.labels of a pipeline), or name another --run"
            )
        low, high = self.levels[0] * (1 - 1e-6), self.levels[1] * (1 + 1e-6)
        outside = [level for level in levels if not low <= level <= high]
        if outside:
            raise InputError(
                f"noise level {outside[0]:.4g} is asked for, and {self.name} knows levels from "
                f"{low:.4g} to {high:.4g}: set student.high, student.low and student.rho, and "
                "sampler.low, so that all levels lie there"
            )


NO_DATA = "{name} is a pipeline, which keeps no data: give --data.path"


def is_pipeline(name: str) -> bool:
    """Whether a pipeline of diffusers is named, by its folder or on the hub, and not a run."""
    return (Path(name) / INDEX).is_file() or not Path(name).is_dir()


def weights_digest(network: nn.Module, settings: str = "") -> str:
    """The SHA-256 of settings and of a network's weights as they are in memory."""
    digest = hashlib.sha256(settings.encode())
    for weight in network.state_dict().values():
        digest.update(weight.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def data_of(run: SavedRun, data: DataSettings) -> DataSettings:
    """What a run was trained on, at another path if `data` has one; `InputError` if it has more."""
    if replace(data, path="", identity=None) != DataSettings(path=""):
        raise InputError(
            f"{run.folder} has its own data settings: give data.path alone, if its data has moved, "
            "and leave the others out"
        )
    return replace(run.data, path=data.path) if data.path else run.data


def load_teacher(name: str, data: DataSettings) -> Teacher:
    """A finished run of `diffusion.py`, `hybrid.py` or `finetune.py` by its folder, or a diffusers
    pipeline by its folder or hub name.

    Args:
        data: what a pipeline is trained further on. A run knows its own, of which only the path is
            replaced, if one is given.

    Raises:
        InputError: no such denoiser, or one that has no data.
    """
    if is_pipeline(name):
        network = load_denoiser(name)
        if not data.path:
            raise InputError(NO_DATA.format(name=name))
        return Teacher(
            name=name,
            network=network,
            data=data,
            sampler=None,
            levels=network.levels,
            fingerprint=weights_digest(network),
        )
    run = SavedRun(Path(name))
    if run.kind not in ("diffusion", "hybrid"):
        raise InputError(
            f"{name} holds a {run.kind} and no denoiser that is sampled in many calls: name a "
            "finished run of experiments/diffusion.py, hybrid.py or finetune.py"
        )
    sampler = run.sampler_settings
    return Teacher(
        name=name,
        network=run.network,
        data=data_of(run, data),
        sampler=sampler,
        levels=(sampler.low, sampler.high),
        fingerprint=run.fingerprint,
    )
