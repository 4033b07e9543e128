"""The same table in Markdown, for a README."""

from collections.abc import Callable, Sequence

from hybridgen.evaluation.results import Comparison, Row, metrics_of
from hybridgen.metrics.intervals import Estimate
from hybridgen.metrics.registry import CHANCES, UNRANKED, metric_of
from hybridgen.report import text as words
from hybridgen.report.ranking import best_apart

MAIN = (
    "frechet_distance",
    "sliced_wasserstein",
    "modes",
    "high_quality",
    "kid",
    "precision",
    "recall",
    "coverage",
    "class_reverse_kl",
    "reverse_kl",
    "c2st_accuracy",
)
"""Figures that a Markdown table has room for, beside the comparison's quality."""

COSTS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("denoiser calls", lambda row: _calls(row, "denoiser")),
    ("generator calls", lambda row: _calls(row, "generator")),
    ("discriminator forward", lambda row: _calls(row, "discriminator_forward")),
    ("discriminator backward", lambda row: _calls(row, "discriminator_backward")),
    ("FLOPs", lambda row: words.scaled(row.cost.flops)),
    ("seconds", lambda row: words.seconds(row.cost.seconds.value)),
    ("peak memory", lambda row: f"{words.memory(row.cost.peak_bytes)} / {row.cost.batch}"),
)


def markdown(comparison: Comparison) -> str:
    """A line for each row, after what real and perfect samples get; ends with a line break.

    Intervals are 95 %; bold is the best figure where its interval is apart from every other.
    Memory is the peak of a batch, over the number of samples in it.
    """
    main = (comparison.quality, *MAIN)
    names = [name for name in metrics_of(comparison) if name in main]
    best = {name: best_apart(comparison.rows, name) for name in names if name not in UNRANKED}
    head = ["method", *(metric_of(name).label for name in names), *(title for title, _ in COSTS)]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for which, title in (("floor", "real samples (floor)"), ("ideal", "perfect samples")):
        levels = [_level(comparison.rows, name, which) for name in names]
        if any(levels):
            lines.append([title, *levels, *[""] * len(COSTS)])
    for row in comparison.rows:
        figures = [
            _figure(name, row.figures.get(name), bold=best.get(name) is row) for name in names
        ]
        lines.append([row.name, *figures, *(write(row) for _, write in COSTS)])
    return "".join(f"| {' | '.join(map(_escaped, cells))} |\n" for cells in lines)


def _figure(name: str, estimate: Estimate | None, *, bold: bool) -> str:
    if estimate is None:
        return ""
    chance = name in CHANCES
    text = words.chance(estimate.value) if chance else words.with_interval(estimate)
    return f"**{text}**" if bold else text


def _level(rows: Sequence[Row], name: str, which: str) -> str:
    levels = (getattr(row.figures[name], which) for row in rows if name in row.figures)
    there = next((level for level in levels if level is not None), None)
    if there is None:
        return ""
    return words.chance(there) if name in CHANCES else words.number(there)


def _calls(row: Row, name: str) -> str:
    calls = row.cost.calls
    return "?" if calls is None else words.number(getattr(calls, name))


def _escaped(text: str) -> str:
    clean = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(clean.split())
