"""Statements about digits: progress over the years, lost classes, and the closing point."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lecture_networks import LATENT
from lecture_parts import (
    ANSWER,
    DATA,
    FAKE,
    MUTED,
    Check,
    Statement,
    axes_of,
    panel,
)
from lecture_recipes import (
    DIGITS,
    RECIPES,
    SAMPLES,
    TODAY,
    drawn,
    gallery,
    quality,
    trained,
)
from lecture_ring import ahead
from markupsafe import Markup

from hybridgen.report.text import SECONDS, number

if TYPE_CHECKING:
    from lecture import Lecture

RESULTS = Path(__file__).parent / "results"


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
        name="progress",
        short="progress",
        title="From 2014 to today: the same digits, the same seconds",
        at="17:18",
        sentence="Five recipes after the ideas of their years, small enough for a lecture: "
        f"{number(max(spent), 2)} CPU seconds of training each. The recipe of today comes to "
        f"{number(now / distance[2014], 2)} of the distance of 2014.",
        checks=(
            Check("distance today to that of 2014", now / distance[2014], 0.6, 0, "at most "),
            Check("distance today to the least before", now / before, 1, 0, "at most "),
            Check("most training seconds to least", max(spent) / min(spent), 1, 1.0),
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
        "behind 2015; nothing here says what hours would show.",
    )


def digit_collapse(settings: "Lecture") -> Statement:
    """The oldest recipe, its generator running ahead of its discriminator."""
    torch.manual_seed(settings.seed)
    networks, real = RECIPES[2014].networks(), DIGITS.reference("train", DIGITS.size)[0]
    steps = settings.scaled(100, 8)
    noise, shots, sheet = torch.randn(500, LATENT), [], []
    played = ahead(
        settings,
        networks,
        steps,
        latent=LATENT,
        batch=64,
        draw=lambda rng: real[torch.randint(len(real), (64,), generator=rng)],
    )
    for step in played:
        if step % max(1, steps // 25) == 0:
            x = drawn(networks[0], noise)
            shots.append((step, quality(x).classes))
            sheet.append(x[:8])
    at, classes = zip(*shots, strict=True)
    few = float(torch.tensor(classes[len(classes) // 4 :]).mean())
    rows = torch.linspace(len(sheet) // 4, len(sheet) - 1, 8).round().long().tolist()
    today = trained(settings, TODAY)
    axes = axes_of("step of the discriminator", "effective classes of 10", ylim=(0, 10.5))
    axes.plot(at, classes, color=FAKE, lw=2, label="generator ahead")
    axes.axhline(today.quality.classes, color=ANSWER, ls="--", label=f"in turn, {TODAY}")
    return Statement(
        name="digit_collapse",
        short="collapse on digits",
        title="Mode collapse on digits: the same few, over and over",
        at="21:08",
        sentence="Fifteen steps of the generator to one of the discriminator, and whatever the "
        f"noise, it draws {number(few, 2)} classes of ten, of which the "
        "discriminator knows too little.",
        checks=(
            Check("generator ahead: effective classes, last three quarters", few, 4, 0, "at most "),
            Check("in turn: effective classes at the end", today.quality.classes, 10, 2.0),
        ),
        panels=(
            panel(axes, "classes", "exp(entropy) of the classes that a LeNet sees in 500 samples."),
            gallery(
                torch.cat([sheet[row] for row in rows]),
                "Generator ahead: a row is the same eight noises, at steps "
                f"{', '.join(str(at[row]) for row in rows)}.",
            ),
            gallery(today.samples, f"In turn, the recipe of {TODAY}: all classes."),
        ),
    )


def recorded(name: str) -> dict[str, tuple[float, ...]]:
    """Of a recorded comparison's table, each method's distance with its interval, and the seconds
    of a sample."""
    lines = (RESULTS / f"{name}-comparison.md").read_text().splitlines()
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line)
    distance = "Fr\u00e9chet distance" if name != "ring" else "sliced Wasserstein distance"
    units, figures = {unit: size for size, unit in SECONDS}, {}
    for row in rows:
        cells = dict(zip(head, row, strict=True))
        numbers = [float(text) for text in re.findall(r"\d+\.?\d*", cells[distance])]
        price, _, unit = cells["seconds"].partition(" ")
        if len(numbers) == 3 and unit in units:
            method = re.sub(r" \(.*", "", cells["method"])
            figures[method] = (*numbers, float(price) * units[unit])
    return figures


def closing(settings: "Lecture") -> Statement:
    """A diffusion model, and a little of a discriminator: from what was recorded."""
    panels, data = [], {name: recorded(name) for name in ("ring", "digits", "mnist")}
    kinds = (
        (r"GAN$", "o", DATA, "GAN"),
        (r"diffusion, (\d+ calls|Heun)", "s", FAKE, "diffusion"),
        (r"diffusion, guided|diffusion, Metro|trained with", "^", ANSWER, "with a discriminator"),
    )
    for name, rows in data.items():
        unit = "Wasserstein" if name == "ring" else "Fr\u00e9chet"
        scales = {"xscale": "log", "yscale": "log"}
        axes = axes_of("milliseconds a sample", f"{unit} distance", height=320, **scales)
        for pattern, mark, colour, label in kinds:
            points = [row for key, row in rows.items() if re.match(pattern, key)]
            value, low, high, price = (torch.tensor(each) for each in zip(*points, strict=True))
            bars = torch.stack([value - low, high - value]).clamp_min(0)
            style = {"color": colour, "markersize": 7, "elinewidth": 1, "label": label}
            axes.errorbar(1_000 * price, value, bars.numpy(), fmt=mark, **style)
        caption = f"Recorded on {name}; both axes are logarithmic, bars are 95 % intervals."
        panels.append(panel(axes, f"closing-{name}", caption))

    def ratio(name: str, one: str, other: str) -> float:
        return data[name][one][0] / data[name][other][0]

    guided, plain = "diffusion, guided, 18 calls, scale 2", "diffusion, 18 calls"
    chain = ratio("ring", "trained with a discriminator, Euler, 4 calls", "diffusion, 4 calls")
    page = os.path.relpath(RESULTS / "digits-comparison.html", settings.out.absolute())
    return Statement(
        name="closing",
        short="with diffusion",
        title="Diffusion is easier to train, and a little of a discriminator often helps it",
        at="22:50",
        sentence="Often, not always: it lets a diffusion model of the ring do with four calls and "
        "guides one of MNIST to slightly better samples; on the digits nothing can be told apart.",
        checks=(
            Check("ring, 4 calls: trained with one, to without", chain, 0.1, 0, "at most "),
            Check("MNIST: guided, to not", ratio("mnist", guided, plain), 1, 0, "at most "),
            Check("digits: guided, to not", ratio("digits", guided, plain), 1, 0.1),
            Check(
                "digits: seconds of 18 guided calls, to the GAN's",
                data["digits"][guided][3] / data["digits"]["GAN"][3],
                100,
                relation="at least ",
            ),
        ),
        panels=tuple(panels),
        note=Markup(
            "Nothing is trained here: the numbers are read from recorded comparisons, of which one "
            '<a href="{}">has a page</a> (made by experiments/compare.py, see docs/compare.md).'
        ).format(page),
    )
