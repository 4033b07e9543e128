"""Finished runs read back: models, guides, and judgements that need not be made again."""

import glob
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from hybridgen.data.settings import DataSettings
from hybridgen.errors import InputError
from hybridgen.evaluation.guide_material import fingerprint
from hybridgen.evaluation.log_ratio import Calibration, LogRatio
from hybridgen.evaluation.opponent import network_of
from hybridgen.networks.build import load_network


@dataclass(frozen=True, kw_only=True, eq=False)
class FinishedGuide:
    """What a run of `experiments/critic.py` left.

    Attributes:
        folder: of that run.
        critic: the guide.
        run: folder of the model that it was trained for.
        sampler: the sampler (`single_pass` of a GAN) and
        steps: the number of steps whose errors it knows.
        scale: the one that was chosen for that sampler; 0 if none helped.
        set_apart: share of the training examples that it was not trained on.
        window: noise levels `(low, high)` at which it knows anything.
        blessed: whether held-out samples confirmed that it knows anything.
        calibration: of its log ratio; `None` for a guide from before it was kept.
    """

    folder: Path
    critic: nn.Module
    run: Path
    sampler: str
    steps: int
    scale: float
    set_apart: float
    window: tuple[float, float]
    blessed: bool
    calibration: Calibration | None = None

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.folder, "critic")

    @property
    def log_ratio(self) -> LogRatio:
        """`(x, label) -> log p - log q` of clean samples, `[b]`, for `hybridgen.Refined`."""
        return LogRatio(critic=self.critic, calibration=self._calibrated)

    @property
    def log_bound(self) -> float:
        """What 95 % of the log ratios of the model's samples are below, for rejection."""
        return self._calibrated.log_bound

    @property
    def acceptance(self) -> float:
        """The share of the model's samples that rejection accepts."""
        return self._calibrated.acceptance

    @property
    def _calibrated(self) -> Calibration:
        if self.calibration is None:
            raise InputError(
                f"{self.folder} holds a guide without a calibrated log ratio, from an earlier "
                "version: train it again to refine samples with it"
            )
        return self.calibration


def finished_guide(folder: str | Path) -> FinishedGuide:
    """Read a guide back.

    Raises:
        InputError: the folder holds none, or its model has been trained again since.
    """
    folder = Path(folder)
    path = folder / "guide.json"
    if not path.is_file() or not (folder / "critic").is_dir():
        raise InputError(f"{folder} is not a finished run of critic.py: train a guide first")
    run = Path(config_of(folder).get("run") or "")
    if not (run / network_of(run)).is_dir():
        raise InputError(
            f"{folder} is a guide for {run}, where no model is: work in the folder that it was "
            "trained from, or train it again"
        )
    said = _json(path)
    if said.get("model") != fingerprint(run, network_of(run)):
        raise InputError(f"{folder} is a guide for another model than {run} holds: train it again")
    try:
        return _guide(folder, run, said)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: train the guide again") from error


def _guide(folder: Path, run: Path, said: Mapping[str, Any]) -> FinishedGuide:
    low, high = said["window"]
    return FinishedGuide(
        folder=folder,
        critic=load_network(folder / "critic"),
        run=run,
        sampler=said["sampler"],
        steps=said["steps"],
        scale=said["scale"],
        set_apart=said["set_apart"],
        window=(low, math.inf if high is None else high),
        blessed=said["blessed"],
        calibration=Calibration(**said["log_ratio"]) if "log_ratio" in said else None,
    )


def finished_models(pattern: str) -> list[Path]:
    """Folders of diffusion runs that match a path or a pattern such as `runs/ring/seed*`.

    Raises:
        InputError: there is none.
    """
    found = sorted(Path(f) for f in glob.glob(pattern) if (Path(f) / "denoiser").is_dir())
    if not found:
        raise InputError(f"no finished run of diffusion.py matches {pattern!r}: train one first")
    return found


def data_settings(folder: Path) -> DataSettings:
    """What a run was trained on."""
    try:
        return DataSettings(**config_of(folder)["data"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / 'config.yaml'} is of another version or damaged") from error


def config_of(folder: Path) -> dict[str, Any]:
    """The resolved settings of a run.

    Raises:
        InputError: the folder is no run.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise InputError(f"{folder} is not a run: expected config.yaml there; name another folder")
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged: train the model again") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is empty or damaged: train the model again")
    return config


def result_of(folder: Path) -> dict[str, float | None]:
    """The figures of a finished run.

    Raises:
        InputError: it has none.
    """
    path = folder / "result.json"
    if not path.is_file():
        raise InputError(f"{folder} is not finished: expected result.json there; let it end first")
    return _json(path)


def _json(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is damaged: train the model again") from error
    if not isinstance(said, dict):
        raise InputError(f"{path} is damaged: train the model again")
    return said
