"""Quality against denoiser calls, with uncertainty: rows, a Markdown table and a picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hybridgen.evaluation.plots import COLOURS, LINEAR


@dataclass(frozen=True)
class Row:
    """One method at one budget.

    Attributes:
        method: its name.
        calls: denoiser calls a sample.
        means: metric -> mean over repeats.
        errors: metric -> standard error of that mean; 0 for a single repeat.
        repeats: training seeds, or sampling seeds of a single training.
    """

    method: str
    calls: int
    means: Mapping[str, float]
    errors: Mapping[str, float]
    repeats: int


def row(method: str, calls: int, repeats: Sequence[Mapping[str, float]]) -> Row:
    """Mean and standard error of each figure over `repeats`.

    A figure that is infinite once has an infinite mean.
    """
    if not repeats:
        raise ValueError(f"{method} at {calls} calls has no figures to average")
    names = repeats[0].keys()
    values = {name: [repeat[name] for repeat in repeats] for name in names}
    means = {name: fmean(v) for name, v in values.items()}
    errors = {name: _standard_error(v) for name, v in values.items()}
    return Row(method, calls, means, errors, len(repeats))


def markdown(rows: Sequence[Row], metric: str, floor: float | None) -> str:
    """A table of one metric: a line for each method, a column for each budget."""
    budgets = sorted({r.calls for r in rows})
    lines = [
        f"| {metric.replace('_', ' ')} | " + " | ".join(f"{b} calls" for b in budgets) + " |",
        "| --- " * (len(budgets) + 1) + "|",
    ]
    for method in dict.fromkeys(r.method for r in rows):
        known = {r.calls: r for r in rows if r.method == method}
        cells = [_cell(known[b], metric) if b in known else "" for b in budgets]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    if floor is not None:
        lines.append("| perfect samples | " + " | ".join([f"{floor:.3g}"] * len(budgets)) + " |")
    return "\n".join(lines) + "\n"


def draw(
    rows: Sequence[Row], metrics: Sequence[str], floors: Mapping[str, float], path: Path
) -> None:
    """One panel a metric: its mean against the calls, with bars of one standard error."""
    figure = Figure(figsize=(4.2 * len(metrics), 3.2), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for method, colour in zip(
            dict.fromkeys(r.method for r in rows), COLOURS * len(rows), strict=False
        ):
            own = sorted(
                (r for r in rows if r.method == method and math.isfinite(r.means[metric])),
                key=lambda r: r.calls,
            )
            axes.errorbar(
                [r.calls for r in own],
                [r.means[metric] for r in own],
                [r.errors[metric] for r in own],
                color=colour,
                marker="o",
                markersize=3.5,
                linewidth=1.3,
                capsize=2,
                label=method,
            )
        floor = floors.get(f"floor_{metric}")
        if floor is not None:
            axes.axhline(
                floor, color="#777777", linestyle="--", linewidth=0.9, label="perfect samples"
            )
        values = [r.means[metric] for r in rows if math.isfinite(r.means[metric])]
        if (
            metric not in {*LINEAR, "mode_std"}
            and values
            and min(values) > 0
            and max(values) > 8 * min(values)
        ):
            axes.set_yscale("log")
        budgets = sorted({r.calls for r in rows})
        axes.set_xscale("log")
        axes.set_xticks(budgets, [str(b) for b in budgets])
        axes.minorticks_off()
        axes.set_xlabel("denoiser calls", fontsize=8)
        axes.set_title(metric.replace("_", " "), fontsize=9, loc="left")
        axes.tick_params(labelsize=7)
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=7, frameon=False)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=160)


def flat(rows: Sequence[Row]) -> dict[str, float]:
    """`method/metric@calls` -> mean, and `..._se` -> its standard error."""
    figures: dict[str, float] = {}
    for r in rows:
        for metric, mean in r.means.items():
            figures[f"{r.method}/{metric}@{r.calls}"] = mean
            figures[f"{r.method}/{metric}@{r.calls}_se"] = r.errors[metric]
    return figures


def _standard_error(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    if not all(map(math.isfinite, values)):
        return math.inf
    return stdev(values) / math.sqrt(len(values))


def _cell(r: Row, metric: str) -> str:
    mean, error = r.means[metric], r.errors[metric]
    if not math.isfinite(mean):
        return "infinite"
    return f"{mean:.3g}" + (f" ± {error:.2g}" if r.repeats > 1 else "")
