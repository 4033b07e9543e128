"""The game on a line, and the statement that it is played in turn."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lecture_parts import (
    ANSWER,
    DATA,
    FAKE,
    INK,
    MUTED,
    Check,
    Statement,
    axes_of,
    frame_gid,
    game,
    gaussian,
    logit_of,
    panel,
)
from matplotlib.collections import LineCollection
from torch import Tensor, nn

from hybridgen.maths import objectives
from hybridgen.maths.mixtures import GaussianMixture
from hybridgen.maths.rng import rng_for
from hybridgen.metrics.divergences import histogram_divergences
from hybridgen.networks.mlp import MlpDiscriminator

if TYPE_CHECKING:
    from lecture import Lecture

EDGES = torch.linspace(-6, 6, 241, dtype=torch.float64)
CENTRES = (EDGES[1:] + EDGES[:-1]) / 2


class LineGenerator(nn.Module):
    """`x = shift + slope z + sum_k v_k tanh(2 (w_k z + c_k))`: `[b 1] -> [b 1]`.

    Smooth, and at first the line alone, so that the game begins at a Gaussian. Twice PyTorch's
    usual weights, or hardly a unit would bend where the noise is.
    """

    def __init__(self, width: int = 16, shift: float = 2.5, slope: float = 0.5) -> None:
        super().__init__()
        self.line, self.hidden, self.out = nn.Linear(1, 1), nn.Linear(1, width), nn.Linear(width, 1)
        nn.init.constant_(self.line.weight, slope)
        nn.init.constant_(self.line.bias, shift)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        return self.line(z) + self.out(torch.tanh(2 * self.hidden(z)))


class Snapshot(NamedTuple):
    """A game on a line at one step: shares of generated samples in the cells of `EDGES`, the
    probability of "real" at `CENTRES`, where evenly spread noise and 10 000 latents go, losses,
    and the JSD."""

    step: int
    shares: Tensor
    probability: Tensor
    places: Tensor
    samples: Tensor
    losses: dict[str, float]
    jsd: float


def cell_shares(mixture: GaussianMixture) -> Tensor:
    """Probabilities of the cells of `EDGES` `[n]`, exactly."""
    z = (EDGES[:, None] - mixture.means[:, 0]) / mixture.stds
    return (mixture.weights * torch.special.ndtr(z)).sum(dim=1).diff()


def normal_quantiles(count: int) -> Tensor:
    """Noise of equal probability each, `[count 1]`: the expectation without a draw."""
    levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.special.ndtri(levels)[:, None].float()


def snapshot(step: int, losses: dict, networks: tuple[nn.Module, nn.Module], p: Tensor) -> Snapshot:
    """How things stand; the JSD is that of the cells, which is at most that of the densities."""
    generator, discriminator = networks
    with torch.no_grad():
        x = generator(normal_quantiles(20_000))[:, 0].double()
        places = generator(normal_quantiles(25))[:, 0]
        samples = generator(torch.randn(10_000, 1, generator=rng_for("latents")))
    shares = torch.histogram(x.clamp(-5.999, 5.999), EDGES).hist / len(x)
    probability = logit_of(discriminator, CENTRES[:, None]).sigmoid()
    jsd = histogram_divergences(p, shares)["jsd"]
    return Snapshot(step, shares, probability, places, samples, losses, jsd)


def played(
    settings: "Lecture", mixture: GaussianMixture, steps: int, every: int, **options: Any
) -> list[Snapshot]:
    """Snapshots of a game on a line, before it and after every so many steps."""
    networks = (
        LineGenerator(),
        MlpDiscriminator(dimension=1, width=32, depth=2, activation="silu"),
    )
    p = cell_shares(mixture)
    shots = [snapshot(0, {}, networks, p)]
    for step in game(settings, mixture, networks, steps=steps, latent=1, **options):
        if step.number % every == 0:
            shots.append(snapshot(step.number, dict(step.losses), networks, p))
    return shots


def play(settings: "Lecture") -> Statement:
    """The lecture's own picture, moving."""
    data = gaussian((0.6, -1.6, 0.5), (0.4, -0.2, 0.7))
    steps = settings.scaled(320, 8)
    shots = played(
        settings,
        data,
        steps,
        max(1, steps // 40),
        objective=objectives.non_saturating,
        rate=(1e-2, 3e-4),
        penalty=(0.05, 0.02),
    )
    last, p = shots[-1], data.log_density(CENTRES[:, None]).exp()
    axes = axes_of("x", "density and D(x)", height=340, xlim=(-4.5, 4.5), ylim=(-0.62, 1.05))
    axes.set_yticks([0, 0.5, 1])
    axes.plot(CENTRES, p, color=DATA, lw=2.2, label="data p")
    axes.plot([], [], "--", color=FAKE, lw=2.2, label="generator q")
    axes.plot([], [], ":", color=ANSWER, lw=2.2, label="D(x)")
    axes.axhline(-0.55, color=MUTED, lw=1)
    axes.text(-4.4, -0.53, "noise z", color=MUTED, va="bottom")
    noise, cell = normal_quantiles(25)[:, 0].tolist(), float(EDGES[1] - EDGES[0])
    for place, shot in enumerate(shots):
        gid = frame_gid(place, len(shots))
        arrows = [
            [(z, -0.55), (x, -0.03)] for z, x in zip(noise, shot.places.tolist(), strict=True)
        ]
        axes.add_collection(LineCollection(arrows, colors=FAKE, linewidths=0.7, alpha=0.6, gid=gid))
        axes.plot(CENTRES, shot.shares / cell, "--", color=FAKE, lw=2.2, gid=gid)
        axes.plot(CENTRES, shot.probability, ":", color=ANSWER, lw=2.2, gid=gid)
        axes.text(4.4, 0.98, f"step {shot.step}", ha="right", gid=gid)
    middle = (p.cumsum(0) * cell > 0.01) & (p.cumsum(0) * cell < 0.99)
    curve = axes_of("step", "JSD(p, q) (nats)", height=340, yscale="log")
    curve.plot([s.step for s in shots], [s.jsd for s in shots], color=INK, lw=2)
    return Statement(
        short="the game",
        title="Two networks move in turn, on minibatches, until D is 1/2",
        at="11:22",
        sentence="The discriminator steps up its objective on m real and m generated samples, then "
        "the generator steps down it through the discriminator: its arrows z to x move to where "
        "D says \u201creal\u201d, until both curves are one.",
        checks=(
            Check("JSD at the start", shots[0].jsd, 0.5, 0.0, "at least "),
            Check("JSD at the end", last.jsd, 0, 0.02),
            Check(
                "greatest |D \u2212 1/2| over the middle 98 % of the data",
                float((last.probability - 0.5).abs()[middle].max()),
                0,
                0.1,
            ),
        ),
        panels=(
            panel(
                axes,
                "line-game",
                "Arrows from noise z below to samples x above.",
                place="upper left",
                frames=len(shots),
            ),
            panel(
                curve,
                "line-jsd",
                "How far apart they are at least: of shares in cells of width 0.05.",
            ),
        ),
        note="With gradient penalties on both sides (R1, R2); without them it need not settle, as "
        "the statement on losses shows.",
    )
