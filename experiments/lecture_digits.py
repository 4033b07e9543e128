"""Statements about digits: progress over the years, and lost classes."""

from typing import TYPE_CHECKING, Any

import torch
from lecture_networks import LATENT
from lecture_parts import (
    ANSWER,
    FAKE,
    MUTED,
    Check,
    Statement,
    axes_of,
    game,
    panel,
)
from lecture_recipes import (
    DIGITS,
    RECIPES,
    SAMPLES,
    TODAY,
    gallery,
    generated,
    quality,
    trained,
)
from lecture_ring import AHEAD, moving

from hybridgen.report.text import number

if TYPE_CHECKING:
    from lecture import Lecture


def progress(settings: "Lecture") -> Statement:
    """Five recipes on one budget."""
    runs = {year: trained(settings, year) for year in RECIPES}
    floor = quality(DIGITS.reference("train", SAMPLES)[0]).distance
    distance = {year: run.quality.distance for year, run in runs.items()}
    now, before = distance[TODAY], min(d for year, d in distance.items() if year != TODAY)
    places = list(range(len(runs)))
    axes = axes_of("year", "Fr\u00e9chet distance", height=300, yscale="log")
    axes.set_xticks(places, [str(year) for year in runs])
    axes.plot(places, list(distance.values()), "o:", color=FAKE, lw=1.4)
    axes.axhline(floor, color=MUTED, ls="--", label="real digits")
    spent = [run.seconds for run in runs.values()]
    return Statement(
        short="progress",
        title="From 2014 to today: the same digits, the same seconds",
        at="17:18",
        sentence="Five recipes after the ideas of their years, small enough for a lecture: "
        f"{number(max(spent), 2)} CPU seconds of training each. The recipe of today comes to "
        f"{number(now / distance[2014], 2)} of the distance of 2014, and to "
        f"{number(now / before, 2)} of the least before it.",
        checks=(
            Check("distance today to that of 2014", now / distance[2014], 0.6, 0, "at most "),
            Check("distance today to the least before", now / before, 1.5, 0, "at most "),
            Check("most training seconds to least", max(spent) / min(spent), 1, 0.5),
            Check(
                "effective classes of ten, today", runs[TODAY].quality.classes, 8, 0, "at least "
            ),
        ),
        panels=(
            panel(axes, "progress", "To held-out digits, by LeNet features; less is better."),
            *(
                gallery(
                    run.samples,
                    f"{year}, {run.recipe.name}: {number(run.parameters)} weights, {run.steps} "
                    f"steps, distance {number(run.quality.distance)}.",
                )
                for year, run in runs.items()
            ),
        ),
        note="A step of 2018 and 2019 costs more, so within seconds they make fewer and may fall "
        "behind 2015; nothing here says what hours would show. Each is one training from one seed, "
        "and every generator is the average over its steps; only "
        f"the rate of {TODAY} fades.",
    )


def digit_collapse(settings: "Lecture") -> Statement:
    """The oldest recipe, its generator running ahead of its discriminator."""
    torch.manual_seed(settings.seed)
    recipe, steps = RECIPES[2014], settings.scaled(100, 8)
    networks = recipe.networks()
    noise, shots, sheet = torch.randn(500, LATENT), [], []
    how: dict[str, Any] = {"latent": LATENT, "rate": recipe.rate, "batch": 32, **moving(AHEAD)}
    played = game(settings, DIGITS, networks, recipe.objective, steps=steps, **how)
    for step in played:
        if step.number % max(1, steps // 25) == 0:
            x = generated(networks[0], noise)
            shots.append((step.number, quality(x).classes))
            sheet.append(x[:8])
    at, classes = zip(*shots, strict=True)
    few = float(torch.tensor(classes[len(classes) // 4 :]).mean())
    rows = torch.linspace(len(sheet) // 4, len(sheet) - 1, 8).round().long().tolist()
    turn, today = (trained(settings, year) for year in (2014, TODAY))
    axes = axes_of("step of the discriminator", "effective classes of 10", ylim=(0, 10.5))
    axes.plot(at, classes, color=FAKE, lw=2, label="generator ahead")
    axes.axhline(turn.quality.classes, color=ANSWER, ls="--", label="in turn")
    axes.axhline(today.quality.classes, color=MUTED, ls=":", label=f"in turn, {TODAY}")
    return Statement(
        short="collapse on digits",
        title="Mode collapse on digits: a few classes, whatever the noise",
        at="21:08",
        sentence=f"{AHEAD} moves of the generator to one of the discriminator, and of 500 noises "
        f"it makes {number(few, 2)} classes of ten; the same two networks in turn make "
        f"{number(turn.quality.classes, 2)}, and the recipe of {TODAY} makes "
        f"{number(today.quality.classes, 2)}.",
        checks=(
            Check("generator ahead: effective classes, last three quarters", few, 4, 0, "at most "),
            Check(
                "the same, to the same networks in turn",
                few / turn.quality.classes,
                0.5,
                relation="at most ",
            ),
            Check(f"in turn, {TODAY}: effective classes", today.quality.classes, 10, 2.0),
        ),
        panels=(
            panel(axes, "classes", "exp(entropy) of the classes that a LeNet sees in 500 samples."),
            gallery(
                torch.cat([sheet[row] for row in rows]),
                "Generator ahead: a row is the same eight noises, at steps "
                f"{', '.join(str(at[row]) for row in rows)}.",
            ),
            gallery(turn.samples, "In turn, the same networks, of 2014, at the end."),
            gallery(today.samples, f"In turn, the recipe of {TODAY}, at the end."),
        ),
        note="In turn, the generator is the average over its steps; of those the networks of 2014 "
        f"make {turn.steps}.",
    )
