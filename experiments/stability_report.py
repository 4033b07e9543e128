"""What the tricks did: paired differences from the base, a table, pictures, the page."""

import json
import math
import sys
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from stability import BASE
from stability_effects import Effect, effects

from hybridgen.evaluation.results import provenance
from hybridgen.files import replacing, write_atomically
from hybridgen.metrics.intervals import Estimate, mean_of
from hybridgen.metrics.registry import metric_of
from hybridgen.report.charts import Card, image
from hybridgen.report.page import filled
from hybridgen.report.svg import LIGHT, LOOK, Key, inline_svg
from hybridgen.report.tables import Cell, Table, markdown_of
from hybridgen.report.text import interval_of, number, printable, value_of, with_interval
from hybridgen.report.text import p_value as p_words

if TYPE_CHECKING:
    from seeds import Figures
    from stability import Stability

KEYS = {
    "helps": Key("helps", "kind-2", "^"),
    "neutral": Key("neutral: cannot be told apart from the base", "muted", "o"),
    "harms": Key("harms", "kind-1", "v"),
    "not finite": Key("not finite in some training", "kind-3", "X"),
    "base not finite": Key("finite, where the base is not in some training", "kind-4", "s"),
}
"""Of each outcome a colour and a mark, for those who do not see colours too."""
_SIGNS = {"helps": 1, "neutral": 0, "harms": -1}

Columns = Mapping[tuple[str, str], Mapping[str, Effect]]
"""Of each set of data and measure the effects of the tricks."""
Floors = Mapping[tuple[str, str], tuple[float | None, Estimate]]
"""What real samples get, and the base's mean."""


def report(settings: "Stability", results: Mapping[str, "Figures"]) -> str:
    """Write `stability.html`, `stability.png`, `table.md` and `result.json`; the table is returned.

    Args:
        results: of every run, by its name; a figure that is missing or `None` is not finite.
    """
    seeds = range(settings.seed, settings.seed + settings.seeds)
    columns, floors, families = {}, {}, {}
    for data, (each, tricks) in settings.chosen.items():
        families[data] = family_of(settings, data)
        for measure in each.measures:
            runs = {trick: [results[f"{data}/{trick}/seed{n}"] for n in seeds] for trick in tricks}
            values = {
                trick: [math.inf if (v := run.get(measure)) is None else v for run in each_run]
                for trick, each_run in runs.items()
            }
            real = [v for r in runs[BASE] if (v := r.get(f"floor_{measure}")) is not None]
            columns[data, measure] = effects(measure, values, families[data])
            floors[data, measure] = fmean(real) if real else None, mean_of(measure, values[BASE])
    table = table_of(columns, floors)
    page = filled(
        "stability.html",
        seeds=settings.seeds,
        families=families,
        sentences=findings(columns),
        keys=list(KEYS.values()),
        panels=[panel(data, measure, rows) for (data, measure), rows in columns.items()],
        table_of_tricks=table,
        galleries={data: gallery(settings, data, columns) for data in settings.chosen},
        tricks=settings.tricks,
        provenance=provenance(
            ["experiments/stability.py", *sys.argv[1:]],
            seed=settings.seed,
            trainings={"each trick": settings.seeds},
        ),
    )
    write_atomically(settings.out / "stability.html", page)
    write_atomically(settings.out / "table.md", markdown_of(table))
    write_atomically(settings.out / "result.json", json.dumps(flat(columns, floors), indent=1))
    picture(columns, settings.out / "stability.png")
    return markdown_of(table)


def family_of(settings: "Stability", data: str) -> int:
    """How many tricks a column is corrected for: all that are configured for the set, whichever of
    them are run, and all others that have runs in the folder."""
    names = {t.name for t in settings.tricks if t.sets is None or data in t.sets}
    return len((names | {p.name for p in (settings.out / data).glob("*/")}) - {BASE})


def flat(columns: Columns, floors: Floors) -> dict[str, float | None]:
    """`data/trick/measure` is a mean, `..._change` that of its differences from the base, between
    `..._low` and `..._high`; `..._p` its p-value; `..._helps` 1 if it helps, -1 if it harms, 0 if
    neutral, and `None` if the trick or the base is not finite."""
    figures: dict[str, float] = {}
    for (data, measure), rows in columns.items():
        floor, base = floors[data, measure]
        figures |= {} if floor is None else {f"{data}/floor_{measure}": floor}
        figures[f"{data}/{BASE}/{measure}"] = base.value
        for trick, effect in rows.items():
            key = f"{data}/{trick}/{measure}"
            figures |= {key: effect.mean.value, f"{key}_change": effect.change.value}
            figures |= {f"{key}_low": effect.change.low, f"{key}_high": effect.change.high}
            figures |= {f"{key}_p": effect.p, f"{key}_helps": _SIGNS.get(effect.outcome, math.nan)}
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def table_of(columns: Columns, floors: Floors) -> Table:
    """A row a trick, a column a measure of a set: the mean and below it the change and outcome."""
    names = {key: f"{key[0]}: {metric_of(key[1]).label}" for key in columns}
    hints = {names[key]: metric_of(key[1]).direction for key in columns}
    levels = [Cell("real samples (floor)")], [Cell(BASE)]
    for floor, base in floors.values():
        levels[0].append(Cell("" if floor is None else number(floor)))
        levels[1].append(Cell(value_of(base), small=interval_of(base)))
    lines = []
    for trick in dict.fromkeys(chain(*columns.values())):
        cells = [Cell(trick, trick)]
        for rows in columns.values():
            if (effect := rows.get(trick)) is None:
                cells.append(Cell(""))
                continue
            key, change = KEYS[effect.outcome], effect.change
            words = f"{effect.outcome}, p {p_words(effect.p)}: {with_sign(change)}"
            finite = math.isfinite(change.value)
            mean = f"{key.symbol} {value_of(effect.mean)}" if finite else key.symbol
            order = f"{effect.mean.value:.9g}" if finite else ""
            best = effect.outcome == "helps"
            cells.append(Cell(mean, order, words if finite else effect.outcome, best))
        lines.append(cells)
    return Table({"trick": ""} | hints, lines, levels)


def with_sign(change: Estimate) -> str:
    """A change and its interval, such as "+0.12 (0.05 to 0.19)"."""
    return "+" * (change.value > 0) + with_interval(change)


def findings(columns: Columns) -> list[str]:
    """A sentence on each measure of each set."""
    sentences = []
    for (data, measure), rows in columns.items():
        parts = []
        for key, words in (
            ("helps", "helped by {}"),
            ("harms", "harmed by {}"),
            ("not finite", "with {} not finite"),
            ("base not finite", "the base is not finite, {} finite"),
        ):
            names = ", ".join(name for name, effect in rows.items() if effect.outcome == key)
            parts += [words.format(names)] * bool(names)
        result = "; ".join(parts) or "no trick can be told apart from the base"
        sentences.append(f"{metric_of(measure).label} on {data}: {result}.")
    return sentences


def panel(data: str, measure: str, rows: Mapping[str, Effect]) -> tuple[str, Markup]:
    """The title and the picture of a measure of a set."""
    with rc_context(LOOK | {"font.size": 11}):
        height = 54 + 19 * len(rows)
        figure = Figure(figsize=(5, height / 72))
        axes = figure.add_axes((0.34, 46 / height, 0.63, 1 - 54 / height))
        facts = draw(axes, data, measure, rows)
        title = f"{data}: {metric_of(measure).label}"
        label = f"{title}: {'; '.join(line[0] for line in facts.values())}"
        return title, inline_svg(figure, label, f"{data}-{measure}", facts)


def draw(axes: Axes, data: str, measure: str, rows: Mapping[str, Effect]) -> dict[str, list[str]]:
    """Each trick's change of a measure with its interval and the differences of all seeds, the
    better the further to the right; what pointing at it shows.

    The axis is logarithmic away from zero if one change is over 20 times the middle one.
    """
    finite = {name: row for name, row in rows.items() if math.isfinite(row.change.value)}
    changes = sorted(abs(row.change.value) for row in finite.values())
    scale = "right is better"
    if changes and changes[-1] > 20 * (middle := changes[len(changes) // 2]) > 0:
        axes.set_xscale("symlog", linthresh=middle)
        scale += f"; logarithmic beyond {number(middle)}"
    axes.axvline(0, color=LIGHT["ink"], linewidth=1)
    facts = {}
    for place, (name, row) in enumerate(rows.items()):
        key, change = KEYS[row.outcome], row.change
        colour, gid = LIGHT[key.colour], f"point/{data}-{measure}-{place}"
        facts[gid] = [f"{name}: {row.outcome}"]
        if name not in finite:
            where = {
                "transform": axes.get_yaxis_transform(),
                "gid": gid,
            }  # at the worst or best end
            axes.plot(
                0.98 if row.outcome == "base not finite" else 0.02,
                place,
                key.mark,
                color=colour,
                markersize=7,
                **where,
            )
            continue
        facts[gid][0] += f", {with_sign(change)}, p {p_words(row.p)}"
        axes.plot([change.low, change.high], [place, place], color=colour, linewidth=2)
        axes.plot(
            row.differences, [place] * len(row.differences), "|", color=colour, ms=6, alpha=0.6
        )
        axes.plot(change.value, place, key.mark, color=colour, gid=gid, markersize=7, zorder=4)
    axes.set_yticks(range(len(rows)), [printable(name) for name in rows], color=LIGHT["ink"])
    axes.tick_params(axis="y", length=0)
    axes.spines.left.set_visible(False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    if metric_of(measure).better == "lower":
        axes.invert_xaxis()
    axes.xaxis.set_major_formatter(lambda value, _: number(value))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"change from the base ({scale})", loc="right")
    return facts


def picture(columns: Columns, path: Path) -> None:
    """The first measure of each set as a PNG."""
    firsts: dict[str, str] = {}
    for data, measure in columns:
        firsts.setdefault(data, measure)
    with rc_context(LOOK | {"font.size": 8, "axes.titlesize": 9}):
        tallest = max(len(columns[first]) for first in firsts.items())
        size = (1 + 3.2 * len(firsts), 0.9 + 0.17 * tallest)
        figure = Figure(figsize=size, layout="constrained")
        places, named = figure.subplots(1, len(firsts), squeeze=False).flat, []
        for axes, (data, measure) in zip(places, firsts.items(), strict=True):
            draw(axes, data, measure, columns[data, measure])
            axes.set_title(f"{data}: {metric_of(measure).label}")
            before, named = named, list(columns[data, measure])
            axes.tick_params(labelleft=named != before)
        with replacing(path) as file:
            figure.savefig(file, format="png", dpi=150)


def gallery(settings: "Stability", data: str, columns: Columns) -> list[Card]:
    """Samples of the first seed of the base and of every trick, with the outcome of the set's first
    measure."""
    each, tricks = settings.chosen[data]
    measure, cards = each.measures[0], []
    for trick in tricks:
        path = settings.out / data / trick / f"seed{settings.seed}" / "samples.png"
        effect = columns[data, measure].get(trick)
        key = KEYS[effect.outcome] if effect else None
        small = f"{metric_of(measure).label} {value_of(effect.mean)}" if effect else ""
        if path.is_file():
            cards.append(Card(image(f"{trick}, {data}", path.read_bytes()), trick, key, small))
    return cards
