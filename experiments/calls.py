"""Quality against denoiser calls, of trained diffusion models and of guides for them.

`python experiments/calls.py --runs '{"plain": "runs/ring/plain/seed*"}' --budgets '[4, 6, 10, 18]'`
"""

import dataclasses
import glob
import hashlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from time import process_time
from typing import Any

import torch
import yaml
from tqdm import tqdm

from hybridgen.config import command
from hybridgen.data.load import DataSettings, load_data
from hybridgen.data.resident import set_apart
from hybridgen.data.source import Source
from hybridgen.errors import InputError
from hybridgen.evaluation import budgets as table
from hybridgen.evaluation.guidance_effect import GuidanceEffect, distance_to, labels_of
from hybridgen.evaluation.guide_material import fingerprint
from hybridgen.evaluation.measure import NEIGHBOURS, Judge, judge_for
from hybridgen.evaluation.scale_search import choose_scale
from hybridgen.evaluation.watch import samples_of
from hybridgen.networks.build import load_network
from hybridgen.sampling.build import SamplerSettings, build_sampler
from hybridgen.sampling.guidance import discriminator_guidance
from hybridgen.training.files import write_atomically

Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Calls:
    """Settings of `experiments/calls.py`.

    Attributes:
        runs: name -> folder of a run of `diffusion.py`, or a pattern of such folders, one for each
            training seed.
        guides: name -> folder of a run of `critic.py`; it guides the run that it was trained for.
        budgets: denoiser calls a sample.
        sampler: the sampler; its steps follow from the budget.
        scales: guidance scales beside 0 to choose from, for each guide and budget.
        set_apart: share of the training examples by which the scale is chosen; what the guide's
            own training set apart.
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
    set_apart: float = 0.2
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
    runs = {name: _folders(pattern) for name, pattern in settings.runs.items()}
    guides = {name: _guide(Path(folder)) for name, folder in settings.guides.items()}
    first = next((f[0] for f in runs.values()), None) or next(iter(guides.values()))[2]
    source = load_data(_data(first))
    for folder in [f for found in runs.values() for f in found] + [g[2] for g in guides.values()]:
        if _data(folder) != _data(first):
            raise InputError(
                f"{folder} was trained on other data than {first}: compare runs of one data set"
            )
    judge = _judge(source, settings.samples)
    metrics = list(settings.metrics or _shown(judge))
    unknown = [metric for metric in metrics if f"floor_{metric}" not in judge.floors]
    if unknown:
        known = sorted(name.removeprefix("floor_") for name in judge.floors)
        raise InputError(f"no metric {unknown[0]!r} for {source.name}; there are {known}")
    kept = partial(
        _kept, settings.out / "judgements", _some(settings, "sampler", "samples", "draws")
    )
    search = _some(settings, "scales", "set_apart", "search_samples", "search_draws")
    rows, chosen = [], Figures()
    total = sum(map(len, runs.values())) + len(guides)
    with tqdm(total=total * len(settings.budgets) * settings.draws, unit="judgement") as bar:
        for name, folders in runs.items():
            denoisers = [load_network(folder / "denoiser") for folder in folders]
            for budget in settings.budgets:
                repeats = []
                for folder, denoiser in zip(folders, denoisers, strict=True):
                    found = kept(
                        {"run": fingerprint(folder), "budget": budget},
                        lambda d=denoiser, b=budget: _figures(settings, source, judge, d, b),
                    )
                    # Draws of one training are no trainings: with several, each counts once.
                    repeats += found if len(folders) == 1 else [_mean(found)]
                    bar.update(len(found))
                rows.append(table.row(name, budget, repeats))
        for name, (guide, critic, folder) in guides.items():
            denoiser = load_network(folder / "denoiser")
            for budget in settings.budgets:
                key = {"run": fingerprint(folder), "guide": fingerprint(guide, "critic")}
                scale = kept(
                    {**key, **search, "budget": budget},
                    lambda d=denoiser, c=critic, b=budget: _best_scale(settings, source, d, c, b),
                )
                chosen[f"{name}/scale@{budget}"] = scale
                guided = discriminator_guidance(denoiser, critic, scale) if scale else denoiser
                found = kept(
                    {**key, "budget": budget, "scale": scale},
                    lambda d=guided, b=budget: _figures(settings, source, judge, d, b),
                )
                rows.append(table.row(name, budget, found))
                bar.update(len(found))
    settings.out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(
        table.markdown(rows, metric, judge.floors.get(f"floor_{metric}")) for metric in metrics
    )
    result = {**table.flat(rows), **chosen, **judge.floors}
    known = {k: v if math.isfinite(v) else None for k, v in result.items()}
    write_atomically(settings.out / "table.md", text)
    write_atomically(settings.out / "result.json", json.dumps(known, indent=1))
    table.draw(rows, metrics, judge.floors, settings.out / "calls.png")
    print(text)
    for name, scale in chosen.items():
        print(f"{name}: {scale:g}")


def _kept(
    folder: Path, common: dict[str, Any], key: dict[str, Any], work: Callable[[], Any]
) -> Any:
    """What `work` returns, from a file if it was done before with equal settings and weights."""
    name = hashlib.sha256(json.dumps({**common, **key}, sort_keys=True).encode()).hexdigest()
    path = folder / f"{name[:24]}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(work()))
    return json.loads(path.read_text())


def _some(settings: Calls, *names: str) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(settings).items() if k in names}


def _figures(
    settings: Calls, source: Source, judge: Judge, denoiser: Any, budget: int
) -> list[Figures]:
    """Figures of one denoiser at one budget, for each sampling seed."""
    sampler: Any = build_sampler(_at(settings.sampler, budget), denoiser, source.shape)
    like, label = torch.zeros(()), labels_of(source, judge.samples)
    found = []
    for draw in range(settings.draws):
        begun = process_time()
        x = samples_of(sampler, judge.samples, ("calls", draw), like=like, label=label)
        seconds = (process_time() - begun) / judge.samples
        cost = sampler.cost
        extra = {"critic_calls": cost.critic_forward + cost.critic_backward}
        found.append({**judge(x), "seconds_per_sample": seconds, **extra})
    return found


def _mean(found: list[Figures]) -> Figures:
    return {name: fmean(figures[name] for figures in found) for name in found[0]}


def _best_scale(settings: Calls, source: Source, denoiser: Any, critic: Any, budget: int) -> float:
    """The scale that `critic.py` would choose at this budget, on examples set apart for it."""
    chosen_by = set_apart(source, settings.set_apart)
    sampler = partial(build_sampler, _at(settings.sampler, budget), shape=source.shape)
    effect = GuidanceEffect(chosen_by, denoiser, sampler=sampler)
    _, distance = distance_to(chosen_by)

    def measure(scale: float, draw: int) -> float:
        count = settings.search_samples
        return distance(effect.samples(critic, scale, count, "scale", draw=draw))

    return choose_scale(measure, (0.0, *settings.scales), range(settings.search_draws)).scale


def _at(sampler: SamplerSettings, budget: int) -> SamplerSettings:
    """The sampler with as many steps as make `budget` calls."""
    if sampler.name not in ("heun", "heun_discrete"):
        return dataclasses.replace(sampler, steps=budget)
    if budget % 2 == 0:
        raise InputError(
            f"{sampler.name} makes an odd number of calls, so {budget} is not one of its budgets: "
            "give odd budgets or another sampler"
        )
    return dataclasses.replace(sampler, steps=(budget + 1) // 2)


def _shown(judge: Judge) -> tuple[str, ...]:
    if "floor_frechet_distance" in judge.floors:
        return ("frechet_distance", "kid")
    return ("sliced_wasserstein", "reverse_kl", "high_quality", "mode_std")


def _judge(source: Source, samples: int | None) -> Judge:
    judge = judge_for(source, samples=samples)
    if judge is None:
        raise InputError(f"no metric is known for {source.name}: it has no density and no features")
    return judge


def _folders(pattern: str) -> list[Path]:
    found = sorted(Path(f) for f in glob.glob(pattern) if (Path(f) / "denoiser").is_dir())
    if not found:
        raise InputError(f"no finished run of diffusion.py matches {pattern!r}: train one first")
    return found


def _guide(folder: Path) -> tuple[Path, Any, Path]:
    """A run of `critic.py`, its critic, and the run it was trained for."""
    config = _config(folder)
    if "run" not in config or not (folder / "critic").is_dir():
        raise InputError(f"{folder} is not a finished run of critic.py: train a guide first")
    return folder, load_network(folder / "critic"), Path(config["run"])


def _data(folder: Path) -> DataSettings:
    return DataSettings(**_config(folder)["data"])


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    if not path.is_file():
        raise InputError(f"{folder} is not a run: expected config.yaml there; name another folder")
    return yaml.safe_load(path.read_text())


if __name__ == "__main__":
    sys.exit(command(main, Calls, description=__doc__ or ""))
