"""From a comparison to the text of its page, and to a file."""

import base64
import re
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from hybridgen.evaluation.results import Comparison, Row, metrics_of
from hybridgen.metrics.registry import UNRANKED, direction, metric_of
from hybridgen.report import text as words
from hybridgen.report.calls import calls_chart
from hybridgen.report.charts import SIZES
from hybridgen.report.findings import headline
from hybridgen.report.front import front_chart
from hybridgen.report.galleries import best_of_kinds, gallery
from hybridgen.report.palette import DARK, LIGHT, Look, looks
from hybridgen.report.remarks import counted, unequal_trainings
from hybridgen.report.small import curves, histograms
from hybridgen.report.tables import cost_table, quality_table, trainings_table, two_sample_table
from hybridgen.training.checkpoint import write_atomically


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG in the page, and what stands below it."""

    name: str
    look: Look | None
    source: str
    width: int
    height: int
    figure: str = ""

    @property
    def small(self) -> bool:
        """Whether it will be enlarged."""
        return self.width <= 160


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page as one file that needs no other and no network."""
    write_atomically(path, render(comparison).encode(errors="replace"))


def render(comparison: Comparison) -> str:
    """The text of the page."""
    looked = looks(row.kind for row in comparison.rows)
    names = metrics_of(comparison)
    ranked = [name for name in names if name not in UNRANKED]
    fronts = [front_chart(comparison.rows, name, looked) for name in ranked]
    walks = [calls_chart(comparison.rows, name, looked) for name in ranked]
    best = best_of_kinds(comparison.rows, comparison.quality)
    parted = partial(gallery, rows=comparison.rows, shown=best)
    return (
        _environment()
        .get_template("page.html")
        .render(
            comparison=comparison,
            headline=headline(comparison),
            looks=list(looked.values()),
            themes={"light": Markup(LIGHT.variables()), "dark": Markup(DARK.variables())},
            charts=[
                ("front", [chart for chart in fronts if chart is not None]),
                ("calls", [chart for chart in walks if chart is not None]),
            ],
            sizes=list(SIZES),
            samples=parted(_pictures(comparison, "picture", looked)),
            neighbours=parted(_pictures(comparison, "neighbours", looked)),
            histograms=parted(histograms(comparison, looked)),
            trainings=[(model, curves(model)) for model in comparison.models],
            quality=quality_table(comparison, looked),
            two_sample=two_sample_table(comparison, looked),
            counted=counted(comparison),
            cost=cost_table(comparison.rows, looked),
            budgets=trainings_table(comparison.models),
            unequal=unequal_trainings(comparison),
            metrics=[(metric_of(name), direction(name)) for name in names],
            looked=looked,
        )
    )


def _pictures(comparison: Comparison, which: str, looked: dict[str, Look]) -> list[Picture]:
    """Of every row that has one; of samples, the real ones come first."""
    found = []
    if which == "picture" and comparison.real_picture:
        found.append(_picture("held-out examples", None, comparison.real_picture, ""))
    metric = comparison.quality if which == "picture" else "memorisation"
    for row in comparison.rows:
        if data := getattr(row, which):
            found.append(_picture(row.name, looked[row.kind], data, _figure(row, metric)))
    return found if any(picture.look for picture in found) else []


def _picture(name: str, look: Look | None, data: bytes, figure: str) -> Picture:
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))  # PNG's header
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return Picture(name=name, look=look, source=source, width=width, height=height, figure=figure)


def _figure(row: Row, metric: str) -> str:
    estimate = row.figures.get(metric)
    return "" if estimate is None else f"{metric_of(metric).label} {words.value_of(estimate)}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hybridgen.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = _asset
    environment.filters["count"] = words.count
    environment.filters["grouped"] = words.grouped
    environment.filters["named"] = _named
    environment.filters["pct"] = lambda value: f"{value:.2f}%"
    return environment


def _asset(name: str) -> Any:
    """A file of ours that goes into the page as it is."""
    return Markup((Path(__file__).parent / "templates" / name).read_text())


def _named(sentence: str) -> Markup:
    """A sentence with bold letters in the place of quotation marks; units and intervals stay
    in one line."""
    bold = re.sub("\u201c([^\u201c\u201d]*)\u201d", r"<b>\1</b>", str(escape(sentence)))
    whole = re.sub(r"\[[^\[\]<>]{,40}\]", lambda found: found[0].replace(" ", "&nbsp;"), bold)
    return Markup(re.sub(r"(?<=\d) (?=[n\u00b5m]?s\b|%)", "&nbsp;", whole))
