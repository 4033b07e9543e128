"""Generators of handwritten digits, from 2014 to today: networks, how each is trained, how good."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lecture_networks import (
    LATENT,
    ResnetGenerator,
    SpectralResnet,
    StyleGenerator,
    convolutions,
    perceptrons,
)
from lecture_parts import Panel, game
from torch import Tensor, nn

from hybridgen.data.images import digits
from hybridgen.evaluation.alarms import effective_number
from hybridgen.evaluation.measure import picture_of
from hybridgen.maths import objectives
from hybridgen.maths.objectives import Objective
from hybridgen.metrics.distances import frechet_distance
from hybridgen.metrics.features import extract, feature_network
from hybridgen.networks.blocks import eval_mode
from hybridgen.report.charts import image
from hybridgen.training.settings import Cosine, NetworkTraining

if TYPE_CHECKING:
    from lecture import Lecture

DIGITS, LEVELS = digits(), 17
"""The data and the grey levels of a pixel."""
BUDGET, SAMPLES = 8.0, 1_000
"""CPU seconds of a training, and samples that it is measured by."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Two networks and how they play."""

    name: str
    networks: Callable[[], tuple[nn.Module, nn.Module]]
    objective: Objective = objectives.non_saturating
    rate: tuple[float, float | None] = (1e-3, None)
    beta1: float = 0.5
    options: dict[str, Any] = field(default_factory=dict)


RECIPES = {
    2014: Recipe(name="MLP", networks=perceptrons),
    2015: Recipe(name="DCGAN", networks=convolutions),
    2018: Recipe(
        name="ResNet, spectral norm",
        networks=lambda: (ResnetGenerator(), SpectralResnet()),
        objective=objectives.hinge,
        beta1=0.0,
        # Two time scales: Heusel et al. 2017, arXiv:1706.08500.
        options={"discriminator": NetworkTraining(rate=4.0)},
    ),
    2019: Recipe(
        name="style-based",
        networks=lambda: (StyleGenerator(), convolutions()[1]),
        rate=(2e-3, None),
        beta1=0.0,
        options={"r1": Cosine(start=0.1)},
    ),
    2025: Recipe(
        name="relativistic, R1 and R2",
        networks=convolutions,
        objective=objectives.relativistic,
        rate=(2e-3, 1e-4),
        beta1=0.0,
        options={name: Cosine(start=0.1, end=0.01) for name in ("r1", "r2")},
    ),
}
"""By year; of 2025 the losses of R3GAN, arXiv:2501.05441, on convolutions of which a CPU makes more
steps in these seconds than of its residual blocks."""

TODAY = max(RECIPES)


def levels_of(x: Tensor) -> Tensor:
    """Images in [-1, 1] as the data's grey levels, whole numbers from 0 to 16."""
    return ((x.detach() + 1) * ((LEVELS - 1) / 2)).round().clamp(0, LEVELS - 1)


def images_of(levels: Tensor) -> Tensor:
    """Grey levels as images in [-1, 1]."""
    return levels.float() * (2 / (LEVELS - 1)) - 1


class Quality(NamedTuple):
    """What samples are worth: the Frechet distance of LeNet features to held-out digits, and the
    classes that they are spread over, as the exponential of the entropy."""

    distance: float
    classes: float


def quality(x: Tensor) -> Quality:
    """Of images `[n 1 8 8]`, in the data's grey levels."""
    network = feature_network(DIGITS.shape)
    if network is None:
        raise ValueError("there are no features of digits")
    held_out = DIGITS.reference("held_out", 297)[0]
    (real, _), (fake, label) = extract(network, held_out), extract(network, images_of(levels_of(x)))
    shares = torch.bincount(label, minlength=10) / len(label)
    return Quality(frechet_distance(real, fake), effective_number(shares.tolist()))


def gallery(x: Tensor, caption: str) -> Panel:
    """The first 64 of images `[n 1 8 8]`, in the data's grey levels, as a part of the page."""
    picture = image(caption, picture_of(images_of(levels_of(x[:64])), DIGITS))
    return Panel("", picture, caption)


class Trained(NamedTuple):
    """A generator with its cost in CPU seconds, steps, and the samples it is measured by."""

    recipe: Recipe
    generator: nn.Module
    seconds: float
    steps: int
    samples: Tensor
    quality: Quality

    @property
    def parameters(self) -> int:
        """Of the generator."""
        return sum(weight.numel() for weight in self.generator.parameters())


@torch.no_grad()
def generated(generator: nn.Module, z: Tensor) -> Tensor:
    """Samples of noise `[n latent]`, as when the training is over."""
    with eval_mode(generator):
        return generator(z, None)


def steps_of(
    settings: "Lecture", recipe: Recipe, steps: int, budget: float = math.inf
) -> tuple[nn.Module, int, float]:
    """The average of a generator over so many steps, or as many as `budget` CPU seconds allow;
    their number, and the CPU seconds of one, without the first three."""
    torch.manual_seed(settings.seed)
    begin, networks, start, done = time.process_time(), recipe.networks(), 0.0, 0
    one = NetworkTraining(beta1=recipe.beta1)
    usual = {"generator": one, "discriminator": one, "ema_half_life": 1_000.0}
    played = game(
        settings, DIGITS, networks, recipe.objective,
        steps=steps, latent=LATENT, rate=recipe.rate, batch=32, **usual | recipe.options,
    )  # fmt: skip
    average = networks[0]
    for step in played:
        average, done = step.average, step.number
        start = time.process_time() if done == min(3, steps - 1) else start
        if time.process_time() - begin > budget:
            break
    return average, done, (time.process_time() - start) / max(1, done - 3)


@cache
def trained(settings: "Lecture", year: int) -> Trained:
    """A recipe, trained for as many CPU seconds as any other: its pace is measured first."""
    recipe, budget = RECIPES[year], BUDGET * settings.effort
    _, _, pace = steps_of(settings, recipe, 3 + settings.scaled(40))
    start, planned = time.process_time(), max(2, round(budget / pace))
    generator, steps, _ = steps_of(settings, recipe, planned, budget)
    seconds = time.process_time() - start
    samples = generated(generator, torch.randn(SAMPLES, LATENT))
    return Trained(recipe, generator, seconds, steps, samples, quality(samples))
