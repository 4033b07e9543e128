"""What the page draws: quality against seconds and denoiser calls, class histograms, curves of
trainings, and rows of pictures."""

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from hybridgen.evaluation.results import Comparison, Row, TrainingSummary, metrics_of
from hybridgen.metrics.intervals import Estimate
from hybridgen.metrics.registry import metric_of
from hybridgen.report import text
from hybridgen.report.ranking import calls_of, dominated, finite_rows, ranked
from hybridgen.report.svg import LIGHT, LOOK, Key, inline_svg, keys

WIDE, NARROW, SMALL = (900, 380), (360, 340), (200, 100)
"""Sizes in the pixels of the page."""
LEVELS = {"floor": ("real samples (floor)", "--"), "ideal": ("perfect samples", ":")}
REAL = "held-out examples"


class Chart(NamedTuple):
    """A chart for the page: drawn for wide screens, and for narrow ones too if it is the main one.

    `note` says what it does not show.
    """

    title: str
    pictures: list[Markup]
    legend: list[Key]
    note: str


class Card(NamedTuple):
    """A small picture with what stands below it; without a key it is no row's."""

    picture: Markup
    name: str
    key: Key | None = None
    small: str = ""


class Mark(NamedTuple):
    """A row in a chart: its price and its figure, the key of its method, and whether another row is
    at least as good and as fast."""

    row: Row
    x: Estimate
    y: Estimate
    key: Key
    beaten: bool


def charts(comparison: Comparison, price: str) -> list[Chart]:
    """One for each metric that ranks rows, but for those that `draw` has nothing for."""
    drawings = []
    for metric in [n for n in metrics_of(comparison) if metric_of(n).better is not None]:
        marks, pictures, legend = marks_of(comparison, metric, price), [], []
        facts = {f"point/{id(mark.row)}": _facts(mark, metric) for mark in marks}
        title = chart_title(comparison, metric)
        for width, height in (WIDE, NARROW) if metric == comparison.quality else (WIDE,):
            with rc_context(LOOK):
                figure, axes = _figure(width, height, 60, 48, width - 70, height - 58)
                legend = draw(axes, marks, metric, price)
                label = f"{title}, {axes.get_xlabel()}"
                pictures.append(inline_svg(figure, label, f"{price}-{metric}-{width}", facts))
        drawn = {mark.row.name for mark in marks}
        lost = [r.name for r in comparison.rows if metric in r.figures and r.name not in drawn]
        note = f"Not drawn, because a figure is not finite: {', '.join(lost)}." if lost else ""
        if legend:
            drawings.append(Chart(title, pictures, legend, note))
    return drawings


def marks_of(comparison: Comparison, metric: str, price: str = "seconds") -> list[Mark]:
    """Of rows with a finite figure and time, the best first; `price` is the "seconds" of a sample,
    or its "calls" of a denoiser: 0 if it makes or counts none."""
    rows, signs = ranked(finite_rows(comparison.rows, metric), metric), keys(comparison.rows)
    marks = []
    for row, beaten in zip(rows, dominated(rows, metric), strict=True):
        calls = calls_of(row).denoiser
        x = Estimate(value=calls, low=calls, high=calls) if price == "calls" else row.cost.seconds
        marks.append(Mark(row, x, row.figures[metric], signs[row.method], beaten))
    return marks


def draw(axes: Axes, marks: Sequence[Mark], metric: str, price: str = "seconds") -> list[Key]:
    """Quality against price: rows with their intervals, and what real and perfect samples get.

    A line joins the best rows of a method at each price. Over seconds steps go along the rows that
    none beats in both, and the others are faded; over calls the best row of a method that makes
    none is a line across, with its interval.

    Returns:
        The legend; empty, with nothing drawn, without marks, or if all make equally many calls.
    """
    walks, timed = [mark for mark in marks if mark.x.value > 0], price == "seconds"
    at = sorted({mark.x.value for mark in walks})
    if len(at) < (1 if timed else 2):
        return []
    ends = [end for mark in walks for end in (mark.x.low, mark.x.value, mark.x.high)]
    _log_axis(axes.xaxis, ends, partial(text.seconds, padded=False) if timed else text.number)
    legend = list(dict.fromkeys(mark.key for mark in walks))
    legend += _levels(axes, [mark.y for mark in marks], metric)
    lines: dict[Key, dict[float, Mark]] = {}
    for mark in marks:
        lines.setdefault(mark.key, {}).setdefault(mark.x.value, mark)
    for key, line in lines.items():
        colour = LIGHT[key.colour]
        if passing := line.get(0.0):
            axes.axhline(passing.y.value, color=colour, linewidth=1.3, gid="across/")
            low, high = _ends(passing.y, axes.get_ylim())
            axes.axhspan(low, high, color=colour, alpha=0.1, lw=0)
            legend.append(Key(f"{passing.row.name} {text.value_of(passing.y)}", key.colour))
        else:
            y = [line[x].y.value for x in sorted(line)]
            axes.plot(sorted(line), y, color=colour, alpha=0.6, lw=1.2, zorder=1, gid="line/")
    for mark in walks:
        order, alpha = (2, 0.5) if mark.beaten and timed else (4, 1.0)
        paint = {"color": LIGHT[mark.key.colour], "alpha": alpha, "zorder": order}
        axes.plot(_ends(mark.x, axes.get_xlim()), [mark.y.value] * 2, lw=1.4, **paint)
        axes.plot([mark.x.value] * 2, _ends(mark.y, axes.get_ylim()), lw=1.4, **paint)
        paint |= {"zorder": order + 1, "markeredgecolor": LIGHT["surface"], "clip_on": False}
        place = f"point/{id(mark.row)}"
        axes.plot(mark.x.value, mark.y.value, mark.key.mark, gid=place, **paint)
    if timed:
        front = sorted((mark.x.value, mark.y.value) for mark in marks if not mark.beaten)
        x, y = zip(*front, (axes.get_xlim()[1], front[-1][1]), strict=True)
        axes.step(x, y, where="post", color=LIGHT["ink"], alpha=0.5, gid="front/")
        batches = ", ".join(text.grouped(n) for n in sorted({m.row.cost.batch for m in marks}))
        axes.set_xlabel(f"time a sample, batches of {batches}", loc="right")
    else:
        ticks = at[:1]
        for value in at:
            if value > ticks[-1] * (at[-1] / at[0]) ** 0.09:
                ticks.append(value)
        axes.set_xticks(ticks)
        axes.set_xlabel("denoiser calls a sample", loc="right")
    return legend


def chart_title(comparison: Comparison, metric: str) -> str:
    """Metric, what it is measured on if its name does not say it, and which way is better."""
    entry = metric_of(metric)
    features = f" on {comparison.features}" if metric == "frechet_distance" else ""
    return text.printable(f"{entry.label}{features} ({entry.direction})")


def pictures(comparison: Comparison, which: str, metric: str) -> list[Card]:
    """A card of every row that has such a picture; of samples, the real ones come first."""
    signs, cards = keys(comparison.rows), []
    if which == "picture" and comparison.real_picture:
        cards.append(Card(image(REAL, comparison.real_picture), REAL))
    for row in comparison.rows:
        if picture := getattr(row, which):
            estimate = row.figures.get(metric)
            small = f"{metric_of(metric).label} {text.value_of(estimate)}" if estimate else ""
            cards.append(Card(image(row.name, picture), row.name, signs[row.method], small))
    return cards


def histograms(comparison: Comparison) -> list[Card]:
    """The held-out classes, then those of every row that counted as many; all to one scale."""
    real, signs = comparison.real_histogram, keys(comparison.rows)
    rows = [r for r in comparison.rows if any(r.histogram) and len(r.histogram) == len(real)]
    if not any(real) or not rows:
        return []
    shares = [[n / sum(counts) for n in counts] for counts in (real, *(r.histogram for r in rows))]
    top, names, cards = max(map(max, shares)), comparison.classes, []
    if len(names) != len(real):
        names = tuple(map(str, range(len(real))))
    short = len(names) <= 12 and max(map(len, names)) <= 2
    for number, (row, heights) in enumerate(zip([None, *rows], shares, strict=True)):
        name, key = (row.name, signs[row.method]) if row else (REAL, None)
        texts = [f"{c}: {100 * share:.1f} %" for c, share in zip(names, heights, strict=True)]
        with rc_context(LOOK | {"font.size": 10, "axes.grid": False}):
            figure, axes = _figure(*SMALL, 2, 16, 196, 82)
            colour = LIGHT[key.colour if key else "muted"]
            bars = axes.bar(range(len(heights)), heights, 0.76, color=colour, alpha=0.75)
            for i, bar in enumerate(bars):
                bar.set_gid(f"bar/{i}")
            if key:
                edges = np.arange(len(real) + 1) - 0.5
                axes.stairs(shares[0], edges, color=LIGHT["ink"], gid="outline/")
            axes.set_xticks(range(len(names)), [text.printable(n) if short else "" for n in names])
            axes.set(xlim=(-0.5, len(real) - 0.5), ylim=(0, 1.02 * top), yticks=[])
            axes.tick_params(length=0)
            axes.spines.left.set_visible(False)
            facts = {f"bar/{i}": [line] for i, line in enumerate(texts)}
            label = f"{name}: {', '.join(texts)}"
            cards.append(Card(inline_svg(figure, label, f"classes{number}", facts), name, key))
    return cards


def curves(model: TrainingSummary, prefix: str) -> list[Card]:
    """The curves of a training that have two finite values or more; ids begin with `prefix`."""
    cards = []
    for number, (name, (steps, values)) in enumerate(model.curves.items()):
        finite = [(v, s) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
        if len(finite) < 2:
            continue
        low, high, (last, end) = min(finite)[0], max(finite)[0], finite[-1]
        name, scale = metric_of(name).label, "log" if 0 < 30 * low < high else "linear"
        with rc_context(LOOK):
            figure, axes = _figure(*SMALL, 60, 6, 136, 86)
            axes.set_yscale(scale)
            axes.plot(steps, values, color=LIGHT["accent"], gid="curve/")
            axes.set(xticks=[], yticks=[low, high], yticklabels=map(text.number, (low, high)))
            axes.minorticks_off()
            small = f"last {text.number(last)}, step {text.number(end)}"
            label = f"{name} from {text.number(low)} to {text.number(high)}, {small}"
            picture = inline_svg(figure, label, f"{prefix}-{number}")
        cards.append(Card(picture, f"{name} (log)" if scale == "log" else name, small=small))
    return cards


def image(name: str, picture: bytes) -> Markup:
    """A PNG as an element of the page; small ones are enlarged without smoothing."""
    width, height = (int.from_bytes(picture[i : i + 4], "big") for i in (16, 20))  # PNG's header
    source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    enlarged = "small" if width <= 160 else ""
    element = '<img src="{}" width="{}" height="{}" alt="{}" class="{}">'
    return Markup(element).format(source, width, height, name, enlarged)


def _figure(width: int, height: int, *place: int) -> tuple[Figure, Axes]:
    """With axes at left, bottom, width, height; all in pixels."""
    figure = Figure(figsize=(width / 72, height / 72))
    bounds: Any = np.divide(place, (width, height) * 2)
    return figure, figure.add_axes(bounds)


def _facts(mark: Mark, metric: str) -> list[str]:
    """What hovering over a row shows, one thing each."""
    time, calls = mark.row.cost.seconds, mark.row.cost.calls
    interval = f" ({text.span(time)})" if text.span(time) else ""
    facts = [
        mark.row.name,
        f"{metric_of(metric).label} {text.with_interval(mark.y)}",
        f"{text.seconds(time.value)}{interval} a sample",
    ]
    if calls is not None:
        parts = [f"{text.number(n)} {k.replace('_', ' ')}" for k, n in asdict(calls).items() if n]
        facts.append(f"calls: {', '.join(parts) or 'none'}")
    return facts + ["another row is at least as good and as fast"] * mark.beaten


def _ends(estimate: Estimate, limits: tuple[float, float]) -> list[float]:
    """An interval inside an axis; what has no end reaches to the end of the axis."""
    ends = [estimate.value if math.isnan(e) else e for e in (estimate.low, estimate.high)]
    return np.clip(ends, *limits).tolist()


def _levels(axes: Axes, figures: Sequence[Estimate], metric: str) -> list[Key]:
    """Scale the upright axis for all intervals, and draw what real and perfect samples get.

    The axis is logarithmic for metrics of which less is better if all figures are positive and more
    than a factor of 8 apart; levels at zero are then left out, and intervals that reach there are
    cut.
    """
    values = [figure.value for figure in figures]
    log = metric_of(metric).better == "lower" and 0 < 8 * min(values) < max(values)
    least = min(values) / 3 if log else -math.inf
    nearest = metric_of(metric).better
    levels = {name: [getattr(figure, name) for figure in figures] for name in LEVELS}
    levels["ideal"].append(nearest if isinstance(nearest, float) else None)
    legend = []
    for name, (label, dashes) in LEVELS.items():
        finite = [x for x in levels[name] if x is not None and math.isfinite(x)]
        if finite and (finite[0] > 0 or not log):
            values.append(finite[0])
            axes.axhline(finite[0], color=LIGHT["muted"], ls=dashes, linewidth=1.3, gid=f"{name}/")
            legend.append(Key(f"{label} {text.number(finite[0])}", "muted", dashes=dashes))
    ends = [end for figure in figures for end in (figure.low, figure.high)]
    values += [end for end in ends if math.isfinite(end) and end > least]
    if log:
        _log_axis(axes.yaxis, values, text.number)
        return legend
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) if high - low > 1e-12 * abs(high) else abs(low) / 10 or 0.5
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_formatter(lambda value, _: text.number(value))
    return legend


def _log_axis(axis: XAxis | YAxis, values: Sequence[float], write: Callable[[float], str]) -> None:
    """Equal ratios equally far apart, a little wider than the positive `values`, ticks with
    room."""
    positive = [value for value in values if 0 < value < math.inf]
    low, high = min(positive), max(positive)
    if high < 1.5 * low:
        low, high = low / 1.3, high * 1.3
    margin = (high / low) ** 0.06
    name, limits = axis.axis_name, (low / margin, high * margin)
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": limits})
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
    axis.minorticks_off()
    axis.set_major_formatter(lambda value, _: write(value))
