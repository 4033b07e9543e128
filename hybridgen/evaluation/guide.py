"""What a guide does to the samples of the model that it was trained for: distances and pictures."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from hybridgen.data.images import as_images, quantised
from hybridgen.data.source import Source, labels_in_turn
from hybridgen.errors import RunError
from hybridgen.evaluation.density_ratio import LogRatio
from hybridgen.evaluation.plots import draw_calibration, draw_scales, sample_picture
from hybridgen.evaluation.scale_search import Distance, choose_scale
from hybridgen.files import replacing
from hybridgen.metrics.calibration import calibration_figures
from hybridgen.metrics.distances import frechet_distance
from hybridgen.metrics.features import extract, feature_network
from hybridgen.metrics.intervals import jackknife_deviations, jackknife_subsets
from hybridgen.metrics.modes import mode_distance
from hybridgen.protocols import Denoiser, Discriminator, Sampler
from hybridgen.sampling.build import build_sampler
from hybridgen.sampling.guidance import Push, discriminator_guidance
from hybridgen.sampling.pipeline_sampler import PipelineSampler
from hybridgen.sampling.refinement import Refined
from hybridgen.sampling.samplers import SinglePass, draw_samples
from hybridgen.sampling.settings import SamplerSettings
from hybridgen.training.run import Run
from hybridgen.training.validation import CHANCE, LOWEST, HeldOutValidation, ValidationResult

ROUNDS = 10
"""Of refinement, where its effect on a GAN is shown."""
Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledModel:
    """A model and how it is sampled; guided or refined, it begins with the same noise.

    Attributes:
        source: what the samples should be like.
        network: a denoiser, a `PipelineSampler`, or a generator, which takes one pass and cannot
            be guided; its weights say where to compute, and in which type.
        settings: how a denoiser is sampled; `None` for the others.
        fingerprint: of the network's weights.
        seed: names the noise.
        window: noise levels `(low, high)` at which a guide is asked.
        guide, scale: what guides a denoiser, if anything does.
        ratio: refines samples, by chains of Metropolis-Hastings, which need no bound.

    Raises:
        InputError: settings that cannot work.
    """

    source: Source
    network: Any
    settings: SamplerSettings | None
    fingerprint: str = ""
    seed: int = 0
    window: tuple[float, float] = (LOWEST, math.inf)
    guide: Discriminator | None = None
    scale: float = 0.0
    ratio: LogRatio | None = None

    def __post_init__(self) -> None:
        _ = self.sampler  # refuses what cannot work before anything is trained for it

    @property
    def denoiser(self) -> Denoiser | None:
        """The network, if it is a denoiser."""
        return None if self.settings is None else self.network

    @property
    def guidable(self) -> bool:
        """Whether it can be guided."""
        return self.settings is not None or isinstance(self.network, PipelineSampler)

    @property
    def sampled_by(self) -> dict[str, Any]:
        """`sampler` and `steps` by name and number: whose errors a guide learns; of a pipeline also
        what `guide` has to be told of it.
        """
        if isinstance(self.network, PipelineSampler):
            name = type(self.network.pipeline.scheduler).__name__
            how = {"trained_with": self.network.trained_with, "pure_noise": self.network.pure_noise}
            if how["trained_with"] is not None:
                how["trained_with"] = json.loads(how["trained_with"].to_json_string())
            return {"sampler": name, "steps": self.network.steps, **how}
        if self.settings is None:
            return {"sampler": "single_pass", "steps": 1}
        return {"sampler": self.settings.name, "steps": self.settings.steps}

    @property
    def sampler(self) -> Sampler:
        """From noise to samples."""
        network, guide = self.network, self.guide
        if isinstance(network, PipelineSampler):
            push = None if guide is None else Push(guide, self.scale, self.window)
            sampler: Sampler = network if push is None else network.guided(push)
        elif self.settings is None:
            sampler = SinglePass(network, (network.config["latent"],))
        else:
            if guide is not None:
                network = discriminator_guidance(network, guide, self.scale, window=self.window)
            sampler = build_sampler(self.settings, network, self.source.shape)
        if self.ratio is None:
            return sampler
        return Refined(sampler, self.ratio, "metropolis_hastings", ROUNDS)

    def guided(self, guide: Discriminator, scale: float) -> "SampledModel":
        """The model sampled with a guide; as it is at scale 0."""
        return self if scale == 0 else replace(self, guide=guide, scale=scale)

    def samples(
        self, count: int, purpose: str, *, draw: int = 0, label: Tensor | None = None
    ) -> Tensor:
        """`[count ...]` on the CPU; equal purposes and draws begin with equal noise.

        Classes come in turn unless labels `[count]` are given.
        """
        label = labels_in_turn(self.source.classes, count) if label is None else label
        like, key = next(self.network.parameters()), (self.seed, purpose, draw)
        return draw_samples(self.sampler, count, key, like=like, label=label)

    def draw(self, path: Path) -> None:
        """A hundred images in a grid, or a scatter of 2 500 points."""
        picture = sample_picture(
            lambda count: as_images(self.samples(count, "preview"), self.source),
            self.source.mixture,
        )
        with replacing(path) as file:
            picture.save(file, "png")


def distance_to(
    source: Source, rows: slice = slice(None), *, deviations: bool = False
) -> tuple[str, Callable[[Tensor], Distance]]:
    """The name of a distance and the distance itself, of samples to what `source` holds out, or to
    these rows of it; with its deviations over those, if they are asked for.

    Points: `mode_distance`. Images: the Frechet distance to at most 10 000 of its `held_out` part
    of the features of a network that knows such images, else of the pixels of thumbnails, at most
    eight a side. Latents: that of the images they stand for.
    """
    mixture = source.mixture
    if mixture is not None:
        return "mode_distance", lambda x: (mode_distance(x, mixture), ())
    compared = getattr(source, "images", None) or source
    network = feature_network(compared.shape)

    def features(images: Tensor) -> Tensor:
        images = quantised(images)
        if network is not None:
            return extract(network, images)[0]
        side = min(8, images.shape[-1])
        return torch.nn.functional.adaptive_avg_pool2d(images, side).flatten(1)

    reference = features(compared.reference("held_out", 10_000)[0][rows])
    parts = jackknife_subsets(len(reference)) if deviations else []

    def distance(x: Tensor) -> Distance:
        fake = features(as_images(x, source))
        of_parts = [frechet_distance(reference[part], fake) for part in parts]
        return frechet_distance(reference, fake), jackknife_deviations(of_parts, len(reference))

    name = "frechet_distance" if network is not None else "frechet_distance_of_pixels"
    return name, distance


def evaluate_guide(
    validation: HeldOutValidation, guide: nn.Module, folder: Path
) -> tuple[ValidationResult, Figures]:
    """Whether it is significant, with its figures, on the half of the validation data that chose
    nothing; draws `calibration.png`.
    """
    outcome = validation.outcome(guide)
    real, fake = (logits[:, 1::2] for logits in validation.logits(guide))
    levels = calibration_figures(real, fake, validation.levels)
    draw_calibration(levels, real, fake, folder / "calibration.png")
    return outcome, {
        "held_out_bce": outcome.bce,
        "chance": CHANCE,
        "gain": outcome.gain,
        "gain_standard_error": outcome.standard_error,
        "significant": float(outcome.significant),
        "calibration_error": fmean(level["calibration_error"] for level in levels),
    }


def guidance_results(
    model: SampledModel,
    guide: nn.Module,
    source: Source,
    trials: Any,
    run: Run,
    *,
    significant: bool,
) -> Figures:
    """The `scale` that is chosen, the mean distance at each, and to what `source` holds out.

    One half of what the model's source holds out chooses a scale, the other half confirms it. A
    scale at which samples stop being finite counts as the worst, and a guide that is not
    significant gets scale 0, whatever the search says. Draws `scale.png`, `samples-unguided.png`
    and `samples-guided.png`.

    Args:
        trials: settings `scales`, `scale_samples`, `scale_draws` and `final_samples` of
            `experiments/guide.py`.
    """
    low, high = model.window
    reach = f"from {low:.3g}" + ("" if high == math.inf else f" to {high:.3g}")
    run.say(f"trying guidance scales at noise levels {reach}")
    name, choosing = distance_to(model.source, slice(0, None, 2))
    _, confirming = distance_to(model.source, slice(1, None, 2), deviations=True)

    def measure(distance: Callable[[Tensor], Distance], scale: float, draw: int) -> Distance:
        guided = model.guided(guide, scale)
        try:
            return distance(guided.samples(trials.scale_samples, "scale", draw=draw))
        except RunError:
            return math.inf, ()

    def choose(scale: float, draw: int) -> float:
        return measure(choosing, scale, draw)[0]

    confirm, draws = partial(measure, confirming), range(trials.scale_draws)
    choice = choose_scale(choose, confirm, trials.scales, draws)
    distances = {f"{name}_at_{scale:g}": choice.mean(scale) for scale in choice.distances}
    scale = choice.scale if significant else 0.0
    draw_scales(replace(choice, scale=scale), run.folder / "scale.png", distance=name)
    model.draw(run.folder / "samples-unguided.png")
    try:
        model.guided(guide, scale or 1.0).draw(run.folder / "samples-guided.png")
    except RunError as error:  # with scale 0 chosen there is a result all the same
        run.say(f"no picture of guided samples: {error}")
    variants = {"unguided": model, "guided": model.guided(guide, scale)}
    return {"scale": scale, **distances, **_distances(variants, source, trials.final_samples)}


def refinement_results(
    model: SampledModel, ratio: LogRatio, source: Source, folder: Path, *, samples: int
) -> Figures:
    """The distance to what `source` holds out without refinement and after ten rounds of it; draws
    `samples-unrefined.png` and `samples-refined.png`, which begin with the same noise.
    """
    variants = {"unrefined": model, "refined": replace(model, ratio=ratio)}
    for word, variant in variants.items():
        variant.draw(folder / f"samples-{word}.png")
    return _distances(variants, source, samples)


def _distances(variants: Mapping[str, SampledModel], source: Source, samples: int) -> Figures:
    """To what `source` holds out, by which nothing was chosen; equal variants are drawn once."""
    name, distance = distance_to(source)
    models = dict.fromkeys(variants.values())
    measured = {model: distance(model.samples(samples, "judge"))[0] for model in models}
    return {f"{name}_{word}": measured[model] for word, model in variants.items()}
