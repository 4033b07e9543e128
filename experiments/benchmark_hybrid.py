"""Measure what a discriminator costs diffusion: `python experiments/benchmark_hybrid.py`.

Ratios of medians over rounds in which everything takes its turn, as in `benchmark.py`: a training
step with the adversarial term over one without, for each source of the fake, and a discriminator's
forward and backward pass over a denoiser's forward pass.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from benchmark import advance, data, steps_in
from diffusion import Diffusion
from tqdm import tqdm

from hybridgen.cli import command, read_settings
from hybridgen.data.source import Batch, Source
from hybridgen.errors import InputError
from hybridgen.evaluation.cost import Rounds, clock_for, interleaved_timings, ratio_of_medians
from hybridgen.networks.build import build_denoiser, build_discriminator
from hybridgen.sampling.guidance import discriminator_guidance
from hybridgen.training.checkpoint import write_atomically
from hybridgen.training.diffusion import train_diffusion
from hybridgen.training.run import Run
from hybridgen.training.setup import build_adversarial, make_accelerator

CONFIGS = Path(__file__).parents[1] / "configs" / "hybrid"
SOURCES = ("chain", "renoised", "clean")


@dataclass(frozen=True, kw_only=True)
class BenchmarkHybrid:
    """Settings of `experiments/benchmark_hybrid.py`.

    Attributes:
        out: the run's folder; `runs/benchmark-hybrid/seedN` if not given.
        settings: files of configs/hybrid, without their ending.
        repeats: rounds, in each of which everything has its turn.
        turn: seconds of a turn, rounded up to whole steps of training.
        samples: in one call of the guided denoiser.
        threads: of torch on the CPU.
    """

    seed: int = 0
    out: Path | None = None
    settings: tuple[str, ...] = ("digits", "ring")
    repeats: int = 60
    turn: float = 0.05
    samples: int = 100
    threads: int = 1

    def __post_init__(self) -> None:
        if min(self.repeats, self.samples, self.threads) < 1 or not self.turn > 0:
            raise InputError("repeats, samples and threads must be at least 1 and turn positive")
        for name in self.settings:
            if not (CONFIGS / f"{name}.yaml").is_file():
                raise InputError(f"no settings {name!r}: expected the name of a file in {CONFIGS}")


def trainings(settings: Diffusion, source: Source, accelerator: Accelerator) -> dict[str, Iterator]:
    """Endless trainings of equal denoisers on equal batches, each `next` one step."""

    def batches(start: int) -> Iterator[Batch]:
        batch = settings.training.batch
        return source.batches(batch=batch, seed=0, start=start, device=accelerator.device)

    def training(kind: str | None) -> Iterator:
        torch.manual_seed(0)
        denoiser = build_denoiser(settings.denoiser, source.shape, source.classes)
        game = {}
        if kind is not None:
            term = replace(settings.adversarial, source=kind, warm_up=0, ramp=0)
            discriminator = build_discriminator(
                settings.discriminator, source.shape, source.classes
            )
            game = {"term": term, "adversarial": build_adversarial(discriminator, term)}
        return train_diffusion(
            denoiser,
            batches,
            replace(settings.training, steps=1_000_000),
            accelerator,
            data_std=denoiser.config["data_std"],
            **game,
        )

    return {"plain": training(None), **{kind: training(kind) for kind in SOURCES}}


def calls(settings: Diffusion, source: Source, samples: int) -> dict[str, Callable[[], object]]:
    """One call of a denoiser, alone and guided."""
    denoiser = build_denoiser(settings.denoiser, source.shape).eval()
    discriminator = build_discriminator(settings.discriminator, source.shape).eval()
    guided = discriminator_guidance(denoiser, discriminator, 1.0)
    x, sigma = torch.randn(samples, *source.shape), torch.ones(samples)

    @torch.no_grad()
    def call(model: Callable) -> None:
        model(x, sigma)

    return {"denoiser": partial(call, denoiser), "guided": partial(call, guided)}


def figures(name: str, rounds: Rounds) -> dict[str, float]:
    """Each ratio with its interval."""
    found: dict[str, float] = {}
    for kind in SOURCES:
        value, low, high = ratio_of_medians(rounds[kind], rounds["plain"])
        found |= {f"step_{kind}_{name}": value}
        found |= {f"step_{kind}_{name}_low": low, f"step_{kind}_{name}_high": high}
    value, low, high = ratio_of_medians(rounds["guided"], rounds["denoiser"])
    found |= {f"discriminator_{name}": value - 1}
    found |= {f"discriminator_{name}_low": low - 1, f"discriminator_{name}_high": high - 1}
    return found


def table(found: Mapping[str, float]) -> str:
    """Every ratio with its interval."""
    rows = ["| ratio | measured | 95 % interval |", "| --- | --- | --- |"]
    for name, value in found.items():
        if f"{name}_low" in found:
            low, high = found[f"{name}_low"], found[f"{name}_high"]
            rows.append(f"| {name} | {value:.3g} | {low:.3g} to {high:.3g} |")
    return "\n".join(rows) + "\n"


def main(settings: BenchmarkHybrid) -> None:
    folder = settings.out or Path("runs", "benchmark-hybrid", f"seed{settings.seed}")
    accelerator = make_accelerator(folder, seed=settings.seed, threads=settings.threads)
    clock = clock_for(accelerator.device, settings.threads)
    found: dict[str, float] = {}
    run = Run(folder, settings, accelerator)
    with tqdm(total=len(settings.settings) * (settings.repeats + 1), unit="round") as bar:
        for name in settings.settings:
            bar.set_description(name)
            hybrid = read_settings(Diffusion, ["--config", str(CONFIGS / f"{name}.yaml")])
            source = data(hybrid.data, name, settings.seed)
            loops = trainings(hybrid, source, accelerator)
            steps = steps_in(settings.turn, loops["plain"], clock)
            tasks: dict[str, Callable[[], object]] = {
                who: partial(advance, loop, steps) for who, loop in loops.items()
            }
            tasks |= calls(hybrid, source, settings.samples)
            rounds = interleaved_timings(tasks, settings.repeats, clock, bar.update)
            found |= figures(name, rounds)
    run.finish({**found, "seconds": run.seconds})
    write_atomically(folder / "table.md", table(found))
    print(table(found))


if __name__ == "__main__":
    sys.exit(command(main, BenchmarkHybrid, description=__doc__ or ""))
