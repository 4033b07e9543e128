"""What a comparison has to do: which runs are there, which are trained first, what cannot work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compare_models import Model, check_recipe, command_of, folders, missing, needed

from hybridgen.data.load import DataSettings
from hybridgen.errors import InputError
from hybridgen.evaluation.entries import kind_of
from hybridgen.evaluation.methods import Method
from hybridgen.evaluation.runs import data_settings


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is there and what is to be done.

    Attributes:
        places: name of a run -> its folder.
        missing: models to train, in this order.
        commands: name of a model of our own -> what trains it.
    """

    places: Mapping[str, Path]
    missing: list[Model]
    commands: Mapping[str, list[str]]


def planned(
    models: Sequence[Model],
    runs: Mapping[str, str],
    methods: Sequence[Method],
    home: Path,
    *,
    may_train: bool,
    seed: int,
    data: str | None,
) -> Plan:
    """Say whatever is wrong with the settings before anything is trained.

    Args:
        models: that could be trained.
        runs: name -> folder that somebody trained before.
        methods: that use them.
        home: of models of our own.
        may_train: whether to train what is missing.
        seed: of trainings.
        data: in the place of the path in the models' settings.

    Raises:
        InputError: see above.
    """
    places = folders(models, runs, home)
    for method in methods:
        method.check_names(places)
    used = {name for method in methods for name in method.models}
    idle = sorted(set(runs) - used)
    if idle:
        raise InputError(
            f"no method samples the run {idle[0]!r}: name it as a method's model, guide or "
            f"discriminator"
        )
    wanted = needed(models, used)
    to_train = missing(wanted, runs, places)
    untrained = {model.name for model in to_train}
    kinds = {model.name: model.script for model in models}
    for method in methods:
        method.check_kind(kinds.get(method.model) or kind_of(places[method.model]))
    if ready := [places[m.model] for m in methods if m.model not in untrained]:
        same_data(ready)
    own = [model for model in wanted if model.name not in runs]
    for model in own:
        check_recipe(model, places[model.name], seed=seed, data=data)
    if to_train and not may_train:
        raise InputError(
            f"not trained yet: {', '.join(model.name for model in to_train)}; add --train true, or "
            "name finished folders with --runs"
        )
    commands = {model.name: command_of(model, places, seed=seed, data=data) for model in own}
    return Plan(places=places, missing=to_train, commands=commands)


def same_data(runs: list[Path]) -> DataSettings:
    """What all of these runs were trained on.

    Raises:
        InputError: they were trained on different data.
    """
    for run in runs:
        own, first = (_content(data_settings(folder)) for folder in (run, runs[0]))
        if own != first:
            raise InputError(
                f"{run} was trained on other data than {runs[0]} ({own} and {first}): compare "
                "models of one data set and resolution"
            )
    return data_settings(runs[0])


def _content(data: DataSettings) -> dict[str, object]:
    """What decides which examples there are; not how they are read, or whether with labels."""
    names = ("path", "resolution", "channels", "held_out")
    return {name: getattr(data, name) for name in names}
