"""The closing point: a denoiser has one loss, which can be evaluated."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from lecture_parts import FAKE, INK, MUTED, Check, Statement, axes_of, panel
from lecture_ring import RING
from markupsafe import Markup
from scipy.stats import spearmanr
from torch import Tensor

from hybridgen.data.points import MixturePoints
from hybridgen.losses.denoising import denoising_loss, noised
from hybridgen.maths.noise import karras_sigmas
from hybridgen.maths.rng import rng_for
from hybridgen.metrics.modes import mode_distance
from hybridgen.networks.denoisers import PointDenoiser
from hybridgen.protocols import Denoiser
from hybridgen.report.text import number
from hybridgen.sampling.samplers import Heun
from hybridgen.training.diffusion import train_diffusion
from hybridgen.training.settings import DiffusionTraining
from hybridgen.training.step import batches_of

if TYPE_CHECKING:
    from lecture import Lecture


@torch.no_grad()
def held_out_loss(denoiser: Denoiser, clean: Tensor, noise: Tensor, sigma: Tensor) -> float:
    """The denoising loss of points `[n d]` under noise `[n d]` at levels `[n]`."""
    estimate = denoiser(noised(clean, sigma, noise), sigma, None)
    return float(denoising_loss(estimate, clean, sigma, data_std=1.0).mean())


def best_denoiser(x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
    """The posterior mean on the ring, `x + sigma^2 score(x)` (Tweedie): `[b 2]`."""
    precise = x.double()
    return (precise + sigma.double()[:, None] ** 2 * RING.score(precise, sigma.double())).to(x)


def denoising(settings: "Lecture") -> tuple[list[int], Tensor, float]:
    """The package's diffusion training on the ring of eight: some of its steps `n`, after each the
    held-out loss and the `mode_distance` of samples, `[2 n]`, and the least loss that there is."""
    torch.manual_seed(settings.seed)
    steps, accelerator = settings.scaled(800, 30), Accelerator(cpu=True)
    source = MixturePoints(mixture=RING, name="lecture")
    training = DiffusionTraining(steps=steps, batch=256, ema_half_life=2_000.0)
    rng = rng_for("held out", settings.seed)
    clean, _ = source.reference("held_out", 2_000, settings.seed)
    sigma = training.noise(torch.randn(len(clean), generator=rng))
    held_out = (clean, torch.randn(clean.shape, generator=rng), sigma)  # the same every time
    latents = torch.randn(2_000, 2, generator=rng)
    batches = batches_of(source, accelerator, batch=training.batch, seed=settings.seed)
    denoiser, at, rows = PointDenoiser(width=64), [], []
    played = train_diffusion(
        denoiser, batches, training, accelerator, data_std=1.0, seed=settings.seed
    )
    for step in played:
        if step.last or step.number % max(1, steps // 30) == 0:
            samples = Heun(step.average.eval(), (2,), karras_sigmas(10))(latents)
            at.append(step.number)
            rows.append((held_out_loss(step.average, *held_out), mode_distance(samples, RING)))
    return at, torch.tensor(rows, dtype=torch.float64).T, held_out_loss(best_denoiser, *held_out)


def closing(settings: "Lecture") -> Statement:
    """What replaced the game: one network, one loss, and it can be evaluated."""
    at, figures, least = denoising(settings)
    losses, distances = figures
    late = figures[:, len(at) // 4 :]
    rank, later = (float(spearmanr(*pairs)[0]) for pairs in (figures, late))  # pyright: ignore[reportArgumentType]
    rise = float((losses - losses.cummin(dim=0).values).max())
    axes = axes_of("step", "held-out denoising loss")
    axes.plot(at, losses, "o-", color=INK, lw=1.4, markersize=4, label="the denoiser")
    axes.axhline(least, color=MUTED, ls="--", label="the best possible")
    true = axes_of("step", "distance (total variation)", ylim=(0, 1))
    true.plot(at, distances, "o-", color=INK, lw=1.4, markersize=4)
    both = axes_of("held-out denoising loss", "distance (total variation)", ylim=(0, 1))
    both.plot(losses, distances, "o", color=FAKE, alpha=0.7, markersize=6)
    root = Path(__file__).parents[1]
    pages = ("docs/results.md", "experiments/results/digits-comparison.html", "docs/stability.md")
    links = [os.path.relpath(root / page, settings.out.absolute()) for page in pages]
    return Statement(
        short="diffusion instead",
        title="A denoiser has one clean loss, which can be evaluated",
        at="22:00",
        sentence="A diffusion model is one network with one loss, so nothing chases anything: on "
        "the ring of eight the loss of held-out points falls towards the least that there is, "
        "that of the exact posterior mean, and the samples come closer to the ring.",
        checks=(
            Check("greatest rise of the loss above its least so far", rise, 0.02, 0, "at most "),
            Check("loss at the end above the least possible", float(losses[-1]) - least, 0, 0.1),
            Check(
                "distance at the end to that at the start",
                float(distances[-1] / distances[0]),
                0.5,
                relation="at most ",
            ),
        ),
        panels=(
            panel(axes, "denoising-loss", "2 000 held-out points, always with the same noise."),
            panel(true, "denoising-distance", "How far 2 000 samples are from the ring."),
            panel(both, "denoising-both", "The same pairs."),
        ),
        note=Markup(
            "Along the training the rank correlation of loss and distance is {}, of the last "
            "three quarters alone {}; but any two figures that fall have a high one. Samples "
            "take many calls of the network where a GAN takes one. "
            "Whether diffusion, or a little of a discriminator beside it (22:50), "
            'is better was <a href="{}">measured</a> elsewhere, with '
            '<a href="{}">one comparison as a page</a>: sometimes a help, sometimes harm. So were '
            'the <a href="{}">tricks</a> for GANs (18:41, 21:04), none of which is guaranteed.'
        ).format(number(rank, 2), number(later, 2), *links),
    )
