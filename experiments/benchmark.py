"""Measure what training and measuring cost: `python experiments/benchmark.py --what gan`.

`gan`: a training step of ours over one written by hand, and what penalties and features add.
`hybrid`: a step of diffusion with the adversarial term over one without, for each source of the
fake, and a discriminator's forward and backward pass over a denoiser's forward pass. `distill`: a
step of a student against a discriminator, and with a follower beside it, over one of diffusion.
`metrics`: precision, recall, density and coverage over the package `prdc` of their authors, and the
memory of a whole measurement of many images, in a process of its own.

Whatever is compared takes short turns in rotating order, and a ratio is one of medians over many
rounds, so that whatever else the machine does meets all alike. With one thread on the CPU, the
clock is the CPU time of this process (see `hybridgen.evaluation.cost`), so other programs may run;
else use a quiet machine. Pixels of mnist are noise here: speed does not depend on them, and nothing
has to be downloaded.
"""

import contextlib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

from hybridgen.cli import command
from hybridgen.errors import InputError
from hybridgen.settings import Range, Samples, Seed, Settings, check_memory
from hybridgen.training.settings import RunSettings, Threads

CONFIGS = Path(__file__).parents[1] / "configs"
SHAPE = (3, 32, 32)
LIMITS = {
    **{"loop_overhead": 1.05, "r1_r2_cost": 3.0, "finite_difference_cost": 1.6},
    **{"feature_matching_cost": 1.1, "step_game_and_matching": 5.0, "step_game": 2.5},
    **{"prdc_time_ratio": 0.65, "prdc_difference": 1e-5, "peak_gigabytes": 6.0},
}
"""What figures whose names begin like this may be at most."""


What = Literal["gan", "hybrid", "distill", "metrics"]
USUAL: dict[What, dict[str, Any]] = {
    "gan": dict(settings=("digits", "mnist", "ring"), repeats=150, turn=0.02, samples=256),
    "hybrid": dict(settings=("digits", "ring"), repeats=60, turn=0.05, samples=100),
    "distill": dict(settings=("digits", "ring"), repeats=60, turn=0.05, samples=100),
    "metrics": dict(settings=(), repeats=5, turn=0.02, samples=10_000),
}


@dataclass(frozen=True, kw_only=True)
class Benchmark(Settings):
    """Settings of `experiments/benchmark.py`; those not given are the usual ones of `what`.

    Attributes:
        out: the run's folder; `runs/benchmark-WHAT/seedN` if not given.
        settings: files of configs/gan, configs/hybrid or configs/distill, without their ending.
        repeats: rounds, in each of which everything has its turn.
        turn: seconds of a turn of training, rounded up to whole steps.
        samples: in a turn of sampling or a call of the guided denoiser; of metrics, real and
            generated ones, compared by their nearest neighbours.
        width: of the features of metrics.
        neighbours: k, of metrics.
        images: 32x32x3, generated and held out, that a whole measurement takes; 0 leaves it out.
        threads: of everything that computes with several.
    """

    what: What = "gan"
    seed: Seed = 0
    out: Path | None = None
    settings: tuple[str, ...] | None = None
    repeats: Annotated[int, Range(1, 100_000)] | None = None
    turn: Annotated[float, Range(0, 60, "(]")] | None = None
    samples: Samples | None = None
    width: Annotated[int, Range(1, 65_536)] = 64
    neighbours: Annotated[int, Range(1, 1_000)] = 5
    images: Annotated[int, Range(0, 1e6)] = 50_000
    threads: Threads = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.size
        hours = len(size.settings) * size.repeats * size.turn / 3600
        if hours > 24:
            raise InputError(
                f"{size.repeats} turns of {size.turn:g} s would take {hours:.3g} hours, and 24 are "
                "the most: lower repeats or turn"
            )
        if self.what == "metrics":
            figures = max(3 * self.images * math.prod(SHAPE), 4 * size.samples * self.width)
            check_memory(4 * figures, "this comparison", "lower images, samples or width")
        if self.what == "metrics" and size.samples <= self.neighbours:
            raise InputError(f"samples must be more than neighbours, got {size.samples}")
        for name in size.settings:
            if not (CONFIGS / self.what / f"{name}.yaml").is_file():
                raise InputError(f"no settings {name!r}: expected a file of {CONFIGS / self.what}")

    @property
    def size(self) -> SimpleNamespace:
        """What is given, and the rest as usual."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        return SimpleNamespace(**USUAL[self.what] | values)


def table(figures: Mapping[str, float]) -> str:
    """Every figure with its interval and, where there is a limit, what it may be at most."""
    rows = ["| figure | measured | 95 % interval | at most |", "| --- | --- | --- | --- |"]
    for name, value in figures.items():
        if name.endswith(("_low", "_high")):
            continue
        limit = next((str(most) for what, most in LIMITS.items() if name.startswith(what)), "")
        low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
        interval = "" if low is None else f"{low:.3f} to {high:.3f}"
        rows.append(f"| {name} | {value:.4g} | {interval} | {limit} |")
    return "\n".join(rows) + "\n"


def main(settings: Benchmark) -> None:
    # Imported once the arguments are read: these take seconds.
    from benchmark_figures import metric_figures, training_figures

    from hybridgen.files import write_atomically
    from hybridgen.training.run import Run
    from hybridgen.training.setup import accelerator_for

    folder = settings.out or Path("runs", f"benchmark-{settings.what}", f"seed{settings.seed}")
    accelerator = accelerator_for(folder, RunSettings(seed=settings.seed, threads=settings.threads))
    run = Run(folder, replace(settings, **vars(settings.size)), accelerator)
    with run.lock or contextlib.nullcontext():
        if settings.what == "metrics":
            figures = metric_figures(settings)
        else:
            figures = training_figures(settings, accelerator)
        run.finish({**figures, "seconds": run.seconds})
        write_atomically(folder / "table.md", table(figures))
    print(table(figures))


if __name__ == "__main__":
    sys.exit(command(main, Benchmark, description=__doc__ or ""))
