"""Compare single-pass and guided sampling on one page: `accelerate launch experiments/compare.py`.

Quality, diversity and cost of every method on equal terms; without `--config` it takes
`configs/compare/digits.yaml`, which trains all it needs. What is finished is not done again.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from compare_models import CONFIGS, KINDS, Model, Training, find_runs, same_data
from tqdm import tqdm

from hybridgen.cli import command
from hybridgen.errors import InputError, RunError, quoted
from hybridgen.evaluation.settings import Method, check_methods
from hybridgen.metrics.registry import FEWEST, METRICS, metric_of
from hybridgen.settings import Range, Seed, Settings
from hybridgen.training.settings import RunSettings, Threads

if TYPE_CHECKING:
    import torch

    from hybridgen.data.source import Source
    from hybridgen.evaluation.entries import Entry, Runs
    from hybridgen.evaluation.evaluator import Evaluator
    from hybridgen.evaluation.measure import MeasuredEntry
    from hybridgen.evaluation.results import Comparison, Row, SamplingCost, TrainingSummary

DEFAULT = CONFIGS / "compare" / "digits.yaml"


@dataclass(frozen=True, kw_only=True)
class DataPath(Settings):
    """Where the data of models still to be trained is, in the place of that in their settings."""

    path: str | None = None


@dataclass(frozen=True, kw_only=True)
class Compare(Settings):
    """Settings of `experiments/compare.py`.

    Attributes:
        models: runs that take part, discriminators and students after the models they are of.
        runs: name -> folder of a finished run, in the place of a model of that name or beside them;
            or a pattern such as `runs/ring/seed*` of several trainings, over which the figures are
            then means with their intervals.
        train: whether to train models that are missing.
        methods: ways to samples, each with its budgets.
        data: see `DataPath`.
        quality: the metric of the picture and the sentences; the Frechet distance of images, the
            sliced Wasserstein distance of points if not given.
        samples: for each row; as many as the data allows, at most 10 000, if not given.
        subsets: random ones of the samples, whose spread makes the intervals of one training.
        timing_batch: samples made together when methods are timed.
        timing_rounds: turns of each method.
        seed: of trainings that are missing, and of the noise that all methods share.
        out: the folder of the page, and of models that are trained for it.
        threads: of torch on the CPU, for sampling and measuring.
    """

    models: tuple[Model, ...] = ()
    runs: dict[str, str] = field(default_factory=dict)
    train: bool = False
    methods: tuple[Method, ...] = ()
    data: DataPath = field(default_factory=DataPath)
    quality: str | None = None
    samples: Annotated[int, Range(FEWEST, 1e6)] | None = None
    subsets: Annotated[int, Range(8, 1_000)] = 32
    timing_batch: Annotated[int, Range(1, 65_536)] = 64
    timing_rounds: Annotated[int, Range(3, 1_000)] = 15
    seed: Seed = 0
    out: Path = Path("runs/compare/digits")
    threads: Threads | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.methods or not (self.models or self.runs):
            raise InputError(
                "there is nothing to compare: give methods, and models or runs, as "
                "configs/compare/digits.yaml does"
            )
        ranking = [name for name, metric in METRICS.items() if metric.better is not None]
        if self.quality not in (None, *ranking):
            raise InputError(f"no metric {quoted(self.quality)}; there are {', '.join(ranking)}")
        check_methods(self.methods)


def main(settings: Compare) -> None:
    # Imported once the arguments are read: these take seconds.
    from hybridgen.report import markdown
    from hybridgen.report.findings import headline
    from hybridgen.report.publish import publish
    from hybridgen.training.lock import FolderLock
    from hybridgen.training.setup import accelerator_for

    out = settings.out
    accelerator = accelerator_for(out, RunSettings(seed=settings.seed, threads=settings.threads))
    if accelerator.num_processes > 1:
        raise InputError(
            f"a comparison is made by one process, and {accelerator.num_processes} were launched: "
            "use python experiments/compare.py"
        )
    runs = find_runs(settings.models, settings.runs, out / "models")
    trainings = trainings_of(settings, runs)
    commands = {training.model.name: training.command for training in trainings}
    config = {name: value for name, value in asdict(settings).items() if name != "out"}
    missing = [training for training in trainings if not training.run.finished]
    # Whatever is wrong with finished runs is said before anything is written.
    parts = settings, runs, commands, accelerator.device
    trial = None if missing else prepare(*parts)
    with FolderLock(out, config, "Compare", changing=True):
        for training in missing:
            training.to_the_end()
        comparison = compare(settings, trial or prepare(*parts))
        publish(comparison, out)
        print(markdown(comparison))
        print("\n".join(headline(comparison)))
        print(f"the page is {out / 'report.html'}")


def trainings_of(settings: Compare, runs: "Runs") -> list[Training]:
    """Those of this comparison's own models that methods use, or whose discriminators they use, in
    their order; `InputError` for whatever is wrong with the settings, before anything is trained.
    """
    from hybridgen.training.lock import refuse_inside

    for method in settings.methods:
        method.check_names(runs)
    used = {name for method in settings.methods for name in method.models}
    if idle := sorted(set(settings.runs) - used):
        raise InputError(
            f"no method samples the run {idle[0]!r}: name it as a method's model, guide or "
            "discriminator"
        )
    needed = set(used)
    for model in reversed(settings.models):  # discriminators and students come after their models
        needed |= {model.of} if model.name in needed else set()
    trainings = [
        Training(model=model, runs=runs, seed=settings.seed, data=settings.data.path)
        for model in settings.models
        if model.name in needed - settings.runs.keys()
    ]
    scripts = {training.model.name: training.model.script for training in trainings}
    kinds = {name: KINDS.get(script, script) for name, script in scripts.items()}
    sampled = [(method, run) for method in settings.methods for run in runs[method.model]]
    for method, run in sampled:
        method.check_kind(kinds.get(method.model) or run.kind)
    if finished := [run for _, run in sampled if run.finished]:
        refuse_inside(settings.out, vars(same_data(finished)))
    for training in trainings:
        training.check()
    students = {t.model.name: t for t in trainings if t.model.script == "distill"}
    for method in settings.methods:
        if method.model in students:
            for calls in method.calls:
                students[method.model].settings.student.with_calls(calls)
    missing = [training.model.name for training in trainings if not training.run.finished]
    if missing and not settings.train:
        raise InputError(
            f"not trained yet: {', '.join(missing)}; add --train true, or name finished folders "
            "with --runs"
        )
    return trainings


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is compared by what: `entries` has a row for each method at each budget."""

    source: "Source"
    evaluator: "Evaluator"
    quality: str
    entries: "Sequence[tuple[Entry, ...]]"
    models: "Sequence[TrainingSummary]"


def prepare(
    settings: Compare, runs: "Runs", commands: Mapping[str, str], device: "torch.device"
) -> Trial:
    """Read the data and the finished runs; `InputError` for what does not go together."""
    from hybridgen import build_evaluator, load_data
    from hybridgen.evaluation.entries import build_entries
    from hybridgen.evaluation.runs import training_summary

    source = load_data(same_data([run for m in settings.methods for run in runs[m.model]]))
    samples, subsets = settings.samples, settings.subsets
    evaluator = build_evaluator(source, samples=samples, seed=settings.seed, subsets=subsets)
    quality = settings.quality or ("sliced_wasserstein" if source.mixture else "frechet_distance")
    if quality not in evaluator.floors or metric_of(quality).better is None:
        among = ", ".join(sorted(evaluator.floors))
        raise InputError(f"no metric {quality!r} here; there are {among}")
    used = dict.fromkeys(name for method in settings.methods for name in method.models)
    return Trial(
        source=source,
        evaluator=evaluator,
        quality=quality,
        entries=build_entries(settings.methods, runs, source, device=device),
        models=[training_summary(name, runs[name], commands.get(name, "")) for name in used],
    )


def compare(settings: Compare, trial: Trial) -> "Comparison":
    """Every method at every budget, measured on equal terms."""
    from hybridgen.evaluation.measure import measure_entry, picture_of, time_entries
    from hybridgen.evaluation.results import Comparison, mean_over_trainings, provenance
    from hybridgen.training.run import JsonLines

    seed, folder = settings.seed, settings.out / "measured"
    source, evaluator = trial.source, trial.evaluator
    log = JsonLines(settings.out / "log.jsonl")
    log.forget_after(0)
    measured: dict[tuple[Entry, ...], list[MeasuredEntry]] = {}
    warnings = list(evaluator.warnings)
    for number, row in enumerate(tqdm(trial.entries, unit="row"), start=1):
        name, results = row[0].name, []
        try:
            for entry in row:
                results.append(measure_entry(entry, evaluator, source, seed=seed, folder=folder))
        except RunError as error:  # one that diverges must not cost the others their page
            training = f"{entry.details['model']}: " if len(row) > 1 else ""
            warnings.append(f"{name} is left out: {training}{error}")
            continue
        measured[row] = results
        warnings += [f"{name}: {each.warning}" for each in results if each.warning]
        figures = mean_over_trainings([result.figures for result in results])
        log.log({"name": name, **{k: e.value for k, e in figures.items()}}, step=number)
    if not measured:
        raise RunError(f"no method could be measured; {warnings[-1]}")
    warnings += dict.fromkeys(e.warning for row in measured for e in row if e.warning)
    first = [row[0] for row in measured]
    batch, rounds = settings.timing_batch, settings.timing_rounds
    costs = time_entries(first, batch=batch, rounds=rounds, folder=folder)
    held_out, _ = source.reference("held_out", evaluator.samples, seed)
    histogram = evaluator.histogram(held_out)
    words = ["experiments/compare.py", *sys.argv[1:]]
    trainings = {each.name: int(each.facts.get("trainings", 1)) for each in trial.models}
    guided = any(method.guide for method in settings.methods)
    what = "Single pass against guided diffusion" if guided else "Ways to sample"
    data = {
        "name": source.name,
        "shape": " x ".join(map(str, source.shape)),
        "training examples": "drawn without end" if source.size is None else str(source.size),
        "held-out examples": str(len(evaluator.held_out)),
        "classes in training": str(source.classes) if source.classes else "none: unconditional",
    }
    return Comparison(
        title=f"{what}: {source.name}",
        data=data,
        features=evaluator.extractor.name,
        samples=evaluator.samples,
        rows=tuple(row_of(row, each, costs[row[0].name]) for row, each in measured.items()),
        models=tuple(trial.models),
        quality=trial.quality,
        real_picture=picture_of(held_out, source),
        real_histogram=histogram,
        classes=tuple(map(str, range(len(histogram)))),
        warnings=tuple(warnings),
        provenance=provenance(words, seed=seed, trainings=trainings),
    )


def row_of(
    entries: Sequence["Entry"], measured: Sequence["MeasuredEntry"], cost: "SamplingCost"
) -> "Row":
    """A row of the page: an entry, or the means of the entries of several trainings."""
    from hybridgen.evaluation.results import Row, mean_over_trainings

    entry, number = entries[0], len(entries)
    details = {}
    for name in entry.details:
        details[name] = "; ".join(dict.fromkeys(each.details[name] for each in entries))
    if number > 1:
        details["trainings"] = f"{number}; cost, pictures and classes are those of the first"
    return Row(
        method=entry.method.name,
        setting=entry.budget.words,
        kind=entry.kind,
        models=entry.method.models,
        # A guide for other steps is no fair test of guidance.
        baseline=None if any(e.warning for e in entries) else entry.method.baseline,
        figures=mean_over_trainings([each.figures for each in measured]),
        cost=cost,
        details=details,
        picture=measured[0].picture,
        neighbours=measured[0].neighbours,
        histogram=measured[0].histogram,
        trainings=number,
        noise_shape=entry.sampler.noise_shape,
        validation_note=next(
            (each.validation_note for each in entries if each.validation_note), ""
        ),
    )


if __name__ == "__main__":
    sys.exit(command(main, Compare, description=__doc__ or "", default_config=DEFAULT))
