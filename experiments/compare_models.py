"""The runs of a comparison: where they are, what cannot work, and how missing ones are trained."""

import hashlib
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from types import FrameType
from typing import Literal, NoReturn

from hybridgen.data.source import DataSettings
from hybridgen.errors import InputError, Interrupted, RunError
from hybridgen.evaluation.runs import MODELS, SavedRun
from hybridgen.training.checkpoint import write_atomically

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs"


@dataclass(frozen=True, kw_only=True)
class Model:
    """One run, and what would train it.

    Attributes:
        name: as methods call it.
        script: of experiments/.
        config: a file in configs/, without its ending, such as `gan/digits`; or a path.
        arguments: further ones, such as `{training.steps: "3000"}`.
        of: for a discriminator, the name of the model whose samples it judges.
    """

    name: str
    script: Literal["gan", "diffusion", "hybrid", "guide"]
    config: str
    arguments: Mapping[str, str | int | float] | None = None
    of: str | None = None

    def __post_init__(self) -> None:
        if (self.script == "guide") != (self.of is not None):
            raise InputError(
                f"{self.name}: a discriminator, and nothing else, is `of` a model; got script "
                f"{self.script} and of {self.of}"
            )
        if not self.file.is_file():
            raise InputError(
                f"{self.name}: no settings {self.config!r}: expected a path, or the name of a file "
                f"in {CONFIGS} without its ending"
            )

    @property
    def file(self) -> Path:
        """The YAML file of its settings."""
        shipped = CONFIGS / f"{self.config}.yaml"
        return shipped if shipped.is_file() else Path(self.config)


def find_runs(
    models: Sequence[Model], patterns: Mapping[str, str], home: Path
) -> dict[str, list[SavedRun]]:
    """Where the runs of each name are, or would be: one, or one for each seed of a pattern.

    Args:
        patterns: name -> folder, or pattern of folders, of finished runs: in the place of models of
            these names, or beside them.
        home: of all others.

    Raises:
        InputError: two models of one name, a folder that is no finished run, a pattern of runs that
            differ in more than their seeds, or a discriminator of a model that nobody named.
    """
    runs = {model.name: [SavedRun(home / model.name)] for model in models}
    if len(runs) < len(models):
        raise InputError(f"models need different names, got {[model.name for model in models]}")
    for name, pattern in patterns.items():
        matches = [] if Path(pattern).is_dir() else map(Path, sorted(glob(pattern)))
        folders = [path for path in matches if path.is_dir()] or [Path(pattern)]
        runs[name] = [SavedRun(folder) for folder in folders]
        for run in runs[name]:
            if not run.finished:
                raise InputError(
                    f"{run.folder}, given for {name!r}, is not a finished run: let its training "
                    "end, or name another folder"
                )
        check_trainings(name, runs[name])
    for model in models:
        if model.of is not None and model.of not in runs:
            raise InputError(f"{model.name} is a discriminator of {model.of!r}, which nobody named")
    return runs


ASIDE = {
    *("seed", "out", "run", "threads", "tracking", "mixed_precision"),
    *("log_every", "sample_every", "eval_every", "save_every", "eval_samples", "final_samples"),
}
"""Settings in which trainings of one model may differ: a guide's `run` is the model it judges."""


def check_trainings(name: str, runs: Sequence[SavedRun]) -> None:
    """Refuse runs, given as those called `name`, that are no trainings of one model.

    Raises:
        InputError: several whose kinds or settings differ in more than seeds and the like, or
            whose seeds or weights do not differ.
    """
    if len(runs) == 1:
        return
    configs = [run.config for run in runs]
    recipes = [
        {"kind": run.kind if run.network_name in MODELS else "guide"}
        | {setting: value for setting, value in config.items() if setting not in ASIDE}
        for run, config in zip(runs, configs, strict=True)
    ]
    first, advice = recipes[0], "narrow the pattern, or give each its own name in --runs"
    for run, recipe in zip(runs, recipes, strict=True):
        names = sorted(first.keys() | recipe.keys())
        if changed := [each for each in names if first.get(each) != recipe.get(each)]:
            raise InputError(
                f"{runs[0].folder} and {run.folder}, both given for {name!r}, differ in "
                f"{', '.join(changed)}: expected trainings of one model that differ in their "
                f"seeds; {advice}"
            )
    # Guides of differently seeded models may have one seed.
    seeds = [str((config.get("run"), config.get("seed"))) for config in configs]
    for trait, values in (("seed", seeds), ("weights", [run.fingerprint for run in runs])):
        for run, value in zip(runs, values, strict=True):
            twin = runs[values.index(value)]
            if twin is not run:
                raise InputError(
                    f"{twin.folder} and {run.folder}, both given for {name!r}, have the same "
                    f"{trait}: expected trainings with different seeds; {advice}"
                )


def needed(models: Sequence[Model], used: Collection[str]) -> list[Model]:
    """The models that methods use, and those that are judged by discriminators that they use."""
    judged = {model.of for model in models if model.name in used}
    return [model for model in models if model.name in used or model.name in judged]


def same_data(runs: Sequence[SavedRun]) -> DataSettings:
    """What all of these runs were trained on.

    Raises:
        InputError: they were trained on different data.
    """
    names = ("path", "resolution", "channels", "held_out")  # what decides which examples there are
    first, *others = ({name: getattr(run.data, name) for name in names} for run in runs)
    for run, data in zip(runs[1:], others, strict=True):
        if data != first:
            raise InputError(
                f"{run.folder} was trained on other data than {runs[0].folder} ({data} and "
                f"{first}): compare models of one data set and resolution"
            )
    return runs[0].data


@dataclass(frozen=True, kw_only=True)
class Training:
    """The training of one model among the runs of a comparison; `data` is a path in the place of
    the one in its settings.
    """

    model: Model
    runs: Mapping[str, Sequence[SavedRun]]
    seed: int
    data: str | None

    @property
    def run(self) -> SavedRun:
        """Where it is, or would be."""
        return self.runs[self.model.name][0]

    @property
    def arguments(self) -> list[str]:
        """Of the training script.

        Raises:
            InputError: a discriminator of a model that was trained several times.
        """
        model, path = self.model, self.model.file.resolve()
        inside = path.is_relative_to(Path.cwd())  # then as a person in this folder would name it
        words = ["--config", str(path.relative_to(Path.cwd()) if inside else model.file)]
        for name, value in (model.arguments or {}).items():
            words += [f"--{name}", str(value)]
        if model.of is not None:
            judged = self.runs[model.of]
            if len(judged) > 1:
                raise InputError(
                    f"{model.name} is a discriminator of one training and {model.of!r} has "
                    f"{len(judged)}: train one for each, and name them with --runs"
                )
            words += ["--run", str(judged[0].folder)]
        elif self.data is not None:
            words += ["--data.path", self.data]
        return [*words, "--seed", str(self.seed), "--out", str(self.run.folder)]

    @property
    def command(self) -> str:
        """What a person would type to train it."""
        return f"python experiments/{self.model.script}.py {shlex.join(self.arguments)}"

    @property
    def recipe(self) -> dict[str, object]:
        """All that it depends on, wherever it is started from."""
        model = self.model
        config = hashlib.sha256(model.file.read_bytes()).hexdigest()
        recipe = {"script": model.script, "config": config, "of": model.of, "seed": self.seed}
        return {**recipe, "arguments": dict(model.arguments or {}), "data": self.data}

    def check(self) -> None:
        """Refuse a run of this comparison that was trained by other settings than it has now.

        Raises:
            InputError: see above; also for a finished run whose settings nobody recorded.
        """
        name, folder = self.model.name, self.run.folder
        record = _record(folder)
        if not (folder / "config.yaml").is_file():
            return  # a training that failed before it began leaves a record only
        before = json.loads(record.read_text()) if record.is_file() else None
        if before != self.recipe:
            raise InputError(
                f"{folder} was trained by other settings than {name} has now: choose another "
                f'--out, or take it as it is with --runs \'{{"{name}": "{folder}"}}\''
            )

    def to_the_end(self) -> None:
        """Run the training script; its bar is shown, its table goes to `NAME.log`.

        Raises:
            RunError: it failed; it has said why.
            Interrupted: a signal came; the training was told, and has saved.
        """
        name, folder = self.model.name, self.run.folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_record(folder), json.dumps(self.recipe))
        sys.stderr.write(f"training {name}: {self.command}\n")
        call = [sys.executable, HERE / f"{self.model.script}.py", *self.arguments]
        before = signal.signal(signal.SIGTERM, _leave)
        with folder.with_name(f"{name}.log").open("w") as log:
            child = subprocess.Popen(call, stdout=log)
            try:
                child.wait()
            finally:
                child.terminate()  # if a signal came; one that has ended stays as it is
                child.wait()
                signal.signal(signal.SIGTERM, before)
        if child.returncode:
            raise RunError(
                f"{name} could not be trained (exit status {child.returncode}; its reason is above)"
            )


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(number, "stopped; the same command goes on from there")


def _record(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.recipe.json")
