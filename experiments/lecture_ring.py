"""Mode collapse, on eight Gaussians on a ring."""

from collections.abc import Callable, Iterator, Sequence
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
from torch import Tensor, nn

from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.maths import objectives
from hybridgen.maths.mixtures import ring
from hybridgen.maths.rng import rng_for
from hybridgen.metrics.modes import mode_statistics
from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator

if TYPE_CHECKING:
    from lecture import Lecture


RING = ring(std=0.05).standardised()


class Coverage(NamedTuple):
    """Of a game on the ring at one step: the share of samples that are within three standard
    deviations of each mode, `[8]`, and some samples."""

    step: int
    shares: Tensor
    points: Tensor


def ahead(
    settings: "Lecture",
    networks: Sequence[nn.Module],
    steps: int,
    *,
    draw: Callable[[torch.Generator], Tensor],
    latent: int,
    batch: int = 256,
) -> Iterator[int]:
    """The same two steps, but the generator takes fifteen to the discriminator's one; `draw` gives
    a batch of real samples."""
    generator, discriminator = networks
    loss, rng = AdversarialLoss(discriminator, objectives.non_saturating), rng_for(settings.seed)
    moves = [torch.optim.Adam(net.parameters(), 1e-3, (0.5, 0.99)) for net in networks]

    def latents() -> Tensor:
        return torch.randn(batch, latent, generator=rng)

    for number in range(1, steps + 1):
        with torch.no_grad():
            fake = generator(latents())
        moves[1].zero_grad()
        loss(real=draw(rng), fake=fake)["total"].backward()
        moves[1].step()
        for _ in range(15):
            moves[0].zero_grad()
            loss.generator_loss(fake=generator(latents())).backward()
            moves[0].step()
        yield number


def ring_game(settings: "Lecture", name: str) -> list[Coverage]:
    """A game on a ring of eight: "in turn" as the package plays it, or with one player "ahead"."""
    torch.manual_seed(settings.seed)
    networks = (MlpGenerator(width=64, depth=3), MlpDiscriminator(width=64, depth=3))
    if name == "ahead":
        steps = settings.scaled(400, 8)
        numbers = ahead(
            settings, networks, steps, draw=lambda rng: RING.sample(256, rng)[0], latent=2
        )
    else:
        steps = settings.scaled(800, 8)
        options: dict[str, Any] = {"rate": (1e-3, 1e-4), "penalty": (0.1, 0.01)}
        played = game(
            settings, RING, networks, objectives.relativistic, steps=steps, latent=2, **options
        )
        numbers = (step.number for step in played)
    shots, noise, every = [], torch.randn(1_000, 2), max(1, steps // 40)
    for number in numbers:
        if number % every == 0:
            with torch.no_grad():
                points = networks[0](noise)
            hits, _ = mode_statistics(points, RING)
            shots.append(Coverage(number, hits / len(points), points[:200]))
    return shots


def collapse(settings: "Lecture") -> Statement:
    """The ring, and where the generator goes on it."""
    captions = {
        "ahead": "Fifteen steps of the generator to one of the discriminator.",
        "in turn": "In turn, relativistic, with penalties on both sides.",
    }
    runs, panels = {name: ring_game(settings, name) for name in captions}, []
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
    modes = {name: [int((s.shares > 0).sum()) for s in shots] for name, shots in runs.items()}
    axes = axes_of("progress (%)", "modes at once", height=360, ylim=(0, 8.3))
    looks = ((ANSWER, "-"), (FAKE, "--"))
    for (name, counts), (colour, dash) in zip(modes.items(), looks, strict=True):
        at = [100 * (place + 1) / len(counts) for place in range(len(counts))]
        axes.plot(at, counts, dash, color=colour, lw=2, label=name)
    panels.append(
        panel(axes, "ring-modes", "Modes with a sample within three standard deviations of them.")
    )
    late = slice(len(modes["ahead"]) // 4, None)
    visited = int((torch.stack([s.shares for s in runs["ahead"][late]]) > 0).any(dim=0).sum())
    sharp = float(runs["in turn"][-1].shares.sum())
    return Statement(
        name="collapse",
        short="mode collapse",
        title="Mode collapse: the generator hops from mode to mode",
        at="20:24",
        sentence="A generator that runs ahead of its discriminator runs to where D is highest, and "
        f"on when D learns of it: in the last three quarters it had samples at {visited} of eight "
        f"modes, at {max(modes['ahead'][late])} at once at most. In turn it has "
        f"{modes['in turn'][-1]} at the end, and {100 * sharp:.0f} % of its samples are within "
        "three standard deviations of one.",
        checks=(
            Check(
                "generator ahead: modes at once, most in the last three quarters",
                max(modes["ahead"][late]),
                3,
                relation="at most ",
            ),
            Check("generator ahead: modes visited", visited, 5, relation="at least "),
            Check("in turn: modes at once at the end", modes["in turn"][-1], 8),
            Check("in turn: share of high quality at the end", sharp, 0.5, relation="at least "),
        ),
        panels=tuple(panels),
        note="Modes and quality are by the convention of VEEGAN and PacGAN, within three standard "
        "deviations of a mode; of the ring's own samples 98.9 % are.",
    )
