"""The charts: what quality costs in seconds and in denoiser calls."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from hybridgen.evaluation.results import Comparison, Row
from hybridgen.metrics.intervals import Estimate
from hybridgen.metrics.registry import metric_of
from hybridgen.report import text
from hybridgen.report.ranking import dominated, finite_rows, ranked
from hybridgen.report.styles import LIGHT, Style, look, styles
from hybridgen.report.svg import inline_svg

WIDE, NARROW = (900, 380), (360, 340)
"""Sizes of a chart in the pixels of the page."""
LEVELS = {"floor": ("real samples (floor)", "--"), "ideal": ("perfect samples", ":")}


class Reference(NamedTuple):
    """A line across a chart: its colour, its dashes, and what it is."""

    colour: str
    dashes: str
    label: str


class Chart(NamedTuple):
    """A chart for the page: drawn for wide screens, and for narrow ones too if it is the main one.

    `note` says what it does not show.
    """

    metric: str
    title: str
    pictures: list[Markup]
    references: list[Reference]
    note: str


Draw = Callable[[Axes, Sequence[Row], str, Mapping[str, Style]], list[Reference]]


def front_chart(comparison: Comparison, metric: str) -> Chart | None:
    """Quality against seconds; `None` if no row has both."""
    rows = finite_rows(comparison.rows, metric)
    if not rows:
        return None
    beaten = dominated(rows, metric)
    front = "; ".join(row.name for row, worse in zip(rows, beaten, strict=True) if not worse)
    against = f"against seconds a sample for {len(rows)} rows. Not beaten in both: {front}"
    return _chart(comparison, metric, rows, "front", against, draw_front)


def calls_chart(comparison: Comparison, metric: str) -> Chart | None:
    """Quality against denoiser calls; `None` unless rows differ in them."""
    rows = finite_rows(comparison.rows, metric)
    walks = [row for row in rows if _calls(row).value > 0]
    if len({_calls(row).value for row in walks}) < 2:
        return None
    methods = ", ".join(dict.fromkeys(row.method for row in walks))
    against = f"against denoiser calls a sample: {methods}"
    return _chart(comparison, metric, rows, "calls", against, draw_calls)


def draw_front(
    axes: Axes, rows: Sequence[Row], metric: str, styled: Mapping[str, Style]
) -> list[Reference]:
    """Quality against seconds: rows with intervals in both directions, steps along the rows that
    none beats, and floors.

    Args:
        rows: with finite figures and seconds.
    """
    times = [row.cost.seconds for row in rows]
    ends = [end for time in times for end in (time.low, time.value, time.high)]
    ends = [end for end in ends if math.isfinite(end) and end > 0]
    _log_axis(axes, "x", ends, partial(text.seconds, padded=False))
    references = _levels(axes, rows, metric)
    beaten = dominated(rows, metric)
    faded = [id(row) for row, worse in zip(rows, beaten, strict=True) if worse]
    front = {r.cost.seconds.value: r.figures[metric].value for r in rows if id(r) not in faded}
    if len(front) > 1:
        x = [*sorted(front), axes.get_xlim()[1]]
        y = [front[seconds] for seconds in sorted(front)]
        axes.step(x, [*y, y[-1]], where="post", color=LIGHT["ink"], alpha=0.5, gid="front/")
    _rows(axes, rows, metric, styled, lambda row: row.cost.seconds, faded)
    batches = text.listed([text.count(n) for n in sorted({row.cost.batch for row in rows})])
    axes.set_xlabel(f"time a sample, batches of {batches}", loc="right")
    return references


def draw_calls(
    axes: Axes, rows: Sequence[Row], metric: str, styled: Mapping[str, Style]
) -> list[Reference]:
    """Quality against denoiser calls: a line for each method that makes some, and floors.

    The best row of every other method is a line across, with its interval.
    """
    walks = [row for row in rows if _calls(row).value > 0]
    passes: dict[str, Row] = {}
    for row in ranked(rows, metric):
        if _calls(row).value == 0:
            passes.setdefault(row.method, row)
    _log_axis(axes, "x", [_calls(row).value for row in walks], text.number)
    reach = math.log(axes.get_xlim()[1] / axes.get_xlim()[0])
    ticks: list[float] = []
    for value in sorted({_calls(row).value for row in walks}):
        if not ticks or math.log(value / ticks[-1]) > 0.09 * reach:
            ticks.append(value)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    references = _levels(axes, [*walks, *passes.values()], metric)
    for method, row in passes.items():
        figure, colour = row.figures[metric], styled[method].colour
        axes.axhline(figure.value, color=LIGHT[colour], linewidth=1.3, gid="across/")
        ends = np.clip([figure.low, figure.high], *axes.get_ylim())
        axes.axhspan(*ends, color=LIGHT[colour], alpha=0.1, linewidth=0)
        references.append(Reference(colour, "-", f"{row.name} {text.value_of(figure)}"))
    _rows(axes, walks, metric, styled, _calls)
    axes.set_xlabel("denoiser calls a sample", loc="right")
    return references


def facts_of(row: Row, metric: str) -> list[str]:
    """What hovering over a row shows, one thing each: name, figure, seconds and calls."""
    time, calls = row.cost.seconds, row.cost.calls
    facts = [
        row.name,
        f"{metric_of(metric).label} {text.with_interval(row.figures[metric])}",
        f"{text.seconds_with_interval(time)} a sample",
    ]
    if calls is not None:
        counts = {name: getattr(calls, name) for name in text.NETWORKS}
        parts = [f"{text.number(n)} {name.replace('_', ' ')}" for name, n in counts.items() if n]
        facts.append(f"calls: {', '.join(parts) or 'none'}")
    return facts


def chart_title(comparison: Comparison, metric: str) -> str:
    """Metric, what it is measured on if its name does not say it, and which way is better."""
    entry = metric_of(metric)
    features = comparison.features if metric == "frechet_distance" else ""
    label = f"{entry.label} of {features} features" if features else entry.label
    return text.printable(f"{label} ({entry.direction})" if entry.direction else label)


def _chart(
    comparison: Comparison, metric: str, rows: Sequence[Row], name: str, against: str, draw: Draw
) -> Chart:
    facts = {f"point/{id(row)}": facts_of(row, metric) for row in rows}
    label = f"{metric_of(metric).label} {against}"
    pictures, references = [], []
    for width, height in (WIDE, NARROW) if metric == comparison.quality else (WIDE,):
        with look():
            figure = Figure(figsize=(width / 72, height / 72))
            axes = figure.add_axes((60 / width, 48 / height, 1 - 70 / width, 1 - 58 / height))
            references = draw(axes, rows, metric, styles(comparison.rows))
            pictures.append(inline_svg(figure, label, f"{name}-{metric}-{width}", facts))
    drawn = [id(row) for row in rows]
    lost = [r.name for r in comparison.rows if metric in r.figures and id(r) not in drawn]
    note = f"Not drawn, because a figure is not finite: {', '.join(lost)}." if lost else ""
    return Chart(metric, chart_title(comparison, metric), pictures, references, note)


def _calls(row: Row) -> Estimate:
    """Denoiser calls a sample; 0 for a sampler that makes or counts none."""
    calls = row.cost.calls.denoiser if row.cost.calls is not None else 0.0
    return Estimate(value=calls, low=calls, high=calls)


def _rows(
    axes: Axes,
    rows: Sequence[Row],
    metric: str,
    styled: Mapping[str, Style],
    price: Callable[[Row], Estimate],
    faded: Collection[int] = (),
) -> None:
    """A mark with intervals for each row, and a line through the best of a method at each price."""
    lines: dict[str, dict[float, float]] = {}
    for row in ranked(rows, metric):
        line = lines.setdefault(row.method, {})
        line.setdefault(price(row).value, row.figures[metric].value)
    for method, line in lines.items():
        y = [line[x] for x in sorted(line)]
        colour = LIGHT[styled[method].colour]
        axes.plot(sorted(line), y, color=colour, alpha=0.6, linewidth=1.2, zorder=1, gid="line/")
    for row in rows:
        x, y, style = price(row), row.figures[metric], styled[row.method]
        order, alpha = (2, 0.5) if id(row) in faded else (4, 1.0)
        colour = {"color": LIGHT[style.colour], "alpha": alpha}
        across, upright = _ends(x, axes.get_xlim()), _ends(y, axes.get_ylim())
        axes.plot(
            *([*across, math.nan, x.value, x.value], [y.value, y.value, math.nan, *upright]),
            **colour,
            zorder=order,
            linewidth=1.4,
        )
        axes.plot(
            *([x.value], [y.value], style.mark),
            **colour,
            zorder=order + 1,
            clip_on=False,
            markeredgecolor=LIGHT["surface"],
            gid=f"point/{id(row)}",
        )


def _ends(estimate: Estimate, limits: tuple[float, float]) -> Sequence[float]:
    """An interval inside an axis; what has no end reaches to the end of the axis."""
    ends = [estimate.value if math.isnan(e) else e for e in (estimate.low, estimate.high)]
    return np.clip(ends, *limits).tolist()


def _levels(axes: Axes, rows: Sequence[Row], metric: str) -> list[Reference]:
    """Scale the upright axis for all intervals, and draw what real and perfect samples get.

    The axis is logarithmic for metrics of which less is better if all figures are positive and more
    than a factor of 8 apart; levels at zero are then left out, and intervals that reach there are
    cut.
    """
    figures = [row.figures[metric] for row in rows]
    values = [figure.value for figure in figures]
    log = not metric_of(metric).linear and 0 < 8 * min(values) < max(values)
    least = min(values) / 3 if log else -math.inf
    nearest = metric_of(metric).better
    levels = {name: [getattr(figure, name) for figure in figures] for name in LEVELS}
    levels["ideal"].append(nearest if isinstance(nearest, float) else None)
    references = []
    for name, (label, dashes) in LEVELS.items():
        finite = [x for x in levels[name] if x is not None and math.isfinite(x)]
        if finite and (finite[0] > 0 or not log):
            values.append(finite[0])
            axes.axhline(finite[0], color=LIGHT["muted"], ls=dashes, linewidth=1.3, gid=f"{name}/")
            references.append(Reference("muted", dashes, f"{label} {text.number(finite[0])}"))
    ends = [end for figure in figures for end in (figure.low, figure.high)]
    values += [end for end in ends if math.isfinite(end) and end > least]
    if log:
        _log_axis(axes, "y", values, text.number)
        return references
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) if high - low > 1e-12 * abs(high) else abs(low) / 10 or 0.5
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text.number(value)))
    return references


def _log_axis(
    axes: Axes, which: str, values: Sequence[float], write: Callable[[float], str]
) -> None:
    """Equal ratios equally far apart, a little wider than positive `values`, ticks with room."""
    low, high = min(values), max(values)
    if high < 1.5 * low:
        low, high = low / 1.3, high * 1.3
    decades = math.log10(high / low)
    axes.set(**{f"{which}scale": "log"})
    axes.set(**{f"{which}lim": (low / 10 ** (0.06 * decades), high * 10 ** (0.06 * decades))})
    axis, size, label = (
        (axes.xaxis, axes.bbox.width, 75) if which == "x" else (axes.yaxis, axes.bbox.height, 30)
    )
    room = size / label / decades
    subs = (1.0, 2.0, 5.0) if room > 3.3 else (1.0, 3.0) if room > 2.1 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
