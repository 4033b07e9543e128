"""Finished runs read back: networks, settings, figures, and guides beside the models they know."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal, TypeVar

from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from hybridgen.data.settings import DataSettings
from hybridgen.errors import InputError
from hybridgen.evaluation.density_ratio import Calibration, LogRatio
from hybridgen.evaluation.plots import series
from hybridgen.evaluation.results import TrainingSummary
from hybridgen.files import Number, read_object, read_text
from hybridgen.metrics.registry import METRICS
from hybridgen.networks.build import load_network
from hybridgen.sampling.load import INDEX, load_denoiser
from hybridgen.sampling.settings import SamplerSettings, StudentSettings
from hybridgen.settings import Range, Settings, Weight, check
from hybridgen.training.run import JsonLines

S = TypeVar("S", bound=Settings)
MODELS = ("generator", "denoiser")
NETWORKS = (*MODELS, "autoencoder", "discriminator")
"""Folders of networks; the first that a run has is what it was trained for."""

Kind = Literal["gan", "diffusion", "hybrid", "student"]


def saved_network(folder: Path) -> Any:
    """The network of this package, or the denoiser of a pipeline, in a folder; in eval mode."""
    return load_denoiser(folder) if (folder / INDEX).is_file() else load_network(folder)


@dataclass(frozen=True)
class SavedRun:
    """The folder of a run of an experiment that trains a network, read when asked.

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
        return saved_network(self.folder / self.network_name)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of that network's weights: a guide belongs to one model."""
        digest = hashlib.sha256()
        for path in sorted((self.folder / self.network_name).rglob("*.safetensors")):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    @property
    def finished(self) -> bool:
        """Whether the training came to its end."""
        return not self._missing(self.network_name or "a network")

    @property
    def kind(self) -> Kind:
        """What sort of generative model it holds; refuses a run that is not finished."""
        model = self.network_name if self.network_name in MODELS else "generator or denoiser"
        if missing := self._missing(model):
            raise InputError(
                f"{self.folder} is not a finished run of experiments/diffusion.py or gan.py "
                f"(it has no {missing}): let its training end first, or name another folder"
            )
        if model == "generator":
            return "gan"
        if "student" in self.config:
            return "student"
        term = self.config.get("adversarial")
        plain = not isinstance(term, dict) or term.get("source") is None
        return "diffusion" if plain else "hybrid"

    def _missing(self, network: str) -> str:
        """What a finished run has and this one has not."""
        names = ("config.yaml", network, "result.json")
        return next((name for name in names if not (self.folder / name).exists()), "")

    @property
    def config(self) -> dict[str, Any]:
        """Its resolved settings."""
        return self._read("config.yaml")

    @property
    def data(self) -> DataSettings:
        """What the model was trained on."""
        return self._settings("data", DataSettings)

    @property
    def sampler_settings(self) -> SamplerSettings:
        """How a diffusion model is sampled."""
        return self._settings("sampler", SamplerSettings)

    def _settings(self, name: str, kind: type[S]) -> S:
        """A group of its settings."""
        values = self._read("config.yaml", {name: dict})[name]
        parser = ArgumentParser(exit_on_error=False)  # knows the type of each setting
        parser.add_class_arguments(kind, fail_untyped=False)
        try:
            return kind(**parser.instantiate(parser.parse_object(values)))
        except (ArgumentError, TypeError, ValueError) as error:
            path = self.folder / "config.yaml"
            raise InputError(f"{path} is damaged or of another version: train again") from error

    @property
    def student(self) -> StudentSettings:
        """How a student is sampled."""
        return self._settings("student", StudentSettings)

    @property
    def result(self) -> dict[str, float | None]:
        """Its figures."""
        return self._read("result.json", values=Number | None)

    def _read(self, name: str, fields: Mapping[str, Any] | None = None, **how: Any) -> Any:
        if not (self.folder / name).is_file():
            raise InputError(
                f"{self.folder} has no {name}, so it is not a finished run of that kind: let its "
                "training end first, or name another folder"
            )
        return read_object(self.folder / name, fields, advice="train it again", **how)

    @property
    def facts(self) -> dict[str, float]:
        """Steps, batch, images (steps times batch), seconds of training and in all, and parameters
        of each network.
        """
        result, training = self.result, self._read("config.yaml", {"training": dict})["training"]
        batch, steps = training.get("batch"), result.get("steps") or 0
        if not isinstance(batch, int):
            path = self.folder / "config.yaml"
            raise InputError(f"{path} is damaged (training.batch is {batch!r}): train it again")
        facts: dict[str, float] = {"steps": steps, "batch": batch, "images": steps * batch}
        times = {name: result.get(name) for name in ("seconds", "seconds_in_all")}
        facts |= {name: time for name, time in times.items() if time is not None}
        for network in (name for name in NETWORKS if (self.folder / name).is_dir()):
            weights = saved_network(self.folder / network).parameters()
            facts[f"{network}_parameters"] = sum(p.numel() for p in weights)
        return facts


def training_summary(name: str, runs: Sequence[SavedRun], command: str) -> TrainingSummary:
    """The summary of one run; of several, `trainings`, the means of facts that all of them have,
    and the first's curves.
    """
    every, folder = [run.facts for run in runs], runs[0].folder
    facts = every[0]
    if len(every) > 1:
        shared = [fact for fact in facts if all(fact in each for each in every)]
        means = {fact: fmean(each[fact] for each in every) for fact in shared}
        facts = {"trainings": len(runs), **means}
    return TrainingSummary(
        name=name,
        command=command,
        facts=facts,
        curves=thinned_curves(folder / "log.jsonl"),
        settings=read_text(folder / "config.yaml"),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedGuide(SavedRun):
    """What a run of `experiments/guide.py` left.

    Attributes:
        discriminator: the guide.
        run: folder of the model that it was trained for; of a pipeline perhaps its hub name.
        sampler: the sampler (`single_pass` of a GAN, a pipeline's own scheduler by its class) and
        steps: the number of steps whose errors it knows.
        scale: the one that was chosen for that sampler; 0 if none helped.
        window: noise levels `(low, high)` at which it knows anything.
        significant: whether held-out samples confirmed that it knows anything.
        log_ratio: `(x, label) -> log p - log q` of clean samples, `[b]`, for `hybridgen.Refined`.
    """

    discriminator: nn.Module
    run: Path
    sampler: str
    steps: int
    scale: float
    window: tuple[float, float]
    significant: bool
    log_ratio: LogRatio


_GUIDE = {"model": str, "window": list, "log_ratio": dict, "sampler": str, "steps": int}
_GUIDE |= {"scale": Number, "significant": bool}
_RANGES: dict[str, Any] = {"steps": Annotated[int, Range(1, 1e8)], "scale": Weight}
"""Fields of `guide.json`."""


def load_guide(folder: str | Path) -> SavedGuide:
    """Read a guide back.

    Raises:
        InputError: the folder holds none, or its model has been trained again since.
    """
    folder = Path(folder)
    run = SavedRun(folder)
    record = run._read("guide.json", _GUIDE)
    model = SavedRun(Path(run._read("config.yaml", {"run": str})["run"]))
    pipeline = record["sampler"].endswith("Scheduler")  # of diffusers; its weights stay unread
    if not pipeline and model.network_name not in MODELS:
        raise InputError(
            f"{folder} is a guide for {model.folder}, where no model is: work in the folder that "
            "it was trained from, or train it again"
        )
    if not pipeline and record["model"] != model.fingerprint:
        raise InputError(
            f"{folder} is a guide for another model than {model.folder} holds now: train one "
            "for this model, with another --out"
        )
    try:
        low, high = record["window"]
        for name, kind in _RANGES.items():
            check(kind, record[name], name)
        if not 0 <= low < (math.inf if high is None else high):
            raise ValueError(f"expected a window of noise levels, got {record['window']}")
        guide = load_network(folder / "discriminator")
        calibration = Calibration(**record["log_ratio"])
        return SavedGuide(
            folder=folder,
            discriminator=guide,
            run=model.folder,
            window=(low, math.inf if high is None else high),
            log_ratio=LogRatio(discriminator=guide, calibration=calibration),
            **{name: record[name] for name in ("sampler", "steps", "scale", "significant")},
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder / 'guide.json'} is damaged: train it again") from error


DRAWN = ["discriminator", "generator", "denoising", "sign_accuracy", "held_out"]
DRAWN += [name for name, metric in METRICS.items() if metric.curve]
"""Quantities of a log that a page shows, of those that there are."""
POINTS = 120
"""Of a drawn curve."""


def thinned_curves(log: Path) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Quantities of a log worth a look, each in at most 120 means of neighbouring values."""
    curves = series(JsonLines(log).rows())
    drawn = [name for name in DRAWN if len(curves.get(name, ((), ()))[0]) > 1]
    return {name: (_thinned(curves[name][0]), _thinned(curves[name][1])) for name in drawn}


def _thinned(values: list[float]) -> tuple[float, ...]:
    width = -(-len(values) // POINTS)
    parts = [values[start : start + width] for start in range(0, len(values), width)]
    return tuple(float(f"{sum(part) / len(part):.5g}") for part in parts)
