"""Measure what training and measuring cost: `python experiments/benchmark.py --what gan`.

`gan`: a training step of ours over one written by hand, and what the penalties add. `hybrid`: a
step of diffusion with the adversarial term over one without, for each source of the fake, and a
discriminator's forward and backward pass over a denoiser's forward pass. `metrics`: precision,
recall, density and coverage over the package `prdc` of their authors, and the memory of a whole
measurement of many images, in a process of its own.

Whatever is compared takes short turns in rotating order, and a ratio is one of medians over many
rounds, so that whatever else the machine does meets all alike. With one thread on the CPU, the
clock is the CPU time of this process (see `hybridgen.evaluation.cost`), so other programs may run;
else use a quiet machine. Pixels of mnist are noise here: speed does not depend on them, and nothing
has to be downloaded.
"""

import contextlib
import copy
import io
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusion import Diffusion
from einops import rearrange
from gan import Gan
from scipy.stats import bootstrap
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from tqdm import tqdm

from hybridgen import AdversarialLoss, GanTraining, SinglePass, load_data, train_gan
from hybridgen.cli import command, read_settings
from hybridgen.data.images import ImageSource
from hybridgen.data.source import Batch, Source
from hybridgen.errors import InputError
from hybridgen.evaluation.cost import clock_for, interleaved_timings
from hybridgen.evaluation.evaluator import build_evaluator
from hybridgen.files import write_atomically
from hybridgen.maths.rng import rng_for
from hybridgen.metrics.neighbours import prdc
from hybridgen.networks.build import build_denoiser, build_discriminator, build_generator
from hybridgen.sampling.guidance import discriminator_guidance
from hybridgen.training.diffusion import train_diffusion
from hybridgen.training.optim import Cosine
from hybridgen.training.run import Run
from hybridgen.training.settings import RunSettings, check_intervals
from hybridgen.training.setup import accelerator_for, build_adversarial
from hybridgen.training.step import batches_of

CONFIGS = Path(__file__).parents[1] / "configs"
SOURCES = ("chain", "renoised", "clean")
RATIOS = {
    "gan": {
        "loop_overhead": ("ours", "plain"),
        "r1_r2_cost": ("ours", "unpenalised"),
        "finite_difference_cost": ("finite_difference", "unpenalised"),
    },
    "hybrid": {
        **{f"step_{source}": (source, "plain") for source in SOURCES},
        "discriminator": ("guided", "denoiser"),
    },
}
"""What is divided by what."""
SHAPE = (3, 32, 32)
LIMITS = {
    **{"loop_overhead": 1.05, "r1_r2_cost": 3.0, "finite_difference_cost": 1.6},
    **{"prdc_time_ratio": 0.65, "prdc_difference": 1e-5, "peak_gigabytes": 6.0},
}
"""What figures whose names begin like this may be at most."""

What = Literal["gan", "hybrid", "metrics"]
Figures = dict[str, float]
Loops = dict[str, Iterator]
Tasks = dict[str, Callable[[], object]]

USUAL: dict[What, dict[str, Any]] = {
    "gan": dict(settings=("digits", "mnist", "ring"), repeats=150, turn=0.02, samples=256),
    "hybrid": dict(settings=("digits", "ring"), repeats=60, turn=0.05, samples=100),
    "metrics": dict(settings=(), repeats=5, turn=0.02, samples=10_000),
}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Settings of `experiments/benchmark.py`; those not given are the usual ones of `what`.

    Attributes:
        out: the run's folder; `runs/benchmark-WHAT/seedN` if not given.
        settings: files of configs/gan or configs/hybrid, without their ending.
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
    seed: int = 0
    out: Path | None = None
    settings: tuple[str, ...] | None = None
    repeats: int | None = None
    turn: float | None = None
    samples: int | None = None
    width: int = 64
    neighbours: int = 5
    images: int = 50_000
    threads: int = 1

    def __post_init__(self) -> None:
        size = self.size
        check_intervals(size, "repeats", "samples", "width", "neighbours", "threads")
        if not 0 < size.turn < math.inf:
            raise InputError(f"turn must be a positive number of seconds, got {size.turn}")
        if self.what == "metrics" and size.samples <= self.neighbours:
            raise InputError(f"samples must be more than neighbours, got {size.samples}")
        if self.images < 0:
            raise InputError(f"images must not be negative, got {self.images}")
        for name in size.settings:
            if not (CONFIGS / self.what / f"{name}.yaml").is_file():
                raise InputError(f"no settings {name!r}: expected a file of {CONFIGS / self.what}")

    @property
    def size(self) -> SimpleNamespace:
        """What is given, and the rest as usual."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        return SimpleNamespace(**USUAL[self.what] | values)


def gan_tasks(
    gan: Gan, source: Source, accelerator: Accelerator, size: SimpleNamespace
) -> tuple[Loops, Tasks]:
    """Endless trainings of equal networks on equal batches, each `next` one step; and sampling."""
    device, seed = accelerator.device, size.seed
    batch, latent = gan.training.batch, gan.generator.latent
    generator = build_generator(gan.generator, source.shape, source.classes).to(device)
    discriminator = build_discriminator(gan.discriminator, source.shape, source.classes).to(device)
    batches = batches_of(source, accelerator, batch=batch, seed=seed)

    def ours(training: GanTraining, step: float | None = None) -> Iterator:
        model, rival = copy.deepcopy((generator, discriminator))
        r1, r2 = training.r1.start, training.r2.start
        loss = AdversarialLoss(rival, r1=r1, r2=r2, finite_difference=step)
        return train_gan(model, loss, batches, training, accelerator, latent=latent, seed=seed)

    draws = rng_for(seed, "latents", device=device)
    latents = (torch.randn(batch, latent, generator=draws, device=device) for _ in count())
    training, none = steady(gan.training), Cosine(start=0.0)
    loops = {
        "plain": plain_loop(generator, discriminator, batches(0), latents, training),
        "ours": ours(training),
        "unpenalised": ours(replace(training, r1=none, r2=none)),
        "finite_difference": ours(training, 0.01),  # its cost does not depend on the step
    }
    sampler = SinglePass(next(loops["plain"]), (latent,))
    return loops, {"sampling": lambda: sampler(torch.randn(size.samples, latent, device=device))}


def steady(training: GanTraining) -> GanTraining:
    """Schedules that are computed at every step and stay where they start: the plain loop's."""
    names = ("learning_rate", "beta2", "r1", "r2")
    starts = {name: getattr(training, name).start for name in names}
    schedules = {name: Cosine(start=start, end=start) for name, start in starts.items()}
    return replace(training, steps=1_000_000, **schedules)


def plain_loop(
    generator: nn.Module,
    discriminator: nn.Module,
    batches: Iterator[Batch],
    latents: Iterator[Tensor],
    training: GanTraining,
) -> Iterator[nn.Module]:
    """A GAN written by hand, without the loss and the loop of hybridgen, trained for ever.

    Yields the averaged generator after each step. Relativistic objective, R1 and R2 by one gradient
    call, fused Adam, a moving average of weights and buffers; the schedules stay at their start.
    """
    rate, betas = training.learning_rate.start, (0.0, training.beta2.start)
    adam = partial(torch.optim.Adam, lr=rate, betas=betas, fused=True)
    generator_optimizer = adam(generator.parameters())
    discriminator_optimizer = adam(discriminator.parameters())
    average = copy.deepcopy(generator).eval().requires_grad_(False)
    pairs = list(zip(average.state_dict().values(), generator.state_dict().values(), strict=True))
    averages, weights = zip(*[pair for pair in pairs if pair[0].is_floating_point()], strict=True)
    counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    for number in count(1):
        real, _ = next(batches)
        with torch.no_grad():
            fake = generator(next(latents))
        x = torch.cat([real, fake]).requires_grad_()
        logits = discriminator(x)
        (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        r1, r2 = slope.square().flatten(1).sum(1).chunk(2)
        on_real, on_fake = logits.chunk(2)
        loss = F.softplus(on_fake - on_real).mean()
        loss = loss + training.r1.start / 2 * r1.mean() + training.r2.start / 2 * r2.mean()
        discriminator_optimizer.zero_grad()
        loss.backward()
        discriminator_optimizer.step()

        real, _ = next(batches)
        discriminator.requires_grad_(False)
        with torch.no_grad():
            on_real = discriminator(real)
        loss = F.softplus(on_real - discriminator(generator(next(latents)))).mean()
        generator_optimizer.zero_grad()
        loss.backward()
        generator_optimizer.step()
        discriminator.requires_grad_(True)

        half_life = min(training.ema_half_life, training.ema_ramp * number * training.batch)
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 - 0.5 ** (training.batch / half_life))  # type: ignore
            for copied, counter in counters:
                copied.copy_(counter)
        yield average


def hybrid_tasks(
    settings: Diffusion, source: Source, accelerator: Accelerator, size: SimpleNamespace
) -> tuple[Loops, Tasks]:
    """Endless trainings of equal denoisers on equal batches, each `next` one step; and calls."""
    shape, classes = source.shape, source.classes
    endless = replace(settings.training, steps=1_000_000)
    batches = batches_of(source, accelerator, batch=endless.batch, seed=0)

    def training(kind: str | None) -> Iterator:
        torch.manual_seed(0)
        denoiser = build_denoiser(settings.denoiser, shape, classes)
        options: dict[str, Any] = {"data_std": denoiser.config["data_std"]}
        if kind is not None:
            term = replace(settings.adversarial, source=kind, warm_up=0, ramp=0)
            discriminator = build_discriminator(settings.discriminator, shape, classes)
            options |= {"term": term, "adversarial": build_adversarial(discriminator, term)}
        return train_diffusion(denoiser, batches, endless, accelerator, **options)

    loops = {"plain": training(None), **{kind: training(kind) for kind in SOURCES}}
    denoiser = build_denoiser(settings.denoiser, shape).eval()
    discriminator = build_discriminator(settings.discriminator, shape).eval()
    guided = discriminator_guidance(denoiser, discriminator, 1.0)
    inputs = torch.randn(size.samples, *shape), torch.ones(size.samples)
    models: dict[str, Callable] = {"denoiser": denoiser, "guided": guided}
    return loops, {name: partial(torch.no_grad()(models[name]), *inputs) for name in models}


def training_figures(settings: Benchmark, accelerator: Accelerator) -> Figures:
    """What training steps, samples and guidance cost, with each file of settings."""
    size, figures = settings.size, Figures()
    clock = clock_for(accelerator.device, settings.threads)
    script = Gan if settings.what == "gan" else Diffusion
    with tqdm(total=len(size.settings) * (size.repeats + 1), unit="round") as bar:
        for name in size.settings:
            bar.set_description(name)
            config = CONFIGS / settings.what / f"{name}.yaml"
            experiment = read_settings(script, ["--config", str(config)])
            source = mnist_noise(size.seed) if name == "mnist" else load_data(experiment.data)
            if isinstance(experiment, Gan):
                loops, calls = gan_tasks(experiment, source, accelerator, size)
            else:
                loops, calls = hybrid_tasks(experiment, source, accelerator, size)
            next(loops["plain"])  # the first step is slow
            begun = clock()
            advance(loops["plain"], 3)
            steps = math.ceil(size.turn / ((clock() - begun) / 3))
            tasks: Tasks = {loop: partial(advance, loops[loop], steps) for loop in loops}
            rounds = interleaved_timings(tasks | calls, size.repeats, clock, bar.update)
            for figure, (over, under) in RATIOS[settings.what].items():
                # A guided call is one of both networks, so the discriminator's part exceeds 1.
                less = 1.0 if figure == "discriminator" else 0.0
                figures |= ratio(f"{figure}_{name}", rounds[over], rounds[under], less=less)
            for loop in loops:
                figures[f"step_milliseconds_{loop}_{name}"] = 1e3 * median(rounds[loop]) / steps
            if "sampling" in calls:
                per_second = "points_per_second" if source.mixture else "images_per_second"
                figures[f"sampling_{per_second}_{name}"] = size.samples / median(rounds["sampling"])
    return figures


def ratio(name: str, over: list[float], under: list[float], *, less: float = 0.0) -> Figures:
    """`median(over) / median(under) - less` and its 95 % interval, from drawing whole rounds again.

    Of one round the ends are the ratio itself; times of no or other rounds are a `ValueError`.
    Source: the bootstrap's percentile interval, Efron & Tibshirani 1993, chapter 13.
    """
    if not over or len(over) != len(under):
        raise ValueError(f"expected times of the same rounds, got {len(over)} and {len(under)}")
    value = low = high = median(over) / median(under)
    if len(over) > 1:
        low, high = bootstrap(
            (over, under),
            lambda a, b, axis: np.median(a, axis=axis) / np.median(b, axis=axis),
            paired=True,
            n_resamples=2_000,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
    ends = {f"{name}_low": float(low) - less, f"{name}_high": float(high) - less}
    return {name: value - less, **ends}


def mnist_noise(seed: int) -> Source:
    """Noise in the shape of mnist."""
    draws = rng_for("mnist", seed)
    images = torch.randint(256, (10_000, 1, 28, 28), generator=draws, dtype=torch.uint8)
    return ImageSource(name="mnist", train=images, held_out=images[:1])


def advance(loop: Iterator, steps: int) -> None:
    """Train for some steps."""
    for _ in range(steps):
        next(loop)


def whole_measurement(settings: Benchmark) -> Figures:
    """Measure images against as many, in this process: its peak memory and the time."""
    torch.set_num_threads(settings.threads)
    seed, images = settings.seed, settings.images
    draws = rng_for("images", seed)
    train, held_out, x = (torch.randn(images, *SHAPE, generator=draws).tanh_() for _ in range(3))
    projection = torch.randn(math.prod(SHAPE), settings.width, generator=draws) / 10

    def features(batch: Tensor) -> Tensor:
        return (rearrange(batch, "b c h w -> b (c h w)") @ projection).relu()

    begun = time.perf_counter()
    build_evaluator((train, held_out), samples=images, features=features, seed=seed)(x)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_gigabytes": peak / 1e9, "measuring_minutes": (time.perf_counter() - begun) / 60}


def metric_figures(settings: Benchmark) -> Figures:
    """What precision, recall, density and coverage cost, and what a whole measurement does.

    Ours and `prdc` (`InputError` without it) get the same single-precision features, where `prdc`
    is faster; the difference is that to it in double precision, where it does not round distances.
    """
    try:
        from prdc import compute_prdc
    except ImportError as error:
        raise InputError(
            "this compares with the package prdc, which is not installed: "
            "pip install -c constraints.txt prdc"
        ) from error
    figures, size = Figures(), settings.size
    if settings.images:
        # Before this process grows: a new one's peak begins with the memory of its parent.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
            figures |= processes.submit(whole_measurement, settings).result()
    draws = rng_for("features", settings.seed)
    real, fake = torch.randn(2, size.samples, settings.width, generator=draws)
    fake *= 0.95

    def package(dtype: torch.dtype) -> Figures:
        x, y = real.to(dtype).numpy(), fake.to(dtype).numpy()
        with contextlib.redirect_stdout(io.StringIO()):
            values = compute_prdc(x, y, settings.neighbours)
        return {name: float(value) for name, value in values.items()}

    clock = clock_for(torch.device("cpu"), settings.threads)
    ours = partial(prdc, real, fake, neighbours=settings.neighbours)
    tasks: Tasks = {"ours": ours, "prdc": partial(package, torch.float32)}
    with threadpool_limits(settings.threads), tqdm(total=size.repeats + 1, unit="round") as bar:
        values, exact = ours(), package(torch.float64)
        rounds = interleaved_timings(tasks, size.repeats, clock, bar.update)
    figures |= ratio("prdc_time_ratio", rounds["ours"], rounds["prdc"])
    figures |= {f"prdc_seconds_{name}": median(rounds[name]) for name in tasks}
    figures["prdc_difference"] = max(abs(float(values[name]) - exact[name]) for name in exact)
    return figures


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
