"""The runs of a comparison: where they are, what cannot work, and how missing ones are trained."""

import hashlib
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from hybridgen.data.source import DataSettings
from hybridgen.errors import InputError, Interrupted, RunError
from hybridgen.evaluation.runs import SavedRun, matching_runs
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
        patterns: name -> a folder, or a pattern of folders, of runs that were trained before;
            in the place of models of these names, or beside them.
        home: of all others.

    Raises:
        InputError: two models of one name, a folder that is no finished run, or a discriminator of
            a model that nobody named.
    """
    runs = {model.name: [SavedRun(home / model.name)] for model in models}
    if len(runs) < len(models):
        raise InputError(f"models need different names, got {[model.name for model in models]}")
    for name, pattern in patterns.items():
        runs[name] = matching_runs(pattern) or [SavedRun(Path(pattern))]
        for run in runs[name]:
            if not run.finished:
                raise InputError(
                    f"{run.folder}, given for {name!r}, is not a finished run: let its training "
                    "end, or name another folder"
                )
    for model in models:
        if model.of is not None and model.of not in runs:
            raise InputError(f"{model.name} is a discriminator of {model.of!r}, which nobody named")
    return runs


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


def command_of(
    model: Model, runs: Mapping[str, Sequence[SavedRun]], *, seed: int, data: str | None
) -> list[str]:
    """What trains a model, as words of a command line that begin with the script's name.

    Raises:
        InputError: a discriminator of a model that was trained several times.
    """
    words = [f"{model.script}.py", "--config", _from_here(model.file)]
    for name, value in (model.arguments or {}).items():
        words += [f"--{name}", str(value)]
    if model.of is not None:
        if len(runs[model.of]) > 1:
            raise InputError(
                f"{model.name} is a discriminator of one training and {model.of!r} has "
                f"{len(runs[model.of])}: train one for each, and name them with --runs"
            )
        words += ["--run", str(runs[model.of][0].folder)]
    elif data is not None:
        words += ["--data.path", data]
    return [*words, "--seed", str(seed), "--out", str(runs[model.name][0].folder)]


def check_recipe(model: Model, folder: Path, *, seed: int, data: str | None) -> None:
    """Refuse a run of this comparison that was trained by other settings than it has now.

    Raises:
        InputError: see above; also for a finished run whose settings nobody recorded.
    """
    record = _record(folder)
    if not (folder / "config.yaml").is_file():
        return  # nothing was trained; a training that failed before it began leaves a record only
    before = json.loads(record.read_text()) if record.is_file() else None
    if before != recipe(model, seed=seed, data=data):
        raise InputError(
            f"{folder} was trained by other settings than {model.name} has now: choose another "
            f'--out, or take it as it is with --runs \'{{"{model.name}": "{folder}"}}\''
        )


def recipe(model: Model, *, seed: int, data: str | None) -> dict[str, object]:
    """All that a training depends on, wherever it is started from."""
    return {
        "script": model.script,
        "config": hashlib.sha256(model.file.read_bytes()).hexdigest(),
        "arguments": dict(model.arguments or {}),
        "of": model.of,
        "seed": seed,
        "data": data,
    }


def train(name: str, words: Sequence[str], folder: Path, made_by: Mapping[str, object]) -> None:
    """Run a training script to its end; its bar is shown, its table goes to `NAME.log`.

    Args:
        words: see `command_of`.
        made_by: the recipe, kept beside the folder.

    Raises:
        RunError: it failed; it has said why.
        Interrupted: a signal came; the training was told, and has saved.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(_record(folder), json.dumps(made_by))
    sys.stderr.write(f"training {name}: python experiments/{shlex.join(words)}\n")
    script, *arguments = words
    with folder.with_name(f"{name}.log").open("w") as log, _terminable():
        child = subprocess.Popen([sys.executable, HERE / script, *arguments], stdout=log)
        try:
            status = child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    if status:
        raise RunError(f"{name} could not be trained (exit status {status}; its reason is above)")


@contextmanager
def _terminable() -> Iterator[None]:
    """Inside, SIGTERM raises `Interrupted`, so that a child can be ended first."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number, "stopped; the same command goes on from there")

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _from_here(path: Path) -> str:
    """As a person in this folder would name it."""
    inside = path.resolve().is_relative_to(Path.cwd())
    return str(path.resolve().relative_to(Path.cwd()) if inside else path)


def _record(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.recipe.json")
