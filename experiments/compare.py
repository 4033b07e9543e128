"""Compare single-pass and guided sampling on one page: `accelerate launch experiments/compare.py`.

Quality, diversity and cost of every method on equal terms; without `--config` it takes
`configs/compare/digits.yaml`, which trains all it needs. What is finished is not done again.
"""

import shlex
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from compare_models import Model, recipe, train
from compare_plan import Plan, planned, same_data
from tqdm import tqdm

from hybridgen.cli import command
from hybridgen.data.load import load_data
from hybridgen.errors import InputError, RunError
from hybridgen.evaluation.entries import Entry, entries
from hybridgen.evaluation.evaluator import build_evaluator
from hybridgen.evaluation.measure import MeasuredEntry, measure_entry, picture_of, timed
from hybridgen.evaluation.methods import Method, check_methods
from hybridgen.evaluation.results import Comparison, Row, SamplingCost
from hybridgen.evaluation.runs import about, biography, provenance
from hybridgen.metrics.registry import metric_of
from hybridgen.metrics.two_sample import FEWEST
from hybridgen.report import markdown
from hybridgen.report.findings import headline
from hybridgen.report.publish import publish
from hybridgen.training.lock import lock_run_folder
from hybridgen.training.run import JsonLines
from hybridgen.training.setup import make_accelerator

LEAST = {"samples": FEWEST, "parts": 8, "timing_batch": 1, "timing_rounds": 3}
DEFAULT = Path(__file__).parents[1] / "configs" / "compare" / "digits.yaml"


@dataclass(frozen=True, kw_only=True)
class DataPath:
    """Where the data of models still to be trained is.

    Attributes:
        path: in the place of the one in their own settings, see `experiments/gan.py`.
    """

    path: str | None = None


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Settings of `experiments/compare.py`.

    Attributes:
        models: runs that take part, discriminators after the models they judge.
        runs: name -> folder of a finished run, in the place of a model of that name or beside them.
        train: whether to train models that are missing.
        methods: ways to samples, each with its budgets.
        data: see `DataPath`.
        quality: the metric of the picture and the sentences; the Frechet distance of images, the
            sliced Wasserstein distance of points if not given.
        samples: for each row; as many as the data allows, at most 10 000, if not given.
        parts: random parts of the samples, whose spread makes the intervals.
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
    samples: int | None = None
    parts: int = 32
    timing_batch: int = 64
    timing_rounds: int = 15
    seed: int = 0
    out: Path = Path("runs/compare/digits")
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.methods or not (self.models or self.runs):
            raise InputError(
                "there is nothing to compare: give methods, and models or runs, as "
                "configs/compare/digits.yaml does"
            )
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} must be at least {least}, got {value}")
        check_methods(self.methods)


def main(settings: Compare) -> None:
    out = settings.out
    accelerator = make_accelerator(out, seed=settings.seed, threads=settings.threads)
    if accelerator.num_processes > 1:
        raise InputError(
            f"a comparison is made by one process, and {accelerator.num_processes} were launched: "
            "use python experiments/compare.py"
        )
    plan = planned(
        settings.models,
        settings.runs,
        settings.methods,
        out / "models",
        may_train=settings.train,
        seed=settings.seed,
        data=settings.data.path,
    )
    with lock_run_folder(
        out, {k: v for k, v in asdict(settings).items() if k != "out"}, changing=True
    ):
        for model in plan.missing:
            remembered = recipe(model, seed=settings.seed, data=settings.data.path)
            train(model.name, plan.commands[model.name], plan.places[model.name], remembered)
        comparison = compared(settings, plan, accelerator.device)
        publish(comparison, out)
        print(markdown(comparison))
        print("\n".join(headline(comparison)))
        print(f"the page is {out / 'report.html'}")


def compared(settings: Compare, plan: Plan, device: torch.device) -> Comparison:
    """Every method at every budget, measured on equal terms."""
    places = plan.places
    used = dict.fromkeys(name for method in settings.methods for name in method.models)
    source = load_data(same_data([places[method.model] for method in settings.methods]))
    evaluator = build_evaluator(
        source, samples=settings.samples, seed=settings.seed, parts=settings.parts
    )
    quality = settings.quality or ("sliced_wasserstein" if source.mixture else "frechet_distance")
    if quality not in evaluator.floors or metric_of(quality).better is None:
        raise InputError(
            f"no metric {quality!r} here; there are {', '.join(sorted(evaluator.floors))}"
        )
    rivals = entries(settings.methods, places, source, device=device)
    log, measured = JsonLines(settings.out / "log.jsonl"), settings.out / "measured"
    log.forget_after(0)
    rows: dict[str, MeasuredEntry] = {}
    warnings = list(evaluator.warnings)
    with tqdm(rivals, unit="row") as bar:
        for number, rival in enumerate(bar, start=1):
            bar.set_description(rival.name)
            try:
                found = measure_entry(rival, evaluator, source, seed=settings.seed, folder=measured)
            except RunError as error:  # one that diverges must not cost the others their page
                warnings.append(f"{rival.name} is left out: {error}")
                continue
            figures = {name: estimate.value for name, estimate in found.figures.items()}
            log.log({"name": rival.name, **figures}, step=number)
            rows[rival.name] = found
    rivals = [rival for rival in rivals if rival.name in rows]
    if not rivals:
        raise RunError(f"no method could be measured; {warnings[-1]}")
    warnings += dict.fromkeys(rival.warning for rival in rivals if rival.warning)
    expenses = timed(
        rivals,
        source,
        batch=settings.timing_batch,
        rounds=settings.timing_rounds,
        folder=measured,
    )
    held_out, _ = source.reference("held_out", evaluator.samples, settings.seed)
    return Comparison(
        title=f"Single pass against guided diffusion: {source.name}",
        data=about(source, held_out=evaluator.held_out),
        features=evaluator.features,
        samples=evaluator.samples,
        rows=tuple(row_of(rival, rows[rival.name], expenses[rival.name]) for rival in rivals),
        models=tuple(
            biography(name, places[name], spoken(plan.commands.get(name))) for name in used
        ),
        quality=quality,
        real_picture=picture_of(held_out, source),
        real_histogram=evaluator.histogram(held_out),
        classes=tuple(str(number) for number in range(len(evaluator.histogram(held_out)))),
        warnings=tuple(warnings),
        provenance=provenance(
            [f"experiments/{Path(__file__).name}", *sys.argv[1:]], seed=settings.seed
        ),
    )


def spoken(words: list[str] | None) -> str:
    """A training command for the page; nothing for a run that was trained elsewhere."""
    return "" if words is None else shlex.join(["python", f"experiments/{words[0]}", *words[1:]])


def row_of(entry: Entry, found: MeasuredEntry, cost: SamplingCost) -> Row:
    """A row of the page."""
    return Row(
        method=entry.method.name,
        setting=entry.budget.words,
        kind=entry.kind,
        models=entry.method.models,
        # A guide for other steps is no fair test of guidance.
        baseline=None if entry.warning else entry.method.baseline,
        figures=found.figures,
        cost=cost,
        details=entry.details,
        picture=found.picture,
        neighbours=found.neighbours,
        histogram=found.histogram,
    )


if __name__ == "__main__":
    given = sys.argv[1:]
    if not any(word.split("=")[0] == "--config" for word in given):
        given = ["--config", str(DEFAULT), *given]
    sys.exit(command(main, Compare, given, description=__doc__ or ""))
