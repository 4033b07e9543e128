"""The runs of a comparison: where they are, what cannot work, and how missing ones are trained."""

import hashlib
import importlib
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from glob import glob
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hybridgen.cli import argument, read_settings, start_command
from hybridgen.data.settings import DataSettings
from hybridgen.errors import FailedElsewhere, InputError, RunError, quoted
from hybridgen.files import new_file, read_object, write_atomically
from hybridgen.settings import Settings

if TYPE_CHECKING:
    from hybridgen.evaluation.entries import Runs
    from hybridgen.evaluation.runs import SavedRun

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs"
SETTINGS = {
    **{"gan": ("gan", "Gan"), "guide": ("guide", "GuideExperiment")},
    **dict.fromkeys(["diffusion", "hybrid"], ("diffusion", "Diffusion")),
    **{"distill": ("distill", "Distill"), "finetune": ("finetune", "Finetune")},
}
"""Module and class of each script's settings."""
KINDS = {"distill": "student", "finetune": "diffusion"}
"""Of models, where that is not the script's name."""
FURTHER = ("guide", "distill", "finetune")
"""Scripts that begin with a finished run."""


@dataclass(frozen=True, kw_only=True)
class Model(Settings):
    """One run, and what would train it.

    Attributes:
        name: as methods call it.
        script: of experiments/.
        config: a file in configs/, without its ending, such as `gan/digits`; or a path.
        arguments: further ones, such as `{training.steps: "3000"}`.
        of: for a discriminator, the name of the model that it is trained on; for a student or a
            fine-tuned model, that of the model it begins with.
    """

    name: str
    script: Literal["gan", "diffusion", "hybrid", "guide", "distill", "finetune"]
    config: str
    arguments: Mapping[str, str | int | float | bool | None] | None = None
    of: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"\w[\w .+-]*", self.name):
            raise InputError(
                f"a model's name is that of its folder, of letters, digits, spaces and .+-, got "
                f"{quoted(self.name)}"
            )
        if (self.script in FURTHER) != (self.of is not None):
            raise InputError(
                f"{self.name}: models of {', '.join(FURTHER)} alone are `of` a model; got "
                f"script {self.script} and of {self.of}"
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


def find_runs(models: Sequence[Model], patterns: Mapping[str, str], home: Path) -> "Runs":
    """Where the runs of each name are, or would be: one, or one for each seed of a pattern.

    Refuses, by `InputError`, two models of one name and a discriminator of a model nobody named.

    Args:
        patterns: name -> folder, or pattern of folders, of finished runs: in the place of models of
            these names, or beside them; see `check_trainings`.
        home: of all others.
    """
    from hybridgen.evaluation.runs import SavedRun

    runs = {model.name: [SavedRun(home / model.name)] for model in models}
    if len(runs) < len(models):
        raise InputError(f"models need different names, got {[model.name for model in models]}")
    for name, pattern in patterns.items():
        matches = [] if Path(pattern).is_dir() else map(Path, sorted(glob(pattern)))
        folders = [path for path in matches if path.is_dir()] or [Path(pattern)]
        runs[name] = [SavedRun(folder) for folder in folders]
        check_trainings(name, runs[name])
    for model in models:
        if model.of is not None and model.of not in runs:
            raise InputError(f"{model.name} is of a model {model.of!r}, which nobody named")
    return runs


ASIDE = {"seed", "run", "identity", "mixed_precision", "eval_samples", "final_samples"}
"""Settings in which trainings of one model may differ, beside those that no run is tied to: `run`
is the model that a guide is trained on or a student begins with, `identity` its weights."""


def check_trainings(name: str, runs: Sequence["SavedRun"]) -> None:
    """Refuse, by `InputError`, runs given as those called `name` that are no finished trainings of
    one model: kinds and settings other than `ASIDE` must be equal, seeds and weights differ.
    """
    from hybridgen.evaluation.runs import MODELS
    from hybridgen.training.lock import differences

    records = []
    for run in runs:
        if not run.finished:
            raise InputError(
                f"{run.folder}, given for {name!r}, is not a finished run: let its training end, "
                "or name another folder"
            )
        if len(runs) > 1:
            kind, config = run.kind if run.network_name in MODELS else "guide", run.config
            recipe = {"kind": kind, **config}
            # Guides of differently seeded models may have one seed.
            seed = config.get("run"), config.get("seed")
            records.append((run.folder, recipe, {"seed": seed, "weights": run.fingerprint}))
    for (folder, recipe, traits), (other, other_recipe, other_traits) in combinations(records, 2):
        changed = [k for k in differences(recipe, other_recipe) if k not in ASIDE]
        parts = ((r.get("training") or {}).get("accumulation") for r in (recipe, other_recipe))
        changed += ["training.accumulation"] * (len(set(parts)) > 1)
        same = [trait for trait in traits if traits[trait] == other_traits[trait]]
        if changed:
            fault = f"differ in {', '.join(changed)}"
            expected = "trainings of one model that differ in their seeds"
        elif same:
            fault, expected = f"have the same {same[0]}", "trainings with different seeds"
        else:
            continue
        raise InputError(
            f"{folder} and {other}, both given for {name!r}, {fault}: expected {expected}; narrow "
            "the pattern, or give each its own name in --runs"
        )


def same_data(runs: Sequence["SavedRun"]) -> DataSettings:
    """What all of these runs were trained on; different data is refused by `InputError`."""
    names = ("resolution", "channels", "held_out", "identity")  # what decides the examples
    parts = [{name: getattr(run.data, name) for name in names} for run in runs]
    for part, run in zip(parts, runs, strict=True):
        part["path"] = run.data.path if run.data.identity is None else None
    for run, data in zip(runs, parts, strict=True):
        if data != parts[0]:
            raise InputError(
                f"{run.folder} was trained on other data than {runs[0].folder} ({data} and "
                f"{parts[0]}): compare models of one data set and resolution"
            )
    return runs[0].data


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model among `runs` is trained; `data` is a path instead of the one in its settings."""

    model: Model
    runs: "Runs"
    seed: int
    data: str | None

    @property
    def run(self) -> "SavedRun":
        """Where it is, or would be."""
        return self.runs[self.model.name][0]

    @property
    def arguments(self) -> list[str]:
        """Of the script; a discriminator of several trainings is refused by `InputError`."""
        model, path = self.model, self.model.file.resolve()
        inside = path.is_relative_to(Path.cwd())  # then as a person in this folder would name it
        words = ["--config", str(path.relative_to(Path.cwd()) if inside else model.file)]
        for name, value in (model.arguments or {}).items():
            words += [f"--{name}", argument(value)]
        if model.of is not None:
            runs = self.runs[model.of]
            if len(runs) > 1:
                raise InputError(
                    f"{model.name} is of one training and {model.of!r} has "
                    f"{len(runs)}: train one for each, and name them with --runs"
                )
            words += ["--run", str(runs[0].folder)]
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
        return recipe | {"arguments": dict(model.arguments or {}), "data": self.data}

    def check(self) -> None:
        """Refuse, by `InputError`, a run of other settings than now, or of unrecorded ones, and
        settings with which it could not be trained.
        """
        name, folder = self.model.name, self.run.folder
        record = _record(folder)
        advice = f"remove it, and {folder} is trained anew or refused"
        before = read_object(record, advice=advice) if record.is_file() else None
        # A training that failed before it began leaves a record only.
        if (folder / "config.yaml").is_file() and before != self.recipe:
            raise InputError(
                f"{folder} was trained by other settings than {name} has now: choose another "
                f'--out, or take it as it is with --runs \'{{"{name}": "{folder}"}}\''
            )
        if self.run.finished:
            self._check_teacher()
            return
        try:
            _ = self.settings
        except InputError as error:
            raise InputError(f"{name} cannot be trained: {error}") from error

    @property
    def settings(self) -> Any:
        """Of the script, as its arguments say; `InputError` if they cannot be."""
        module, settings = SETTINGS[self.model.script]
        return read_settings(getattr(importlib.import_module(module), settings), self.arguments)

    def _check_teacher(self) -> None:
        """Refuse, by `InputError`, a model that began with other weights than its teacher has."""
        begun, of = self.run.config.get("identity"), self.model.of
        if begun is None or of is None:
            return
        teacher = self.runs[of][0]
        if not teacher.finished or teacher.fingerprint != begun:
            raise InputError(
                f"{self.run.folder} began with other weights than {of!r} in {teacher.folder} has: "
                "choose another --out, or name the run that it began with"
            )

    def to_the_end(self) -> None:
        """Run the training script; its bar is shown, its table goes to `NAME.log`.

        `RunError` if it failed and has said why, `Interrupted` if a signal came and it has saved.
        """
        from hybridgen.training.signals import raised

        name, folder = self.model.name, self.run.folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_record(folder), json.dumps(self.recipe))
        sys.stderr.write(f"training {name}: {self.command}\n")
        call = [sys.executable, HERE / f"{self.model.script}.py", *self.arguments]
        path = folder.with_name(f"{name}.log")
        with new_file(path) as log, raised():
            child = start_command(call, stdout=log)
            try:
                child.wait()
            finally:
                child.terminate()  # if a signal came; one that has ended stays as it is
                child.wait()
        if child.returncode == 2 and not folder.exists():  # refused, so nothing is left of it
            path.unlink()
            _record(folder).unlink()
            with suppress(OSError):  # others are there
                folder.parent.rmdir()
        if child.returncode:
            sentence = f"{name} could not be trained (exit status {child.returncode})"
            # One that was killed has not said why.
            raise RunError(sentence) if child.returncode < 0 else FailedElsewhere(sentence)


def _record(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.recipe.json")
