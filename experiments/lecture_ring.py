"""Mode collapse, on eight Gaussians on a ring."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lecture_parts import (
    ANSWER,
    DATA,
    FAKE,
    Check,
    Statement,
    axes_of,
    dots,
    frame_gid,
    game,
    panel,
)
from torch import Tensor

from hybridgen.maths import objectives
from hybridgen.maths.mixtures import ring
from hybridgen.metrics.modes import mode_statistics
from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator
from hybridgen.training.settings import NetworkTraining

if TYPE_CHECKING:
    from lecture import Lecture


RING = ring(std=0.05).standardised()


class Coverage(NamedTuple):
    """Of a game on the ring at one step: the share of samples that are within three standard
    deviations of each mode, `[8]`, and some samples."""

    step: int
    shares: Tensor
    points: Tensor


def moving(generator: int) -> dict[str, NetworkTraining]:
    """Settings of both networks; the generator moves so often to the discriminator's once."""
    moves = {"generator": generator, "discriminator": 1}
    return {name: NetworkTraining(moves=n, beta1=0.5) for name, n in moves.items()}


AHEAD = 15
"""Moves of a generator that runs ahead."""


def ring_game(settings: "Lecture", moves: int) -> list[Coverage]:
    """A game on a ring of eight, in which the generator moves so often in a step."""
    torch.manual_seed(settings.seed)
    networks = (MlpGenerator(width=64, depth=3), MlpDiscriminator(width=64, depth=3))
    steps = settings.scaled(400, 8)
    how: dict[str, Any] = {"latent": 2, "rate": (1e-3, None), **moving(moves)}
    played = game(settings, RING, networks, objectives.non_saturating, steps=steps, **how)
    shots, noise, every = [], torch.randn(1_000, 2), max(1, steps // 40)
    for step in played:
        if step.number % every == 0:
            with torch.no_grad():
                points = networks[0](noise)
            hits, _ = mode_statistics(points, RING)
            shots.append(Coverage(step.number, hits / len(points), points[:200]))
    return shots


def collapse(settings: "Lecture") -> Statement:
    """The ring, and where the generator goes on it."""
    captions = {
        "ahead": f"{AHEAD} moves of the generator to one of the discriminator.",
        "in turn": "In turn, as many moves of the discriminator; all else is alike.",
    }
    moves = (AHEAD, 1)
    runs = {name: ring_game(settings, n) for name, n in zip(captions, moves, strict=True)}
    panels = []
    for name, shots in runs.items():
        axes = axes_of("x", "y", height=360, xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
        axes.plot(RING.means[:, 0], RING.means[:, 1], "o", color=DATA, markersize=15, alpha=0.35)
        for place, shot in enumerate(shots):
            gid = frame_gid(place, len(shots))
            x, y = shot.points.clamp(-2.2, 2.2).T
            dots(axes, x, y, FAKE, gid)
            axes.text(2.15, 2.0, f"step {shot.step}", ha="right", gid=gid)
        label = f"ring-{name.replace(' ', '-')}"
        panels.append(panel(axes, label, captions[name], frames=len(shots)))
    counts = {name: [int((s.shares > 0).sum()) for s in shots] for name, shots in runs.items()}
    axes = axes_of("step", "modes at once", height=360, ylim=(0, 8.3))
    looks = ((ANSWER, "-"), (FAKE, "--"))
    for (name, shots), (colour, dash) in zip(runs.items(), looks, strict=True):
        axes.plot([s.step for s in shots], counts[name], dash, color=colour, lw=2, label=name)
    panels.append(
        panel(axes, "ring-modes", "Modes with a sample within three standard deviations of them.")
    )
    late = slice(len(counts["ahead"]) // 4, None)
    visited = int((torch.stack([s.shares for s in runs["ahead"][late]]) > 0).any(dim=0).sum())
    sharp = float(runs["in turn"][-1].shares.sum())
    return Statement(
        short="mode collapse",
        title="Mode collapse: the generator hops from mode to mode",
        at="20:24",
        sentence="A generator that runs ahead of its discriminator runs to where D is highest, and "
        f"on when D learns of it: in the last three quarters it had samples at {visited} of eight "
        f"modes, at {max(counts['ahead'][late])} at once at most. In turn, all else alike, it has "
        f"{counts['in turn'][-1]} at the end, and {100 * sharp:.0f} % of its samples are within "
        "three standard deviations of one.",
        checks=(
            Check(
                "generator ahead: modes at once, most in the last three quarters",
                max(counts["ahead"][late]),
                3,
                relation="at most ",
            ),
            Check("generator ahead: modes visited", visited, 5, relation="at least "),
            Check("in turn: modes at once at the end", counts["in turn"][-1], 8),
            Check("in turn: share of high quality at the end", sharp, 0.3, relation="at least "),
        ),
        panels=tuple(panels),
        note="Modes and quality are by the convention of VEEGAN and PacGAN, within three standard "
        "deviations of a mode; of the ring's own samples 98.9 % are.",
    )
