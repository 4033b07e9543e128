"""What is timed and measured by `experiments/benchmark.py`."""

import contextlib
import copy
import io
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import count
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from benchmark import CONFIGS, SHAPE, Benchmark
from diffusion import Diffusion
from distill import Distill
from einops import rearrange
from gan import Gan
from scipy.stats import bootstrap
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from tqdm import tqdm

from hybridgen import (
    AdversarialLoss,
    SinglePass,
    Unconditional,
    features_then_logits,
    load_data,
    train_gan,
)
from hybridgen.cli import read_settings
from hybridgen.data.images import ImageSource
from hybridgen.data.source import Batch, Source
from hybridgen.errors import InputError
from hybridgen.evaluation.cost import clock_for, interleaved_timings
from hybridgen.evaluation.evaluator import build_evaluator
from hybridgen.maths.rng import rng_for
from hybridgen.metrics.neighbours import prdc
from hybridgen.networks.build import build_denoiser, build_discriminator, build_generator
from hybridgen.sampling.guidance import discriminator_guidance
from hybridgen.training.diffusion import train_diffusion
from hybridgen.training.distill import train_student
from hybridgen.training.settings import Cosine, GanTraining
from hybridgen.training.setup import build_adversarial
from hybridgen.training.step import batches_of
from hybridgen.training.terms import Matching

SOURCES = ("chain", "renoised", "clean")
RATIOS = {
    "gan": {
        "loop_overhead": ("ours", "plain"),
        "r1_r2_cost": ("ours", "unpenalised"),
        "finite_difference_cost": ("finite_difference", "unpenalised"),
        "feature_matching_cost": ("matched", "unmatched"),
    },
    "hybrid": {
        **{f"step_{source}": (source, "plain") for source in SOURCES},
        "discriminator": ("guided", "denoiser"),
    },
    "distill": {"step_game": ("game", "plain"), "step_game_and_matching": ("both", "plain")},
}
"""What is divided by what."""

Figures = dict[str, float]
Loops = dict[str, Iterator]
Tasks = dict[str, Callable[[], object]]


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
    calls: Tasks = {"sampling": lambda: sampler(torch.randn(size.samples, latent, device=device))}
    return loops, calls | matching_tasks(source.shape, batch, device)


class Layers(nn.Sequential):
    """Answers with the outputs of all layers, the logits last."""

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        outputs = [x]
        for layer in self:
            outputs.append(layer(outputs[-1]))
        return outputs[1:]


def matching_tasks(shape: tuple[int, ...], batch: int, device: torch.device) -> Tasks:
    """Both players' losses and gradients, once with features matched and once without, of a
    discriminator that has them at hand in both."""
    points = len(shape) == 1
    layer = nn.Linear if points else partial(nn.Conv2d, kernel_size=3, padding=1)
    hidden = [nn.Sequential(layer(a, 64), nn.LeakyReLU(0.2)) for a in (shape[0], 64)]
    network = Layers(*hidden, layer(64, 1)).to(device)
    real, fake = torch.randn(2, batch, *shape, device=device)
    fake.requires_grad_(True)

    def losses(answer: Callable) -> None:
        adversarial = AdversarialLoss(Unconditional(network, answer))
        adversarial(real=real, fake=fake)["total"].backward()
        sum(adversarial.generator_losses(fake=fake, real=real).values(), torch.tensor(0)).backward()

    matched, unmatched = features_then_logits, lambda outputs: outputs[-1]
    return {"matched": partial(losses, matched), "unmatched": partial(losses, unmatched)}


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


def distill_tasks(
    settings: Distill, teacher: Diffusion, source: Source, accelerator: Accelerator
) -> Loops:
    """Endless trainings on equal batches: of a denoiser, and of its student with one signal or
    two."""
    shape, classes = source.shape, source.classes
    endless = replace(settings.training, steps=1_000_000)
    batches = batches_of(source, accelerator, batch=endless.batch, seed=0)
    denoiser: Any = build_denoiser(teacher.denoiser, shape, classes)
    student, data_std = settings.student, denoiser.config["data_std"]

    def training(matching: Matching | None) -> Iterator:
        discriminator = build_discriminator(settings.discriminator, shape, classes)
        term = replace(settings.adversarial, warm_up=0, ramp=0)
        return train_student(
            copy.deepcopy(denoiser),
            denoiser,
            batches,
            endless,
            accelerator,
            levels=student.levels,
            data_std=data_std,
            adversarial=build_adversarial(discriminator, term),
            term=term,
            matching=matching,
        )

    plain = replace(teacher.training, steps=1_000_000, batch=endless.batch)
    args = copy.deepcopy(denoiser), batches, plain, accelerator
    loops = {"plain": train_diffusion(*args, data_std=data_std), "game": training(None)}
    return loops | {"both": training(Matching())}


def training_figures(settings: Benchmark, accelerator: Accelerator) -> Figures:
    """What training steps, samples and guidance cost, with each file of settings."""
    size, figures = settings.size, Figures()
    clock = clock_for(accelerator.device, settings.threads)
    script = {"gan": Gan, "hybrid": Diffusion, "distill": Distill}[settings.what]
    with tqdm(total=len(size.settings) * (size.repeats + 1), unit="round") as bar:
        for name in size.settings:
            bar.set_description(name)
            config = CONFIGS / settings.what / f"{name}.yaml"
            experiment = read_settings(script, ["--config", str(config)])
            begun = experiment
            if isinstance(experiment, Distill):
                path = CONFIGS / "diffusion" / f"{name}.yaml"
                begun = read_settings(Diffusion, ["--config", str(path)])
            data = begun.data
            source = mnist_noise(size.seed) if name == "mnist" else load_data(data)
            if isinstance(experiment, Gan):
                loops, calls = gan_tasks(experiment, source, accelerator, size)
            elif isinstance(experiment, Distill):
                loops, calls = distill_tasks(experiment, begun, source, accelerator), {}
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
