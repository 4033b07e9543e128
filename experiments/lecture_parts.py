"""What a statement of the lecture is made of: checks, panels, and games on a line."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from accelerate import Accelerator
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from torch import Tensor, nn

from hybridgen.data.points import MixturePoints
from hybridgen.data.source import Source
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.maths.mixtures import GaussianMixture
from hybridgen.maths.objectives import Objective, minimax
from hybridgen.maths.rng import rng_for
from hybridgen.networks.mlp import MlpDiscriminator
from hybridgen.report.page import filled
from hybridgen.report.svg import LIGHT, inline_svg
from hybridgen.report.text import number
from hybridgen.training.gan import train_gan
from hybridgen.training.settings import Cosine, GanTraining
from hybridgen.training.step import Step, batches_of

if TYPE_CHECKING:
    from lecture import Lecture

DATA, FAKE, ANSWER = LIGHT["kind-1"], LIGHT["kind-2"], LIGHT["kind-0"]
"""Colours of data, of generated samples, and of what a discriminator says."""
MUTED, INK = LIGHT["muted"], LIGHT["ink"]
LOG4 = math.log(4)
ONE_OF_TWO = math.log(2 / 3) / 4 + math.log(2) / 4 + math.log(4 / 3) / 2
"""JSD in nats of two equal modes, far apart, and one of them: to the mixture, of 3/4 and 1/4."""


@dataclass(frozen=True)
class Check:
    """A number beside its truth; `relation` says on which side of it the number may be as well."""

    name: str
    measured: float
    truth: float
    tolerance: float = 0.0
    relation: Literal["", "at most ", "at least "] = ""

    @property
    def key(self) -> str:
        """Its name as a word of `result.json`."""
        return re.sub(r"\W+", "_", self.name.replace("\u03bc", "mu"), flags=re.A).strip("_").lower()

    @property
    def holds(self) -> bool:
        """Whether it is as close as it should be; a number that is none never is, and an infinite
        one where the truth is."""
        above = 0.0 if self.measured == self.truth else self.measured - self.truth
        return {
            "": abs(above) <= self.tolerance,
            "at most ": above <= self.tolerance,
            "at least ": above >= -self.tolerance,
        }[self.relation]


class Panel(NamedTuple):
    """A picture and the line below it; of an animation also frames and the seconds of each."""

    name: str
    picture: Markup
    caption: str
    frames: int = 0
    seconds: float = 0.2


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A sentence of the lecture, its numbers and its pictures; `at` is where it is said, `name` the
    function that made it."""

    short: str
    title: str
    at: str
    sentence: str
    checks: tuple[Check, ...]
    panels: tuple[Panel, ...]
    note: str = ""
    name: str = ""

    def _repr_html_(self) -> str:
        """What a notebook shows: its part of the page, as a page of its own."""
        page = filled("lecture.html", statements=[self], seconds={}, command="", facts={})
        fit = "this.height = this.contentDocument.documentElement.scrollHeight"
        frame = '<iframe srcdoc="{}" title="{}" onload="{}" width="100%" height="800" '
        return Markup(frame + 'style="border: 0"></iframe>').format(str(page), self.title, fit)


def axes_of(xlabel: str, ylabel: str, *, height: int = 270, **options: object) -> Axes:
    """Empty axes of a panel 360 wide, in the pixels of the page."""
    figure = Figure(figsize=(5, height / 72))
    axes = figure.add_axes((0.15, 48 / height, 0.82, 1 - 64 / height))
    axes.set_xlabel(xlabel, loc="right")
    axes.set_ylabel(ylabel, loc="top")
    axes.set(**options)
    return axes


def panel(
    axes: Axes,
    name: str,
    caption: str,
    *,
    place: Literal["best", "upper left", "upper right"] = "best",
    columns: int = 1,
    frames: int = 0,
) -> Panel:
    """What was drawn, as a part of the page; `place` and `columns` are the legend's."""
    if axes.get_legend_handles_labels()[1]:
        how = {"handlelength": 1.6, "borderaxespad": 0.2, "columnspacing": 1.2}
        axes.legend(fontsize=11, loc=place, ncols=columns, **how)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":  # powers would be written as formulas
            axis.set_major_formatter(lambda value, _: number(value))
            axis.set_minor_formatter(_minor)
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("these axes have lost their figure")
    return Panel(name, inline_svg(figure, caption, name), caption, frames)


def _minor(value: float, _: object) -> str:
    """Between powers of ten: 2 and 5, where there is room."""
    text = number(value)
    return text if f"{value:e}"[0] in "25" and len(text) <= 4 else ""


def frame_gid(place: int, frames: int) -> str:
    """The `gid` of what only one frame of an animation shows."""
    last = " last" if place == frames - 1 else ""
    return f"frame f{place}{last}/"


def dots(axes: Axes, x: Tensor, y: Tensor, colour: str, gid: str) -> None:
    """Points as one path of round strokes without length, which is a fifth of the bytes."""
    ends = torch.stack([x, y], dim=-1).double().repeat_interleave(2, dim=0)
    ends[1::2, 0] += 1e-3 * (axes.get_xlim()[1] - axes.get_xlim()[0])
    codes = [Outline.MOVETO, Outline.LINETO] * len(x)
    outline = Outline(ends.numpy(), codes)
    options = {"edgecolor": colour, "facecolor": "none", "alpha": 0.6, "gid": gid}
    axes.add_patch(PathPatch(outline, linewidth=3.5, capstyle="round", **options))


def gaussian(*parts: tuple[float, float, float]) -> GaussianMixture:
    """A mixture on a line, of parts `(weight, mean, standard deviation)`."""
    weights, means, stds = torch.tensor(parts, dtype=torch.float64).T
    return GaussianMixture(weights, means[:, None], stds)


def classifier(
    real: GaussianMixture | Tensor,
    fake: GaussianMixture | Tensor,
    settings: "Lecture",
    *,
    steps: int,
    batch: int = 2_048,
) -> nn.Module:
    """A discriminator on a line, trained to tell samples of mixtures, or finite sets `[n 1]`."""
    discriminator = MlpDiscriminator(dimension=1, width=24, depth=2, activation="silu")
    loss = AdversarialLoss(discriminator, minimax)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = rng_for("lecture", settings.seed)

    def draw(source: GaussianMixture | Tensor) -> Tensor:
        if isinstance(source, GaussianMixture):
            return source.sample(batch, rng)[0]
        return source[torch.randint(len(source), (batch,), generator=rng)]

    for _ in range(steps):
        optimizer.zero_grad()
        loss(real=draw(real), fake=draw(fake))["total"].backward()
        optimizer.step()
        decay.step()
    return discriminator.eval().requires_grad_(False)


def logit_of(discriminator: nn.Module, x: Tensor) -> Tensor:
    """Logits of places `[n 1]`, in float64."""
    with torch.no_grad():
        return discriminator(x.float()).double()


def game(
    settings: "Lecture",
    source: GaussianMixture | Source,
    networks: Sequence[nn.Module],
    objective: Objective,
    *,
    latent: int,
    rate: tuple[float, float | None],
    penalty: tuple[float, float | None] = (0.0, None),
    batch: int = 256,
    **options: Any,
) -> Iterator[Step]:
    """The package's GAN training of a generator and a discriminator on a mixture or other data."""
    generator, discriminator = networks
    accelerator = Accelerator(cpu=True)
    both = Cosine(start=penalty[0], end=penalty[1])
    learning_rate = Cosine(start=rate[0], end=rate[1])
    usual: dict[str, Any] = {"r1": both, "r2": both, "learning_rate": learning_rate}
    training = GanTraining(**usual | options, batch=batch)
    if isinstance(source, GaussianMixture):
        source = MixturePoints(mixture=source, name="lecture")
    batches = batches_of(source, accelerator, batch=batch, seed=settings.seed)
    adversarial = AdversarialLoss(discriminator, objective)
    return train_gan(
        generator, adversarial, batches, training, accelerator, latent=latent, seed=settings.seed
    )
