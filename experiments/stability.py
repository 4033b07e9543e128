"""Tricks for stable GANs, each beside one plain game: `python experiments/stability.py --jobs 2`.

Every trick is trained on every data set with the same seeds as the base. What it does is the mean
of the paired differences; whether it helps or harms is a t test of them, corrected for the number
of tricks. An interrupted sweep goes on when the same command is given again.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated

from gan import Gan
from seeds import Children, Figures, Job, RunEnded, run, run_all

from hybridgen.cli import argument, command, read_settings
from hybridgen.errors import InputError, quoted
from hybridgen.files import Number, read_object
from hybridgen.metrics.registry import METRICS
from hybridgen.settings import Positive, Range, Seed, Settings, did_you_mean
from hybridgen.training.lock import FolderLock, differences

DEFAULT = Path(__file__).parents[1] / "configs" / "stability" / "tricks.yaml"
BASE = "base"
Arguments = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True, kw_only=True)
class DataSet(Settings):
    """A data set, and networks and budget for it.

    Attributes:
        name: in tables and folders.
        measures: metrics by which tricks are compared.
        arguments: of `experiments/gan.py`, over those of the base.
        seconds: of a run of the base on one core, for the estimate of the whole.
    """

    name: str
    measures: tuple[str, ...]
    arguments: Arguments
    seconds: Positive = 30.0


@dataclass(frozen=True, kw_only=True)
class Trick(Settings):
    """One change of the base.

    Attributes:
        name: in tables and folders.
        arguments: of `experiments/gan.py`, over those of the data set.
        text: what it does, in a sentence.
        source: the paper.
        sets: names of those that it is for; all if not given.
    """

    name: str
    arguments: Arguments
    text: str = ""
    source: str = ""
    sets: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Stability(Settings):
    """Settings of `experiments/stability.py`; more seeds, tricks and sets go into the same folder.

    Attributes:
        base: arguments of `experiments/gan.py` for all runs.
        sets: of data.
        tricks: each beside the base.
        run_tricks: names of those to run; all if not given.
        run_sets: names of those to run on; all if not given.
        seeds: trainings of each trick on each set, at least two.
        seed: of the first; the others follow it.
        jobs: trainings at a time, each on one core.
        out: the folder of `stability.html`, `table.md`, `result.json` and all runs.
    """

    base: Arguments
    sets: tuple[DataSet, ...]
    tricks: tuple[Trick, ...]
    run_tricks: tuple[str, ...] | None = None
    run_sets: tuple[str, ...] | None = None
    seeds: Annotated[int, Range(2, 1_000)] = 5
    seed: Seed = 0
    jobs: Annotated[int, Range(1, 256)] = 1
    out: Path = Path("runs/stability")

    def __post_init__(self) -> None:
        super().__post_init__()
        lists = {name: getattr(self, name) for name in ("sets", "tricks", "run_sets", "run_tricks")}
        for name, entries in (
            lists | {f"measures of {s.name}": s.measures for s in self.sets}
        ).items():
            if entries == ():
                raise InputError(f"{name} must have an entry, got none: add one or leave it out")
        sets, tricks = [each.name for each in self.sets], [each.name for each in self.tricks]
        for what, names in (("set of data", sets), ("trick", [BASE, *tricks])):
            for name in names:
                if not re.fullmatch(r"\w[\w .+-]*", name) or names.count(name) > 1:
                    raise InputError(
                        f"each {what} has a name of its own, of letters, digits, spaces and .+-, "
                        f"got {quoted(name)}: rename it"
                    )
        for each in self.sets:
            for measure in each.measures:
                if measure not in METRICS or METRICS[measure].better is None:
                    raise InputError(f"{each.name}: no metric {quoted(measure)} ranks models")
                if isinstance(METRICS[measure].better, float):
                    raise InputError(
                        f"{each.name}: {measure} is best at {METRICS[measure].better:g} and can be "
                        "missed on either side, so a change of it is neither better nor worse: "
                        "choose a measure of which more or less is better"
                    )
        choices_of = [("trick", name, tricks) for name in self.run_tricks or ()]
        choices_of += [("set of data", name, sets) for name in self.run_sets or ()]
        choices_of += [
            ("set of data", name, sets) for each in self.tricks for name in each.sets or ()
        ]
        for what, name, choices in choices_of:
            if name not in choices:
                raise InputError(
                    f"there is no {what} {quoted(name)}{did_you_mean(name, choices)}; there are "
                    f"{', '.join(choices)}"
                )

    @property
    def chosen(self) -> dict[str, tuple[DataSet, dict[str, Arguments]]]:
        """Of each set that is run on its name, itself, and the arguments of the base and of each
        trick by its name."""
        rows = {}
        for each in self.sets:
            if self.run_sets is None or each.name in self.run_sets:
                shared = {**self.base, **each.arguments}
                rows[each.name] = each, {BASE: shared}
                for trick in self.tricks:
                    if (self.run_tricks is None or trick.name in self.run_tricks) and (
                        trick.sets is None or each.name in trick.sets
                    ):
                        rows[each.name][1][trick.name] = {**shared, **trick.arguments}
        return rows


def main(settings: Stability) -> None:
    jobs, finished, seconds = queue(settings)
    from stability_report import report  # imported once the arguments are read: it takes seconds

    config = {**asdict(settings), "out": str(settings.out)}
    with FolderLock(settings.out, config, "Stability", changing=True):
        print(
            f"{len(jobs)} runs, {len(finished)} of which are finished; the others take about "
            f"{seconds / 60:.0f} core-minutes, {seconds / 60 / settings.jobs:.0f} minutes with "
            f"jobs {settings.jobs}",
            file=sys.stderr,
        )
        one = partial(run_once, finished, settings)
        results = run_all(jobs, settings.out, settings.jobs, one)
        print(report(settings, results))


def queue(settings: Stability) -> tuple[list[Job], dict[str, Figures], float]:
    """All runs, the figures of those that are finished, and about how long the others take, in
    seconds on one core. Seed by seed, so that an interrupted sweep has whole ones.

    Raises:
        InputError: arguments that `experiments/gan.py` would refuse, or a folder of other settings.
    """
    jobs, finished, seconds = [], {}, 0.0
    for number in range(settings.seed, settings.seed + settings.seeds):
        for data, (each, rows) in settings.chosen.items():
            for trick, arguments in rows.items():
                words = [w for k, v in arguments.items() for w in (f"--{k}", argument(v))]
                name = f"{data}/{trick}/seed{number}"
                jobs.append(Job(name=name, script="gan", arguments=(*words, "--seed", str(number))))
                try:
                    gan = _settings_of(tuple(words))
                except InputError as error:
                    raise InputError(f"{trick} on {data}: {error}") from error
                figures = _finished(settings.out / name, replace(gan, seed=number))
                if figures is not None:
                    finished[name] = figures
                    continue
                moves = gan.training.discriminator.moves + gan.training.generator.moves
                seconds += each.seconds * moves / 2
    return jobs, finished, seconds


@cache
def _settings_of(words: tuple[str, ...]) -> Gan:
    return read_settings(Gan, [*words, "--threads", "1"])


def _finished(folder: Path, gan: Gan) -> Figures | None:
    """The figures of a run of these settings that is finished; `None` if there is none.

    Raises:
        InputError: it was made with other settings; said before anything is run.
    """
    if not (folder / "config.yaml").is_file():
        return None
    advice = "remove the run, and it is made anew"
    before = read_object(folder / "config.yaml", {"data": dict}, advice=advice)
    before["data"]["identity"] = None  # which a run notes itself
    changed = differences(before, {k: v for k, v in asdict(gan).items() if k != "out"})
    if changed:
        raise InputError(
            f"{folder} holds a run with other settings ({', '.join(changed[:3])}): remove it, or "
            "choose another --out"
        )
    if not (folder / "result.json").is_file():
        return None
    return read_object(folder / "result.json", values=Number | None, advice=advice)


def run_once(
    finished: Mapping[str, Figures], settings: Stability, job: Job, out: Path, children: Children
) -> Figures:
    """The figures of a run that may be finished; none of one whose losses stopped being finite.

    Raises:
        InputError: it has not all measures of its set; said after the first run.
    """
    try:
        done = job.name in finished
        figures = finished[job.name] if done else run(job, out, children)
    except RunEnded as error:
        if "stopped being finite" not in error.log:
            raise
        return {}
    for measure in settings.chosen[job.name.split("/")[0]][0].measures:
        if measure not in figures:
            raise InputError(
                f"{job.name} has no figure {measure}, but {', '.join(figures)}: choose among them "
                "for the measures of its set"
            )
    return figures


if __name__ == "__main__":
    sys.exit(command(main, Stability, description=__doc__ or "", default_config=DEFAULT))
