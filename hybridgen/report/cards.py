"""Small pictures in rows: samples, class histograms and training curves, each with its name."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hybridgen.evaluation.results import Comparison, TrainingSummary
from hybridgen.metrics.registry import metric_of
from hybridgen.report import text
from hybridgen.report.styles import LIGHT, Style, look, styles
from hybridgen.report.svg import inline_svg

SIZE = (200, 100)
"""Of a small picture, in the pixels of the page."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A small picture with what stands below it."""

    name: str
    picture: Markup
    style: Style | None = None
    small: str = ""


def pictures(comparison: Comparison, which: str, metric: str) -> list[Card]:
    """A card of every row that has such a picture; of samples, the real ones come first."""
    styled, cards = styles(comparison.rows), []
    if which == "picture" and comparison.real_picture:
        name = "held-out examples"
        cards.append(Card(name=name, picture=_image(name, comparison.real_picture)))
    for row in comparison.rows:
        if picture := getattr(row, which):
            estimate, small = row.figures.get(metric), ""
            if estimate is not None:
                small = f"{metric_of(metric).label} {text.value_of(estimate)}"
            image, style = _image(row.name, picture), styled[row.method]
            cards.append(Card(name=row.name, picture=image, style=style, small=small))
    return cards


def histograms(comparison: Comparison) -> list[Card]:
    """The held-out classes, then those of every row that counted as many; all to one scale."""
    styled, real = styles(comparison.rows), _shares(comparison.real_histogram)
    shares: list[tuple[str, Style | None, list[float]]] = []
    if real:
        shares.append(("held-out examples", None, real))
    for row in comparison.rows:
        if any(row.histogram) and (not real or len(row.histogram) == len(real)):
            shares.append((row.name, styled[row.method], _shares(row.histogram)))
    if len(shares) <= bool(real):
        return []
    top = max(share for *_, values in shares for share in values)
    return [
        Card(
            name=name,
            style=style,
            picture=_histogram(
                name, style, values, real if style else [], top, comparison.classes, f"classes{i}"
            ),
        )
        for i, (name, style, values) in enumerate(shares)
    ]


def curves(model: TrainingSummary, prefix: str) -> list[Card]:
    """The curves of a training that have two finite values or more.

    Args:
        prefix: of all ids.
    """
    cards = []
    for number, (name, (steps, values)) in enumerate(model.curves.items()):
        pairs = zip(steps, values, strict=False)
        finite = [(s, v) for s, v in pairs if math.isfinite(s) and math.isfinite(v)]
        if len(finite) < 2:
            continue
        name = metric_of(name).label
        low, high = min(v for _, v in finite), max(v for _, v in finite)
        last, end = text.number(finite[-1][1]), text.number(finite[-1][0])
        log = low > 0 and high > 30 * low
        with look(font_size=12):
            figure = _small()
            axes = figure.add_axes((0.3, 0.06, 0.68, 0.86))
            axes.set_yscale("log" if log else "linear")
            axes.plot(
                steps[: len(values)], values[: len(steps)], color=LIGHT["accent"], gid="curve/"
            )
            axes.xaxis.set_major_locator(NullLocator())
            axes.yaxis.set_major_locator(FixedLocator([low, high]))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text.number(value)))
            label = f"{name} over {end} steps, from {text.number(low)} to {text.number(high)}"
            picture = inline_svg(figure, f"{label}, last {last}", f"{prefix}-{number}")
        title = f"{name} (log)" if log else name
        cards.append(Card(name=title, picture=picture, small=f"last {last}, step {end}"))
    return cards


def _image(name: str, picture: bytes) -> Markup:
    """A PNG as an element of the page; small ones are enlarged without smoothing."""
    width, height = (int.from_bytes(picture[i : i + 4], "big") for i in (16, 20))  # PNG's header
    source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    enlarged = Markup(' class="small"') if width <= 160 else ""
    size = Markup(' width="{}" height="{}"').format(width, height) if width and height else ""
    return Markup('<img src="{}"{} alt="{}"{}>').format(source, size, name, enlarged)


def _histogram(
    name: str,
    style: Style | None,
    shares: Sequence[float],
    real: Sequence[float],
    top: float,
    classes: Sequence[str],
    prefix: str,
) -> Markup:
    names = classes if len(classes) == len(shares) else [str(i) for i in range(len(shares))]
    texts = [f"{label}: {100 * share:.1f} %" for label, share in zip(names, shares, strict=True)]
    with look(font_size=10, axes_grid=False):
        figure = _small()
        axes = figure.add_axes((0.01, 0.16, 0.98, 0.82))
        colour = LIGHT[style.colour if style else "muted"]
        bars = axes.bar(range(len(shares)), shares, 0.76, color=colour, alpha=0.75)
        for number, bar in enumerate(bars):
            bar.set_gid(f"bar/{number}")
        if real:
            axes.stairs(real, np.arange(len(real) + 1) - 0.5, color=LIGHT["ink"], gid="outline/")
        axes.set(xlim=(-0.5, len(shares) - 0.5), ylim=(0, 1.02 * top))
        axes.yaxis.set_major_locator(NullLocator())
        short = len(names) <= 12 and max(map(len, names)) <= 2
        axes.set_xticks(
            range(len(names)) if short else [], map(text.printable, names) if short else []
        )
        axes.tick_params(length=0)
        axes.spines.left.set_visible(False)
        facts = {f"bar/{number}": [line] for number, line in enumerate(texts)}
        return inline_svg(figure, f"{name}: {', '.join(texts)}", prefix, facts)


def _small() -> Figure:
    return Figure(figsize=(SIZE[0] / 72, SIZE[1] / 72))


def _shares(counts: Sequence[int]) -> list[float]:
    return [count / sum(counts) for count in counts] if sum(counts) else []
