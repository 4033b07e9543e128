"""Statements about digits: progress over the years, lost classes, and the closing point."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lecture_networks import LATENT
from lecture_parts import (
    ANSWER,
    DATA,
    FAKE,
    MUTED,
    Check,
    Panel,
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
        f"{number(now / distance[2014], 2)} of the distance of 2014, and to "
        f"{number(now / before, 2)} of the least before it.",
        checks=(
            Check("distance today to that of 2014", now / distance[2014], 0.6, 0, "at most "),
            Check("distance today to the least before", now / before, 1, 0.2, "at most "),
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
    turn, today = (trained(settings, year) for year in (2014, TODAY))
    axes = axes_of("step of the discriminator", "effective classes of 10", ylim=(0, 10.5))
    axes.plot(at, classes, color=FAKE, lw=2, label="generator ahead")
    axes.axhline(turn.quality.classes, color=ANSWER, ls="--", label="in turn")
    axes.axhline(today.quality.classes, color=MUTED, ls=":", label=f"in turn, {TODAY}")
    return Statement(
        name="digit_collapse",
        short="collapse on digits",
        title="Mode collapse on digits: a few classes, whatever the noise",
        at="21:08",
        sentence="Fifteen steps of the generator to one of the discriminator, and of 500 noises it "
        f"makes {number(few, 2)} classes of ten; the same two networks in turn make "
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
        note="In turn, batches are of 32 instead of 64, and the generator is the average over its "
        "steps.",
    )


class Recorded(NamedTuple):
    """A method's distance with its interval, seconds of a sample, and whether the discriminator
    that it relies on failed its validation."""

    distance: float
    low: float
    high: float
    seconds: float
    failed: bool


def recorded(name: str) -> dict[str, Recorded]:
    """The methods of a recorded comparison's table: all rows that cost time, so not real samples.
    A distance without an interval is its own."""
    lines = (RESULTS / f"{name}-comparison.md").read_text().splitlines()
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line)
    distance = "Fr\u00e9chet distance" if name != "ring" else "sliced Wasserstein distance"
    units, figures = {unit: size for size, unit in SECONDS}, {}
    for row in rows:
        cells = dict(zip(head, row, strict=True))
        if not cells["seconds"]:
            continue
        numbers = [float(text) for text in re.findall(r"\d+\.?\d*", cells[distance])]
        value, low, high = numbers if len(numbers) > 1 else numbers * 3
        price, _, unit = cells["seconds"].partition(" ")
        method, _, failed = cells["method"].partition(" (")
        seconds = float(price) * units[unit]
        figures[method] = Recorded(value, low, high, seconds, "failed validation" in failed)
    return figures


KINDS = (
    (r"GAN$", "o", DATA, "GAN"),
    (r"diffusion, (\d+ calls|Heun)", "s", FAKE, "diffusion"),
    (r"diffusion, (guided|Metro)|trained with|post-", "^", ANSWER, "with a discriminator"),
)
"""Of the methods drawn: a pattern of their names, and their mark, colour and label."""


def priced(name: str, rows: dict[str, Recorded]) -> Panel:
    """Distance against price; hollow where a discriminator failed its validation."""
    unit = "Wasserstein" if name == "ring" else "Fr\u00e9chet"
    scales = {"xscale": "log", "yscale": "log"}
    axes = axes_of("milliseconds a sample", f"{unit} distance", height=320, **scales)
    for pattern, mark, colour, label in KINDS:
        for failed in (False, True):
            points = [x for key, x in rows.items() if re.match(pattern, key) and x.failed is failed]
            if points:
                value, low, high, price, _ = torch.tensor(points).T
                bars = torch.stack([value - low, high - value]).clamp_min(0)
                style: dict[str, Any] = {"fmt": mark, "color": colour, "ms": 7, "elinewidth": 1}
                style["label"] = "its discriminator failed" if failed else label
                style["mfc"] = "none" if failed else colour
                axes.errorbar(1_000 * price, value, bars.numpy(), **style)
    caption = f"Recorded on {name}; both axes are logarithmic, bars are 95 % intervals."
    return panel(axes, f"closing-{name}", caption)


def closing(settings: "Lecture") -> Statement:
    """A diffusion model, and a little of a discriminator: from what was recorded."""
    data = {name: recorded(name) for name in ("ring", "digits", "mnist")}

    def ratio(name: str, one: str, other: str) -> float:
        return data[name][one].distance / data[name][other].distance

    guided, plain = "diffusion, guided, 18 calls, scale 2", "diffusion, 18 calls"
    beside, student = "trained with a discriminator", "post-trained, 1 call"
    harm = ratio("mnist", f"{beside}, 18 calls", plain)
    four = ratio("ring", f"{beside}, 4 calls", "diffusion, 4 calls")
    pupil = {name: ratio(name, student, plain) for name in data}
    every = [key for rows in data.values() for key in rows]
    others = sum(not any(re.match(kind[0], key) for kind in KINDS) for key in every)
    page = os.path.relpath(RESULTS / "digits-comparison.html", settings.out.absolute())
    return Statement(
        name="closing",
        short="with diffusion",
        title="A little of a discriminator: sometimes a help, sometimes harm",
        at="22:50",
        sentence="Beside diffusion from the start it did harm: "
        f"{number(harm, 2)} times the distance on MNIST, {number(four, 2)} times on the ring at "
        "four calls of the same sampler. Afterwards it may help: it guided a model of MNIST to "
        "slightly better samples, and a student post-trained with it needed one call, at "
        f"{number(pupil['ring'], 2)} times the distance of 18 on the ring and "
        f"{number(pupil['mnist'], 2)} times on MNIST.",
        checks=(
            Check("ring, 4 calls: trained with one, to without", four, 1, 0, "at least "),
            Check("MNIST, 18 calls: trained with one, to without", harm, 1, 0, "at least "),
            Check(
                "MNIST, 18 calls: guided, to not", ratio("mnist", guided, plain), 1, 0, "at most "
            ),
            Check("digits, 18 calls: guided, to not", ratio("digits", guided, plain), 1, 0.1),
            Check("ring: post-trained, 1 call, to 18 without", pupil["ring"], 1, 0.2),
            Check("MNIST: post-trained, 1 call, to 18 without", pupil["mnist"], 1, 0, "at least "),
            Check(
                "MNIST: post-trained, 1 call, to 6 without",
                ratio("mnist", student, "diffusion, 6 calls"),
                1,
                relation="at most ",
            ),
            Check(
                "digits: seconds of 18 guided calls, to the GAN's",
                data["digits"][guided].seconds / data["digits"]["GAN"].seconds,
                100,
                relation="at least ",
            ),
        ),
        panels=tuple(priced(name, rows) for name, rows in data.items()),
        note=Markup(
            "Nothing is trained here: the numbers are read from recorded comparisons, of which one "
            '<a href="{}">has a page</a> (made by experiments/compare.py, see docs/compare.md). '
            "Each is one training. A hollow mark relies on a discriminator that failed its "
            "validation, as all guides of the ring and the digits did. Not drawn: {} rows of a "
            "GAN whose samples a discriminator selects. Some of those trained with one use another "
            "sampler (Euler), with which diffusion alone was not measured."
        ).format(page, others),
    )
