"""The runs that take part in a comparison: where they are, and how missing ones are trained."""

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

from hybridgen.errors import InputError, Interrupted, RunError
from hybridgen.training.checkpoint import write_atomically

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs"
FINISHED = {
    "gan": "generator",
    "diffusion": "denoiser",
    "hybrid": "denoiser",
    "guide": "discriminator",
}
"""What the script of a run leaves when it is done."""


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
        """Of settings."""
        own = CONFIGS / f"{self.config}.yaml"
        return own if own.is_file() else Path(self.config)


def folders(models: Sequence[Model], given: Mapping[str, str], home: Path) -> dict[str, Path]:
    """Where each run is, or would be: name -> folder.

    Args:
        given: folders that somebody trained before, under the same or further names.
        home: of all others.

    Raises:
        InputError: two models of one name, or a discriminator of a model that is not there.
    """
    places = {model.name: home / model.name for model in models}
    if len(places) < len(models):
        raise InputError(f"models need different names, got {[model.name for model in models]}")
    places |= {name: Path(folder) for name, folder in given.items()}
    for model in models:
        if model.of is not None and model.of not in places:
            raise InputError(f"{model.name} is a discriminator of {model.of!r}, which nobody named")
    return places


def missing(
    models: Sequence[Model], given: Mapping[str, str], places: Mapping[str, Path]
) -> list[Model]:
    """The models that are still to be trained, in the order of their list.

    Raises:
        InputError: a folder that was given is no finished run.
    """
    for name, folder in given.items():
        if not _finished(Path(folder)):
            raise InputError(
                f"{folder}, given for {name!r}, is not a finished run: let its training end, or "
                "name another folder"
            )
    return [m for m in models if m.name not in given and not _finished(places[m.name])]


def needed(models: Sequence[Model], used: Collection[str]) -> list[Model]:
    """The models that methods use, and those that are judged by discriminators that they use."""
    judged = {model.of for model in models if model.name in used}
    return [model for model in models if model.name in used or model.name in judged]


def command_of(
    model: Model, places: Mapping[str, Path], *, seed: int, data: str | None
) -> list[str]:
    """What trains a model, as words of a command line that begin with the script's name."""
    words = [f"{model.script}.py", "--config", _shown(model.file)]
    for name, value in (model.arguments or {}).items():
        words += [f"--{name}", str(value)]
    if model.of is not None:
        words += ["--run", str(places[model.of])]
    elif data is not None:
        words += ["--data.path", data]
    return [*words, "--seed", str(seed), "--out", str(places[model.name])]


def check_recipe(model: Model, folder: Path, *, seed: int, data: str | None) -> None:
    """Refuse a run of ours that was trained by other settings than are asked for now.

    Raises:
        InputError: see above; also for a finished run that nobody knows the settings of.
    """
    note = _note(folder)
    if not (folder / "config.yaml").is_file():
        return  # nothing was trained; what failed before it began left a note at most
    before = json.loads(note.read_text()) if note.is_file() else None
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


def train(name: str, words: Sequence[str], folder: Path, remembered: Mapping[str, object]) -> None:
    """Run a training script to its end; its bar is shown, its table goes to `NAME.log`.

    Args:
        words: see `command_of`.
        remembered: the recipe, kept beside the folder.

    Raises:
        RunError: it failed; it has said why.
        Interrupted: a signal came; the training was told, and has saved.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(_note(folder), json.dumps(remembered))
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


def _shown(path: Path) -> str:
    """As a person in this folder would name it."""
    inside = path.resolve().is_relative_to(Path.cwd())
    return str(path.resolve().relative_to(Path.cwd()) if inside else path)


def _finished(folder: Path) -> bool:
    there = any((folder / part).is_dir() for part in FINISHED.values())
    return there and (folder / "result.json").is_file() and (folder / "config.yaml").is_file()


def _note(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.recipe.json")
