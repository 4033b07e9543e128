"""Measure what training costs, as ratios within one run: `python experiments/benchmark.py`.

The networks and numbers are those of configs/gan. Whatever is compared takes short turns in
rotating order, and a ratio is one of medians over many rounds, so that whatever else the machine
does meets all alike. With one thread on the CPU, the clock is the CPU time of this process (see
`hybridgen.evaluation.cost`), so other programs may run; else use a quiet machine.

Pixels of mnist are noise here: speed does not depend on them, and nothing has to be downloaded.
"""

import copy
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from accelerate import Accelerator
from gan import Gan
from plain_gan import plain_loop
from torch import Tensor
from tqdm import tqdm

from hybridgen import AdversarialLoss, SinglePass
from hybridgen.cli import command, read_settings
from hybridgen.data.images import ImageSource
from hybridgen.data.load import DataSettings, load_data
from hybridgen.data.source import Batch, Source
from hybridgen.errors import InputError
from hybridgen.evaluation.cost import (
    Clock,
    Rounds,
    clock_for,
    interleaved_timings,
    ratio_of_medians,
)
from hybridgen.maths.rng import rng_for
from hybridgen.networks.build import build_discriminator, build_generator
from hybridgen.training.checkpoint import write_atomically
from hybridgen.training.gan import GanTraining, train_gan
from hybridgen.training.optim import Cosine
from hybridgen.training.run import Run
from hybridgen.training.setup import make_accelerator

CONFIGS = Path(__file__).parents[1] / "configs" / "gan"
STEP_SIZE = 0.01
"""Of finite differences; their cost does not depend on it."""
RATIOS = {
    "loop_overhead": ("ours", "plain", 1.05),
    "r1_r2_cost": ("ours", "unpenalised", 3.0),
    "finite_difference_cost": ("finite_difference", "unpenalised", 1.6),
}
"""What is divided by what, and how much it may be."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Settings of `experiments/benchmark.py`.

    Attributes:
        out: the run's folder; `runs/benchmark/seedN` if not given.
        settings: files of configs/gan, without their ending.
        repeats: rounds, in each of which everything has its turn.
        turn: seconds of a turn, rounded up to whole steps of training.
        samples: drawn in one pass, in a turn of sampling.
        threads: of torch on the CPU.
    """

    seed: int = 0
    out: Path | None = None
    settings: tuple[str, ...] = ("digits", "mnist", "ring")
    repeats: int = 150
    turn: float = 0.02
    samples: int = 256
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("repeats", "samples", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.turn < math.inf:
            raise InputError(f"turn must be a positive number of seconds, got {self.turn}")
        for name in self.settings:
            if not (CONFIGS / f"{name}.yaml").is_file():
                raise InputError(f"no settings {name!r}: expected the name of a file in {CONFIGS}")


def contestants(
    gan: Gan, source: Source, accelerator: Accelerator, seed: int
) -> dict[str, Iterator]:
    """Endless trainings of equal networks on equal batches, each `next` one step."""
    device, batch, latent = accelerator.device, gan.training.batch, gan.generator.latent
    generator = build_generator(gan.generator, source.shape, source.classes).to(device)
    discriminator = build_discriminator(gan.discriminator, source.shape, source.classes).to(device)

    def batches(start: int = 0) -> Iterator[Batch]:
        return source.batches(batch=batch, seed=seed, start=start, device=device)

    def ours(training: GanTraining, finite_difference: float | None = None) -> Iterator:
        mine = copy.deepcopy(generator)
        adversarial = AdversarialLoss(
            copy.deepcopy(discriminator),
            r1=training.r1.start,
            r2=training.r2.start,
            finite_difference=finite_difference,
        )
        return train_gan(
            mine, adversarial, batches, training, accelerator, latent=latent, seed=seed
        )

    def latents() -> Iterator[Tensor]:
        draws = rng_for(seed, "latents", device=device)
        while True:
            yield torch.randn(batch, latent, generator=draws, device=device)

    training = steady(gan.training)
    none = Cosine(start=0.0)
    return {
        "plain": plain_loop(
            copy.deepcopy(generator), copy.deepcopy(discriminator), batches(), latents(), training
        ),
        "ours": ours(training),
        "unpenalised": ours(replace(training, r1=none, r2=none)),
        "finite_difference": ours(training, STEP_SIZE),
    }


def steady(training: GanTraining) -> GanTraining:
    """Schedules that are computed at every step and stay where they start: the plain loop's."""
    names = ("learning_rate", "beta2", "r1", "r2")
    starts = {name: getattr(training, name).start for name in names}
    schedules = {name: Cosine(start=start, end=start) for name, start in starts.items()}
    return replace(training, steps=1_000_000, **schedules)


def figures(name: str, rounds: Rounds, steps: int, samples: int) -> dict[str, float]:
    """What one setting adds to result.json."""
    found: dict[str, float] = {}
    for what, (over, under, _) in RATIOS.items():
        value, low, high = ratio_of_medians(rounds[over], rounds[under])
        found |= {f"{what}_{name}": value}
        found |= {f"{what}_{name}_low": low, f"{what}_{name}_high": high}
    for who in ("plain", "ours", "unpenalised", "finite_difference"):
        found[f"step_milliseconds_{who}_{name}"] = 1e3 * median(rounds[who]) / steps
    unit = "points" if name in ("ring", "grid") else "images"
    found[f"sampling_{unit}_per_second_{name}"] = samples / median(rounds["sampling"])
    return found


def table(found: Mapping[str, float]) -> str:
    """Every figure with its interval and, for a ratio, what it may be at most."""
    rows = ["| figure | measured | 95 % interval | at most |", "| --- | --- | --- | --- |"]
    for name, value in found.items():
        if name.endswith(("_low", "_high")):
            continue
        limit = next(
            (str(most) for what, (*_, most) in RATIOS.items() if name.startswith(what)), ""
        )
        low, high = found.get(f"{name}_low"), found.get(f"{name}_high")
        interval = "" if low is None else f"{low:.3f} to {high:.3f}"
        rows.append(f"| {name} | {value:.4g} | {interval} | {limit} |")
    return "\n".join(rows) + "\n"


def data(settings: DataSettings, name: str, seed: int) -> Source:
    """The data of a setting; noise in the shape of mnist in its place."""
    if name != "mnist":
        return load_data(settings)
    draws = rng_for("mnist", seed)
    images = torch.randint(256, (10_000, 1, 28, 28), generator=draws, dtype=torch.uint8)
    return ImageSource(name=name, train=images, held_out=images[:1])


def steps_in(turn: float, loop: Iterator, clock: Clock) -> int:
    """Steps that take about `turn` seconds, at least one."""
    next(loop)  # the first one is slow
    begun = clock()
    for _ in range(3):
        next(loop)
    return math.ceil(turn / ((clock() - begun) / 3))


def main(settings: Benchmark) -> None:
    folder = settings.out or Path("runs", "benchmark", f"seed{settings.seed}")
    accelerator = make_accelerator(folder, seed=settings.seed, threads=settings.threads)
    clock = clock_for(accelerator.device, settings.threads)
    found: dict[str, float] = {}
    run = Run(folder, settings, accelerator)
    with tqdm(total=len(settings.settings) * (settings.repeats + 1), unit="round") as bar:
        for name in settings.settings:
            bar.set_description(name)
            gan = read_settings(Gan, ["--config", str(CONFIGS / f"{name}.yaml")])
            loops = contestants(
                gan, data(gan.data, name, settings.seed), accelerator, settings.seed
            )
            steps = steps_in(settings.turn, loops["plain"], clock)
            sampler = SinglePass(next(loops["plain"]), (gan.generator.latent,))
            tasks: dict[str, Callable[[], object]] = {
                who: partial(advance, loop, steps) for who, loop in loops.items()
            }
            tasks["sampling"] = partial(sample, sampler, settings.samples, accelerator.device)
            rounds = interleaved_timings(tasks, settings.repeats, clock, bar.update)
            found |= figures(name, rounds, steps, settings.samples)
    run.finish({**found, "seconds": run.seconds})
    write_atomically(folder / "table.md", table(found))
    print(table(found))


def advance(loop: Iterator, steps: int) -> None:
    """Train for some steps."""
    for _ in range(steps):
        next(loop)


def sample(sampler: SinglePass, samples: int, device: torch.device) -> Tensor:
    """From nothing to samples."""
    return sampler(torch.randn(samples, *sampler.noise_shape, device=device))


if __name__ == "__main__":
    sys.exit(command(main, Benchmark, description=__doc__ or ""))
