"""Finished runs read back: models, guides, and judgements that need not be made again."""

import glob
import hashlib
import json
import math
import os
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import nn

from hybridgen.data.source import DataSettings, Source
from hybridgen.errors import InputError
from hybridgen.evaluation.density_ratio import Calibration, LogRatio
from hybridgen.evaluation.plots import series
from hybridgen.evaluation.results import Trained
from hybridgen.metrics.registry import METRICS
from hybridgen.networks.build import load_network
from hybridgen.protocols import Denoiser, Sampler
from hybridgen.sampling.build import SamplerSettings, build_sampler
from hybridgen.sampling.samplers import SinglePass
from hybridgen.training.run import JsonLines


def fingerprint(run: Path, network: str = "denoiser") -> str:
    """The SHA-256 of a run's weights: a guide belongs to one model."""
    digest = hashlib.sha256()
    for path in sorted((run / network).glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


Network = Literal["denoiser", "generator"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledModel:
    """A diffusion model with its sampler, or a GAN, which takes one pass and cannot be guided.

    Attributes:
        name: of the folder that its network is in.
        network: in eval mode, without gradients.
        fingerprint: of its weights.
        sampler: from the network, or for a diffusion model from any other denoiser, to samples.
        sampled: the name of the sampler and its steps, as `guide.json` keeps them.
    """

    name: Network
    network: Any
    fingerprint: str
    sampler: Callable[[Any], Sampler]
    sampled: tuple[str, int]

    @property
    def denoiser(self) -> Denoiser | None:
        """The network, if it can be guided."""
        return self.network if self.name == "denoiser" else None


def load_sampled_model(
    run: Path, settings: SamplerSettings, shape: tuple[int, ...], device: torch.device | str
) -> SampledModel:
    """The model of a finished run.

    Args:
        settings: how a diffusion model is sampled.
        shape: of one sample.

    Raises:
        InputError: the folder holds no finished model, or it cannot be sampled in this way.
    """
    name = network_of(run)
    network: Any = load_network(run / name)
    network = network.to(device).requires_grad_(False)

    def steps(denoiser: Denoiser) -> Sampler:
        return build_sampler(settings, denoiser, shape)

    def one_pass(generator: Any) -> Sampler:
        return SinglePass(generator, (network.config["latent"],))

    diffusion = name == "denoiser"
    if diffusion:
        steps(network)  # refuses settings that cannot work
    return SampledModel(
        name=name,
        network=network,
        fingerprint=fingerprint(run, name),
        sampler=steps if diffusion else one_pass,
        sampled=(settings.name, settings.steps) if diffusion else ("single_pass", 1),
    )


def network_of(run: Path) -> Network:
    """The folder that the network of a run is in: of a GAN or of a diffusion model."""
    return "generator" if (run / "generator").is_dir() else "denoiser"


def data_of(run: Path) -> DataSettings:
    """The data settings of a finished run.

    Raises:
        InputError: the folder holds none.
    """
    needed = ("config.yaml", network_of(run), "result.json")
    missing = [name for name in needed if not (run / name).exists()]
    if missing:
        raise InputError(
            f"{run} is not a finished run of experiments/diffusion.py or gan.py (it has no "
            f"{missing[0]}): train one first, or name its folder with --run"
        )
    try:
        return DataSettings(**yaml.safe_load((run / "config.yaml").read_text())["data"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{run / 'config.yaml'} is damaged: train the model again") from error


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
        return fingerprint(self.folder, "discriminator")

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


def _guide(folder: Path, run: Path, said: Mapping[str, Any]) -> SavedGuide:
    low, high = said["window"]
    return SavedGuide(
        folder=folder,
        discriminator=load_network(folder / "discriminator"),
        run=run,
        sampler=said["sampler"],
        steps=said["steps"],
        scale=said["scale"],
        validation_fraction=said["validation_fraction"],
        window=(low, math.inf if high is None else high),
        significant=said["significant"],
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
PARTS = ("generator", "denoiser", "discriminator")

Curves = Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]


def biography(name: str, folder: Path, command: str) -> Trained:
    """Budgets, curves and settings of a run.

    `facts`: steps, batch, images (steps times batch), seconds of training and in all, and
    parameters of each network.
    """
    config, result = config_of(folder), result_of(folder)
    batch = int(config["training"]["batch"])
    facts: dict[str, float] = {"steps": result.get("steps") or 0, "batch": batch}
    facts["images"] = facts["steps"] * batch
    for known in ("seconds", "seconds_in_all"):
        if result.get(known) is not None:
            facts[known] = float(result[known] or 0)
    for part in PARTS:
        if (folder / part).is_dir():
            network = load_network(folder / part)
            facts[f"{part}_parameters"] = sum(p.numel() for p in network.parameters())
    return Trained(
        name=name,
        command=command,
        facts=facts,
        curves=drawn_curves(folder / "log.jsonl"),
        settings=(folder / "config.yaml").read_text(),
    )


def drawn_curves(log: Path) -> Curves:
    """Quantities of a log worth a look, each in at most 120 means of neighbouring values."""
    found = series(JsonLines(log).rows())
    return {name: _thinned(*found[name]) for name in DRAWN if len(found.get(name, ((), ()))[0]) > 1}


def _thinned(
    steps: list[float], values: list[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    width = -(-len(steps) // POINTS)
    parts = [slice(i, i + width) for i in range(0, len(steps), width)]
    return tuple(_mean(steps[p]) for p in parts), tuple(_mean(values[p]) for p in parts)


def _mean(values: list[float]) -> float:
    return float(f"{sum(values) / len(values):.5g}")


PACKAGES = ("hybridgen", "torch", "diffusers", "accelerate", "torchmetrics", "scikit-learn")


def provenance(command: Sequence[str], *, seed: int) -> dict[str, str]:
    """Command, date, seed, versions and machine, name -> text.

    Args:
        command: the words after `python`.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "CPU"
    return {
        "command": shlex.join(["python", *command]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seed": f"{seed}; one training of each model",
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "machine": f"{device}; {os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "threads": f"{torch.get_num_threads()} for sampling and measuring",
    }


def about(source: Source, *, held_out: int) -> dict[str, str]:
    """The data in words, name -> text."""
    return {
        "name": source.name,
        "shape": " x ".join(map(str, source.shape)),
        "training examples": "drawn without end" if source.size is None else str(source.size),
        "held-out examples": str(held_out),
        "classes in training": str(source.classes) if source.classes else "none: unconditional",
    }
