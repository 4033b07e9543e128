"""Finished runs read back: networks, settings, figures, and guides beside the models they know."""

import glob
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import yaml
from torch import nn

from hybridgen.data.source import DataSettings
from hybridgen.errors import InputError
from hybridgen.evaluation.density_ratio import Calibration, LogRatio
from hybridgen.evaluation.plots import series
from hybridgen.evaluation.results import TrainingSummary
from hybridgen.metrics.registry import METRICS
from hybridgen.networks.build import load_network
from hybridgen.training.run import JsonLines

NETWORKS = ("generator", "denoiser", "discriminator")
"""Folders of networks; the first that a run has is what it was trained for."""

Kind = Literal["gan", "diffusion", "hybrid"]


@dataclass(frozen=True)
class SavedRun:
    """The folder of a run of `gan.py`, `diffusion.py`, `hybrid.py` or `guide.py`, read when asked.

    Every property raises `InputError`, and names the file, if what it needs is missing or damaged.
    """

    folder: Path

    @property
    def network_name(self) -> str:
        """The folder of the network that the run was for; empty if there is none."""
        return next((name for name in NETWORKS if (self.folder / name).is_dir()), "")

    @property
    def network(self) -> Any:
        """That network, in eval mode."""
        return load_network(self.folder / self.network_name)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of that network's weights: a guide belongs to one model."""
        digest = hashlib.sha256()
        for path in sorted((self.folder / self.network_name).glob("*.safetensors")):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    @property
    def finished(self) -> bool:
        """Whether the training came to its end."""
        files = ("config.yaml", "result.json")
        return self.network_name != "" and all((self.folder / name).is_file() for name in files)

    @property
    def kind(self) -> Kind:
        """What sort of generative model it holds; refuses a run that is not finished."""
        model = self.network_name if self.network_name in NETWORKS[:2] else "generator or denoiser"
        for name in ("config.yaml", model, "result.json"):
            if not (self.folder / name).exists():
                raise InputError(
                    f"{self.folder} is not a finished run of experiments/diffusion.py or gan.py "
                    f"(it has no {name}): let its training end first, or name another folder"
                )
        if model == "generator":
            return "gan"
        term = self.config.get("adversarial") or {}
        return "diffusion" if term.get("source") is None else "hybrid"

    @property
    def config(self) -> dict[str, Any]:
        """Its resolved settings."""
        path = self.folder / "config.yaml"
        if not path.is_file():
            raise InputError(
                f"{self.folder} is not a run: expected config.yaml there; name another folder"
            )
        try:
            config = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is damaged: train the model again") from error
        if not isinstance(config, dict):
            raise InputError(f"{path} is empty or damaged: train the model again")
        return config

    @property
    def data(self) -> DataSettings:
        """What the model was trained on."""
        config = self.config
        try:
            return DataSettings(**config["data"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.folder / 'config.yaml'} is of another version or damaged: train the model "
                "again"
            ) from error

    @property
    def result(self) -> dict[str, float | None]:
        """Its figures."""
        path = self.folder / "result.json"
        if not path.is_file():
            raise InputError(
                f"{self.folder} is not finished: expected result.json there; let it end first"
            )
        return _read_object(path)

    def summary(self, name: str, command: str) -> TrainingSummary:
        """What the training took and how it went, under the name that methods call it.

        `facts`: steps, batch, images (steps times batch), seconds of training and in all, and
        parameters of each network.
        """
        config, result = self.config, self.result
        batch = int(config["training"]["batch"])
        facts: dict[str, float] = {"steps": result.get("steps") or 0, "batch": batch}
        facts["images"] = facts["steps"] * batch
        for time in ("seconds", "seconds_in_all"):
            if result.get(time) is not None:
                facts[time] = float(result[time] or 0)
        for network in filter(lambda name: (self.folder / name).is_dir(), NETWORKS):
            weights = load_network(self.folder / network).parameters()
            facts[f"{network}_parameters"] = sum(p.numel() for p in weights)
        return TrainingSummary(
            name=name,
            command=command,
            facts=facts,
            curves=thinned_curves(self.folder / "log.jsonl"),
            settings=(self.folder / "config.yaml").read_text(),
        )


def matching_runs(pattern: str) -> list[SavedRun]:
    """Runs in a folder, or in all folders that match a pattern such as `runs/ring/seed*`."""
    folders = [Path(pattern)] if Path(pattern).is_dir() else map(Path, sorted(glob.glob(pattern)))
    return [SavedRun(folder) for folder in folders if folder.is_dir()]


def training_summary(name: str, runs: Sequence[SavedRun], command: str) -> TrainingSummary:
    """The summary of one run; of several, their mean facts, `trainings`, and the first's curves."""
    first, *others = (run.summary(name, command) for run in runs)
    if not others:
        return first
    facts = {
        fact: fmean(summary.facts.get(fact, math.nan) for summary in (first, *others))
        for fact in first.facts
    }
    return replace(first, facts={"trainings": len(runs), **facts})


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is damaged: train the model again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: train the model again")
    return content


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedGuide:
    """What a run of `experiments/guide.py` left.

    Attributes:
        folder: of that run.
        discriminator: the guide.
        run: folder of the model that it was trained for.
        sampler: the sampler (`single_pass` of a GAN) and
        steps: the number of steps whose errors it knows.
        scale: the one that was chosen for that sampler; 0 if none helped.
        validation_fraction: share of the training examples that it was not trained on.
        window: noise levels `(low, high)` at which it knows anything.
        significant: whether held-out samples confirmed that it knows anything.
        calibration: of its log ratio; `None` for a guide from before it was kept.
    """

    folder: Path
    discriminator: nn.Module
    run: Path
    sampler: str
    steps: int
    scale: float
    validation_fraction: float
    window: tuple[float, float]
    significant: bool
    calibration: Calibration | None = None

    @property
    def fingerprint(self) -> str:
        return SavedRun(self.folder).fingerprint

    @property
    def log_ratio(self) -> LogRatio:
        """`(x, label) -> log p - log q` of clean samples, `[b]`, for `hybridgen.Refined`."""
        return LogRatio(discriminator=self.discriminator, calibration=self._calibrated)

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


def load_guide(folder: str | Path) -> SavedGuide:
    """Read a guide back.

    Raises:
        InputError: the folder holds none, or its model has been trained again since.
    """
    folder = Path(folder)
    path = folder / "guide.json"
    if not path.is_file() or not (folder / "discriminator").is_dir():
        raise InputError(f"{folder} is not a finished run of guide.py: train a guide first")
    model = SavedRun(Path(SavedRun(folder).config.get("run") or ""))
    if model.network_name not in NETWORKS[:2]:
        raise InputError(
            f"{folder} is a guide for {model.folder}, where no model is: work in the folder that "
            "it was trained from, or train it again"
        )
    record = _read_object(path)
    if record.get("model") != model.fingerprint:
        raise InputError(
            f"{folder} is a guide for another model than {model.folder} holds: train it again"
        )
    try:
        low, high = record["window"]
        names = ("sampler", "steps", "scale", "validation_fraction", "significant")
        return SavedGuide(
            folder=folder,
            discriminator=load_network(folder / "discriminator"),
            run=model.folder,
            window=(low, math.inf if high is None else high),
            calibration=Calibration(**record["log_ratio"]) if "log_ratio" in record else None,
            **{name: record[name] for name in names},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: train the guide again") from error


DRAWN = (
    "discriminator",
    "generator",
    "denoising",
    "sign_accuracy",
    "held_out",
    *(name for name, metric in METRICS.items() if metric.curve),
)
"""Quantities of a log that a page shows, of those that there are."""
POINTS = 120
"""Of a drawn curve."""

Curves = Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]


def thinned_curves(log: Path) -> Curves:
    """Quantities of a log worth a look, each in at most 120 means of neighbouring values."""
    curves = series(JsonLines(log).rows())
    return {n: _thinned(*curves[n]) for n in DRAWN if len(curves.get(n, ((), ()))[0]) > 1}


def _thinned(
    steps: list[float], values: list[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    width = -(-len(steps) // POINTS)
    slices = [slice(i, i + width) for i in range(0, len(steps), width)]
    return tuple(_mean(steps[s]) for s in slices), tuple(_mean(values[s]) for s in slices)


def _mean(values: list[float]) -> float:
    return float(f"{sum(values) / len(values):.5g}")
