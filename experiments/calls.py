"""Quality against denoiser calls, of trained diffusion models and of guides for them.

`python experiments/calls.py --runs '{"plain": "runs/ring/plain/seed*"}' --budgets '[4, 6, 10, 18]'`
"""

import dataclasses
import json
import math
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from time import process_time
from typing import Any

import torch
from tqdm import tqdm

from hybridgen.cli import command
from hybridgen.data.images import split_validation
from hybridgen.data.load import load_data
from hybridgen.data.source import Source
from hybridgen.errors import InputError
from hybridgen.evaluation import budgets as table
from hybridgen.evaluation.cache import cached
from hybridgen.evaluation.evaluator import NEIGHBOURS, Evaluator, build_evaluator
from hybridgen.evaluation.guide import GuidanceEffect, labels_of, scale_objective
from hybridgen.evaluation.runs import (
    SavedGuide,
    data_settings,
    fingerprint,
    finished_models,
    load_guide,
)
from hybridgen.evaluation.scale_search import choose_scale
from hybridgen.networks.build import load_network
from hybridgen.sampling.build import SamplerSettings, build_sampler, with_calls
from hybridgen.sampling.guidance import discriminator_guidance
from hybridgen.sampling.samplers import draw_samples
from hybridgen.training.checkpoint import write_atomically

POINTS = ("sliced_wasserstein", "reverse_kl", "high_quality", "mode_std")
Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Calls:
    """Settings of `experiments/calls.py`.

    Attributes:
        runs: name -> folder of a run of `diffusion.py`, or a pattern of such folders, one for each
            training seed.
        guides: name -> folder of a run of `guide.py`; it guides the run that it was trained for.
        budgets: denoiser calls a sample.
        sampler: the sampler; its steps follow from the budget.
        scales: guidance scales beside 0 to choose from, for each guide and budget; if there are
            none, each guide's own is used, which was chosen for the sampler it was trained with.
        samples: for each judgement; 2 500 points or as many images as the data allows.
        search_samples: for each trial of a scale.
        search_draws: trials of each scale; the best is tried as often again.
        draws: sampling seeds for each run.
        metrics: drawn and tabulated.
        out: `result.json`, `table.md`, `calls.png`, and every judgement, which is not made again.
        threads: of torch.
    """

    runs: dict[str, str] = field(default_factory=dict)
    guides: dict[str, str] = field(default_factory=dict)
    budgets: tuple[int, ...] = (4, 6, 10, 18)
    sampler: SamplerSettings = field(default_factory=lambda: SamplerSettings(name="edm_dpmpp"))
    scales: tuple[float, ...] = (0.5, 1.0, 2.0)
    samples: int | None = None
    search_samples: int = 1_000
    search_draws: int = 3
    draws: int = 1
    metrics: tuple[str, ...] = ()
    out: Path = Path("runs/calls")
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.runs and not self.guides:
            raise InputError("there is nothing to sample: name runs or guides")
        if not self.budgets or min(self.budgets) < 2 or self.draws < 1:
            raise InputError(
                f"budgets must be at least 2 and draws at least 1, got {self.budgets}, {self.draws}"
            )
        if (
            self.search_samples < 100
            or self.search_draws < 2
            or (self.threads is not None and self.threads < 1)
        ):
            raise InputError(
                "search_samples must be at least 100, search_draws at least 2 and threads at least "
                f"1, got {self.search_samples}, {self.search_draws} and {self.threads}"
            )
        if self.samples is not None and self.samples <= NEIGHBOURS:
            raise InputError(f"samples must be more than {NEIGHBOURS}, got {self.samples}")
        if 0 in self.scales or not all(map(math.isfinite, self.scales)):
            raise InputError(f"scales are finite and not 0, which is tried anyway: {self.scales}")


def main(settings: Calls) -> None:
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    runs = {name: finished_models(pattern) for name, pattern in settings.runs.items()}
    guides = {name: load_guide(Path(folder)) for name, folder in settings.guides.items()}
    folders = [f for found in runs.values() for f in found] + [g.run for g in guides.values()]
    for folder in folders:
        if data_settings(folder) != data_settings(folders[0]):
            raise InputError(
                f"{folder} was trained on other data than {folders[0]}: give runs of one data set"
            )
    source = load_data(data_settings(folders[0]))
    judge = build_evaluator(source, samples=settings.samples, intervals=False)
    metrics = _metrics(settings, judge, source.name)
    for name, guide in guides.items():
        _say_how_it_was_trained(name, guide, settings.sampler.name)
    rows, chosen = [], Figures()
    total = (sum(map(len, runs.values())) + len(guides)) * len(settings.budgets)
    with tqdm(total=total, unit="judgement") as bar:
        for name, found in runs.items():
            for budget in settings.budgets:
                repeats = []
                for folder in found:
                    figures = _judged(settings, source, judge, folder, budget)
                    # Draws of one training are no trainings: with several, each counts once.
                    repeats += figures if len(found) == 1 else [_mean(figures)]
                    bar.update()
                rows.append(table.row(name, budget, repeats))
        for name, guide in guides.items():
            for budget in settings.budgets:
                scale = _best_scale(settings, source, guide, budget)
                chosen[f"{name}/scale@{budget}"] = scale
                repeats = _judged(settings, source, judge, guide.run, budget, guide, scale)
                rows.append(table.row(name, budget, repeats))
                bar.update()
    settings.out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(table.markdown(rows, metric, judge.floors[metric]) for metric in metrics)
    floors = {f"floor_{name}": floor for name, floor in judge.floors.items()}
    result = {**table.flat(rows), **chosen, **floors}
    known = {k: v if math.isfinite(v) else None for k, v in result.items()}
    write_atomically(settings.out / "table.md", text)
    write_atomically(settings.out / "result.json", json.dumps(known, indent=1))
    table.draw(rows, metrics, floors, settings.out / "calls.png")
    print(text)
    for name, scale in chosen.items():
        print(f"{name}: {scale:g}")


def _judged(
    settings: Calls,
    source: Source,
    judge: Evaluator,
    run: Path,
    budget: int,
    guide: SavedGuide | None = None,
    scale: float = 0.0,
) -> list[Figures]:
    """Figures of one model at one budget, for each sampling seed."""
    asked = guide if scale != 0 else None
    at = dataclasses.asdict(with_calls(settings.sampler, budget))
    key = {"run": fingerprint(run), "sampler": at, **_some(settings, "samples", "draws")}
    if asked is not None:
        key |= {"guide": asked.fingerprint, "scale": scale, "window": asked.window}

    def judgements() -> list[Figures]:
        denoiser: Any = load_network(run / "denoiser")
        if asked is not None:
            denoiser = discriminator_guidance(
                denoiser, asked.discriminator, scale, window=asked.window
            )
        sampler = build_sampler(with_calls(settings.sampler, budget), denoiser, source.shape)
        like, label = torch.zeros(()), labels_of(source, judge.samples)
        found, cost = [], sampler.cost
        for draw in range(settings.draws):
            begun = process_time()
            x = draw_samples(sampler, judge.samples, ("calls", draw), like=like, label=label)
            seconds = (process_time() - begun) / judge.samples
            extra = {
                "discriminator_calls": cost.discriminator_forward + cost.discriminator_backward
            }
            values = {name: estimate.value for name, estimate in judge(x).items()}
            found.append({**values, "seconds_per_sample": seconds, **extra})
        return found

    return cached(settings.out / "judgements", key, judgements)


def _best_scale(settings: Calls, source: Source, guide: SavedGuide, budget: int) -> float:
    """The scale that `guide.py` would choose at this budget, on the examples it set apart."""
    if not guide.significant:
        return 0.0
    if not settings.scales:
        return guide.scale
    search = _some(settings, "sampler", "scales", "search_samples", "search_draws")

    def found() -> float:
        denoiser: Any = load_network(guide.run / "denoiser")
        sampler = partial(build_sampler, with_calls(settings.sampler, budget), shape=source.shape)
        effect = GuidanceEffect(
            split_validation(source, guide.validation_fraction),
            denoiser,
            sampler=sampler,
            window=guide.window,
        )
        _, measure = scale_objective(effect, guide.discriminator, settings.search_samples)
        return choose_scale(measure, (0.0, *settings.scales), range(settings.search_draws)).scale

    key = {"guide": guide.fingerprint, "run": fingerprint(guide.run), "budget": budget}
    key |= {"window": guide.window}
    return cached(settings.out / "judgements", key | search, found)


def _metrics(settings: Calls, judge: Evaluator, name: str) -> list[str]:
    known = list(judge.floors)
    unknown = [metric for metric in settings.metrics if metric not in known]
    if unknown:
        raise InputError(f"no metric {unknown[0]!r} for {name}; there are {sorted(known)}")
    shown = ("frechet_distance", "kid") if "frechet_distance" in known else POINTS
    return list(settings.metrics or shown)


def _say_how_it_was_trained(name: str, guide: SavedGuide, sampler: str) -> None:
    if not guide.significant:
        print(f"warning: {name} is not significant, so it is not asked", file=sys.stderr)
        return
    print(
        f"{name} was trained on samples of {guide.sampler}, {guide.steps} steps, and is used with "
        f"{sampler} at every budget: it knows the errors of the former",
        file=sys.stderr,
    )


def _some(settings: Calls, *names: str) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(settings).items() if k in names}


def _mean(found: list[Figures]) -> Figures:
    return {name: fmean(figures[name] for figures in found) for name in found[0]}


if __name__ == "__main__":
    sys.exit(command(main, Calls, description=__doc__ or ""))
