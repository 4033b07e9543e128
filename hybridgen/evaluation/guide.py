"""What a guide does to a sampler's samples: a distance at each scale, and pictures."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Protocol

import torch
from torch import Tensor, nn

from hybridgen.data.images import quantised
from hybridgen.data.source import Source
from hybridgen.errors import RunError
from hybridgen.evaluation.density_ratio import LogRatio
from hybridgen.evaluation.plots import draw_calibration, draw_scales, sample_grid, scatter
from hybridgen.evaluation.scale_search import ScaleChoice, choose_scale
from hybridgen.metrics.calibration import calibration_figures
from hybridgen.metrics.distances import frechet_distance
from hybridgen.metrics.features import extract, feature_network
from hybridgen.metrics.modes import mode_distance
from hybridgen.protocols import Denoiser, Sampler
from hybridgen.sampling.guidance import discriminator_guidance
from hybridgen.sampling.refinement import Refined
from hybridgen.sampling.samplers import draw_samples
from hybridgen.training.run import Run
from hybridgen.training.validation import CHANCE, LOWEST, HeldOutValidation, ValidationResult


class GuidanceEffect:
    """One sampler, guided at any scale from the same noise.

    Args:
        source: what the samples should be like.
        denoiser: of the model, with weights (they say where to compute, and in which type).
        sampler: how a denoiser is sampled.
        seed: names the noise.
        window: noise levels `(low, high)` where a guide is asked.
    """

    def __init__(
        self,
        source: Source,
        denoiser: nn.Module,
        *,
        sampler: Callable[[Denoiser], Sampler],
        seed: int = 0,
        window: tuple[float, float] = (LOWEST, math.inf),
    ) -> None:
        self.source, self.denoiser, self.sampler, self.seed = source, denoiser, sampler, seed
        self.window = window

    def samples(
        self,
        discriminator: nn.Module | None,
        scale: float,
        count: int,
        purpose: str,
        *,
        draw: int = 0,
        label: Tensor | None = None,
    ) -> Tensor:
        """`[count ...]` on the CPU; equal purposes and draws begin with equal noise.

        Classes come in turn unless labels `[count]` are given.
        """
        denoiser: Denoiser = self.denoiser
        if discriminator is not None and scale != 0:
            denoiser = discriminator_guidance(denoiser, discriminator, scale, window=self.window)
        like = next(self.denoiser.parameters())
        label = labels_of(self.source, count) if label is None else label
        label = None if label is None else label.to(like.device)
        key = (self.seed, purpose, draw)
        return draw_samples(self.sampler(denoiser), count, key, like=like, label=label).cpu()

    def draw(self, discriminator: nn.Module | None, scale: float, path: Path) -> None:
        """A hundred images in a grid, or a scatter of 2 500 points."""
        mixture = self.source.mixture
        if mixture is not None:
            scatter(self.samples(discriminator, scale, 2_500, "preview"), mixture).save(path)
        else:
            sample_grid(self.samples(discriminator, scale, 100, "preview"), 10).save(path)


def labels_of(source: Source, count: int) -> Tensor | None:
    """The classes in turn, `[count]`; `None` without classes."""
    return torch.arange(count) % source.classes if source.classes else None


def distance_to(source: Source, limit: int = 10_000) -> tuple[str, Callable[[Tensor], float]]:
    """The name of a distance and the distance itself, of samples to what `source` holds out.

    Points: `mode_distance`. Images: the Frechet distance of the features of a network that knows
    such images, else of the pixels of thumbnails, at most eight a side.

    Args:
        source: its `held_out` part is what images are compared with.
        limit: at most so many of it.
    """
    mixture = source.mixture
    if mixture is not None:
        return "mode_distance", lambda x: mode_distance(x, mixture)
    network = feature_network(source.shape)

    def features(images: Tensor) -> Tensor:
        seen = quantised(images)
        if network is not None:
            return extract(network, seen)[0]
        small = torch.nn.functional.adaptive_avg_pool2d(seen, min(8, seen.shape[-1]))
        return small.flatten(1)

    reference = features(source.reference("held_out", limit)[0])
    name = "frechet_distance" if network is not None else "frechet_distance_of_pixels"
    return name, lambda x: frechet_distance(reference, features(x))


ROUNDS = 10
"""Of refinement, where its effect on a GAN is shown."""


def evaluate_guide(
    validation: HeldOutValidation, discriminator: nn.Module, folder: Path
) -> tuple[ValidationResult, dict[str, float]]:
    """The verdict with its figures; draws `calibration.png`. All of it on the judging half."""
    outcome = validation.outcome(discriminator)
    real, fake = (logits[:, 1::2] for logits in validation.logits(discriminator))
    draw_calibration(real, fake, validation.levels, folder / "calibration.png")
    levels = calibration_figures(real, fake, validation.levels)
    return outcome, {
        "held_out_bce": outcome.bce,
        "chance": CHANCE,
        "gain": outcome.gain,
        "gain_standard_error": outcome.standard_error,
        "significant": float(outcome.significant),
        "calibration_error": fmean(level["calibration_error"] for level in levels),
    }


def scale_objective(
    effect: GuidanceEffect, discriminator: nn.Module, samples: int
) -> tuple[str, Callable[[float, int], float]]:
    """The name of a distance, and `(scale, draw) -> distance` for `choose_scale`."""
    name, distance = distance_to(effect.source)

    def measure(scale: float, draw: int) -> float:
        try:
            return distance(effect.samples(discriminator, scale, samples, "scale", draw=draw))
        except RunError:
            return math.inf

    return name, measure


def tried_scales(
    effect: GuidanceEffect,
    discriminator: nn.Module,
    folder: Path,
    *,
    scales: Sequence[float],
    samples: int,
    draws: int,
) -> tuple[ScaleChoice, dict[str, float]]:
    """The search for a scale and the mean distance at each, to what `effect.source` holds out.

    Draws `scale.png`. A scale at which samples stop being finite counts as the worst.
    """
    name, measure = scale_objective(effect, discriminator, samples)
    tried = choose_scale(measure, scales, range(draws))
    draw_scales(tried, folder / "scale.png", distance=name)
    return tried, {f"{name}_at_{scale:g}": tried.mean(scale) for scale in tried.distances}


def held_out_distance(
    effect: GuidanceEffect, source: Source, discriminator: nn.Module, scale: float, *, samples: int
) -> dict[str, float]:
    """The distance to what `source` holds out, which nothing was chosen by, without and with."""
    name, distance = distance_to(source)
    unguided = distance(effect.samples(None, 0.0, samples, "judge"))
    guidance_results = (
        distance(effect.samples(discriminator, scale, samples, "judge")) if scale else unguided
    )
    return {f"{name}_unguided": unguided, f"{name}_guided": guidance_results}


class Trials(Protocol):
    """How a guide is tried; part of the settings of `experiments/guide.py`."""

    @property
    def scales(self) -> Sequence[float]: ...
    @property
    def scale_samples(self) -> int: ...
    @property
    def scale_draws(self) -> int: ...
    @property
    def final_samples(self) -> int: ...


def guidance_results(
    effect: GuidanceEffect,
    discriminator: nn.Module,
    source: Source,
    trials: Trials,
    run: Run,
    *,
    significant: bool,
) -> dict[str, float]:
    """The `scale` that is chosen, the distance at each, and to what `source` holds out.

    A guide that is not significant gets scale 0, whatever the search says. Draws `scale.png`,
    `samples-unguided.png` and `samples-guided.png`.
    """
    low, high = effect.window
    reach = f"from {low:.3g}" + ("" if high == math.inf else f" to {high:.3g}")
    run.say(f"trying guidance scales at noise levels {reach}")
    tried, distances = tried_scales(
        effect,
        discriminator,
        run.folder,
        scales=trials.scales,
        samples=trials.scale_samples,
        draws=trials.scale_draws,
    )
    scale = tried.scale if significant else 0.0
    effect.draw(None, 0.0, run.folder / "samples-unguided.png")
    try:
        effect.draw(discriminator, scale or 1.0, run.folder / "samples-guided.png")
    except RunError as error:  # with scale 0 chosen there is a result all the same
        run.say(f"no picture of guided samples: {error}")
    final = held_out_distance(effect, source, discriminator, scale, samples=trials.final_samples)
    return {"scale": scale, **distances, **final}


def refinement_results(
    effect: GuidanceEffect, ratio: LogRatio, source: Source, folder: Path, *, samples: int
) -> dict[str, float]:
    """The distance to what `source` holds out without refinement and after ten rounds of it.

    Chains of Metropolis-Hastings, because they need no bound. Draws `samples-unrefined.png` and
    `samples-refined.png`, which begin with the same noise.
    """
    better = GuidanceEffect(
        effect.source,
        effect.denoiser,
        sampler=lambda network: Refined(
            effect.sampler(network), ratio, "metropolis_hastings", ROUNDS
        ),
        seed=effect.seed,
    )
    name, distance = distance_to(source)
    figures = {}
    for word, shown in (("unrefined", effect), ("refined", better)):
        shown.draw(None, 0.0, folder / f"samples-{word}.png")
        figures[f"{name}_{word}"] = distance(shown.samples(None, 0.0, samples, "judge"))
    return figures
