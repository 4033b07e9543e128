"""Measure what measuring costs: `python experiments/benchmark_metrics.py`.

Precision, recall, density and coverage against the package `prdc` of their authors, in rotating
turns with one setting of threads (see `benchmark.py`); and the memory of a whole measurement of
many images, in a process of its own. Both packages are timed on single-precision features, where
`prdc` is faster, and its figures are taken in double precision, where it does not round distances.
"""

import contextlib
import io
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from einops import rearrange
from threadpoolctl import threadpool_limits
from torch import Tensor
from tqdm import tqdm

from hybridgen.cli import command
from hybridgen.errors import InputError
from hybridgen.evaluation.cost import clock_for, interleaved_timings, ratio_of_medians
from hybridgen.evaluation.evaluator import build_evaluator
from hybridgen.maths.rng import rng_for
from hybridgen.metrics.neighbours import prdc
from hybridgen.training.checkpoint import write_atomically
from hybridgen.training.run import Run
from hybridgen.training.setup import make_accelerator

SHAPE = (3, 32, 32)
LIMITS = {"prdc_time_ratio": 0.2, "prdc_difference": 1e-5, "peak_gigabytes": 6.0}
"""What a figure may be at most."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkMetrics:
    """Settings of `experiments/benchmark_metrics.py`.

    Attributes:
        out: the run's folder; `runs/benchmark-metrics/seedN` if not given.
        samples: real and generated ones, compared by their nearest neighbours.
        width: of their features.
        neighbours: k.
        repeats: rounds, in each of which both packages have their turn.
        images: 32x32x3, generated and held out, that a whole measurement takes; 0 leaves it out.
        threads: of everything that computes with several.
    """

    seed: int = 0
    out: Path | None = None
    samples: int = 10_000
    width: int = 64
    neighbours: int = 5
    repeats: int = 5
    images: int = 50_000
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("width", "neighbours", "repeats", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.samples <= self.neighbours:
            raise InputError(f"samples must be more than neighbours, got {self.samples}")
        if self.images < 0:
            raise InputError(f"images must not be negative, got {self.images}")


def contestants(settings: BenchmarkMetrics) -> dict[str, Callable[[], dict[str, float]]]:
    """Both packages on the same features, and `prdc` on them in double precision.

    Raises:
        InputError: `prdc` is not installed.
    """
    try:
        from prdc import compute_prdc
    except ImportError as error:
        raise InputError(
            "this compares with the package prdc, which is not installed: "
            "pip install -c constraints.txt prdc"
        ) from error
    draws = rng_for("features", settings.seed)
    real, fake = torch.randn(2, settings.samples, settings.width, generator=draws)
    fake *= 0.95

    def theirs(dtype: torch.dtype) -> dict[str, float]:
        these, those = (x.to(dtype).numpy() for x in (real, fake))
        with contextlib.redirect_stdout(io.StringIO()):
            found = compute_prdc(these, those, settings.neighbours)
        return {name: float(value) for name, value in found.items()}

    return {
        "ours": partial(prdc, real, fake, neighbours=settings.neighbours),
        "prdc": partial(theirs, torch.float32),
        "exact": partial(theirs, torch.float64),
    }


def compared(settings: BenchmarkMetrics) -> dict[str, float]:
    """How long both take, and by how much their figures differ."""
    tasks = contestants(settings)
    clock = clock_for(torch.device("cpu"), settings.threads)
    with (
        threadpool_limits(settings.threads),
        tqdm(total=settings.repeats + 1, unit="round") as bar,
    ):
        exact, ours = tasks.pop("exact")(), tasks["ours"]()
        rounds = interleaved_timings(tasks, settings.repeats, clock, bar.update)
    ratio, low, high = ratio_of_medians(rounds["ours"], rounds["prdc"])
    return {
        "prdc_time_ratio": ratio,
        "prdc_time_ratio_low": low,
        "prdc_time_ratio_high": high,
        "prdc_seconds_ours": median(rounds["ours"]),
        "prdc_seconds_prdc": median(rounds["prdc"]),
        "prdc_difference": max(abs(ours[name] - exact[name]) for name in exact),
    }


def whole_measurement(images: int, width: int, threads: int, seed: int) -> dict[str, float]:
    """Measure `images` images against as many, in this process: its peak memory and the time."""
    torch.set_num_threads(threads)
    draws = rng_for("images", seed)
    train, held_out, x = (torch.randn(images, *SHAPE, generator=draws).tanh_() for _ in range(3))
    projection = torch.randn(SHAPE[0] * SHAPE[1] * SHAPE[2], width, generator=draws) / 10

    def features(batch: Tensor) -> Tensor:
        return (rearrange(batch, "b c h w -> b (c h w)") @ projection).relu()

    begun = time.perf_counter()
    build_evaluator((train, held_out), samples=images, features=features, seed=seed)(x)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_gigabytes": peak / 1e9, "measuring_minutes": (time.perf_counter() - begun) / 60}


def table(found: Mapping[str, float]) -> str:
    """Every figure with its interval and what it may be at most."""
    rows = ["| figure | measured | 95 % interval | at most |", "| --- | --- | --- | --- |"]
    for name, value in found.items():
        if name.endswith(("_low", "_high")):
            continue
        low, high = found.get(f"{name}_low"), found.get(f"{name}_high")
        between = "" if low is None else f"{low:.3f} to {high:.3f}"
        rows.append(f"| {name} | {value:.4g} | {between} | {LIMITS.get(name, '')} |")
    return "\n".join(rows) + "\n"


def main(settings: BenchmarkMetrics) -> None:
    folder = settings.out or Path("runs", "benchmark-metrics", f"seed{settings.seed}")
    accelerator = make_accelerator(folder, seed=settings.seed, threads=settings.threads)
    contestants(settings)  # says what is missing before anything is measured
    run = Run(folder, settings, accelerator)
    found: dict[str, float] = {}
    if settings.images:
        # Before this process grows: a new one's peak begins with the memory of its parent.
        fresh = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(max_workers=1, mp_context=fresh) as processes:
            found |= processes.submit(
                whole_measurement, settings.images, settings.width, settings.threads, settings.seed
            ).result()
    found |= compared(settings)
    run.finish({**found, "seconds": run.seconds})
    write_atomically(folder / "table.md", table(found))
    print(table(found))


if __name__ == "__main__":
    sys.exit(command(main, BenchmarkMetrics, description=__doc__ or ""))
