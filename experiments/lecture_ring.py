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
    frame,
    game,
    panel,
)
from torch import Tensor, nn

from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.maths import objectives
from hybridgen.maths.mixtures import ring
from hybridgen.maths.rng import rng_for
from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator

if TYPE_CHECKING:
    from lecture import Lecture


RING = ring(std=0.05).standardised()


class Coverage(NamedTuple):
    """Of a game on the ring at one step: the share of samples nearest to each mode, and some."""

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


def circled(settings: "Lecture", name: str) -> list[Coverage]:
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
            nearest = torch.cdist(points.double(), RING.means).argmin(dim=1)
            shares = torch.bincount(nearest, minlength=8) / len(points)
            shots.append(Coverage(number, shares, points[:200]))
    return shots


def collapse(settings: "Lecture") -> Statement:
    """The ring, and where the generator goes on it."""
    captions = {
        "ahead": "Fifteen steps of the generator to one of the discriminator.",
        "in turn": "In turn, relativistic, with penalties on both sides.",
    }
    runs, panels = {name: circled(settings, name) for name in captions}, []
    for name, shots in runs.items():
        axes = axes_of("x", "y", height=360, xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
        axes.plot(RING.means[:, 0], RING.means[:, 1], "o", color=DATA, markersize=15, alpha=0.35)
        for place, shot in enumerate(shots):
            gid = frame(place, len(shots))
            x, y = shot.points.clamp(-2.2, 2.2).T
            dots(axes, x, y, FAKE, gid)
            axes.text(2.15, 2.0, f"step {shot.step}", ha="right", gid=gid)
        label = f"ring-{name.replace(' ', '-')}"
        panels.append(panel(axes, label, captions[name], frames=len(shots)))
    counts = {name: [int((s.shares > 0.02).sum()) for s in shots] for name, shots in runs.items()}
    axes = axes_of("progress (%)", "modes at once", height=360, ylim=(0, 8.3))
    looks = ((ANSWER, "-"), (FAKE, "--"))
    for (name, modes), (colour, dash) in zip(counts.items(), looks, strict=True):
        at = [100 * (place + 1) / len(modes) for place in range(len(modes))]
        axes.plot(at, modes, dash, color=colour, lw=2, label=name)
    panels.append(panel(axes, "ring-modes", "Modes nearest to more than 2 % of the samples."))
    late = torch.stack([s.shares for s in runs["ahead"]][len(runs["ahead"]) // 4 :])
    visited = int((late > 0.5).any(dim=0).sum())
    return Statement(
        name="collapse",
        short="mode collapse",
        title="Mode collapse: the generator hops from mode to mode",
        at="20:24",
        sentence="A generator that runs ahead of its discriminator puts all it has where D is "
        f"highest, and moves on when D learns of it: {visited} of eight modes had more than half "
        "of the samples at some time, never all at once.",
        checks=(
            Check(
                "generator ahead: modes at once, mean of the last three quarters",
                float((late > 0.02).sum(dim=1).double().mean()),
                4,
                relation="at most ",
            ),
            Check("generator ahead: modes visited", visited, 3, relation="at least "),
            Check("in turn: modes at once at the end", counts["in turn"][-1], 8),
        ),
        panels=tuple(panels),
    )
