"""From a comparison to the text of its page, and to a file."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from hybridgen.evaluation.results import Comparison, Row, metrics_of
from hybridgen.metrics.registry import metric_of
from hybridgen.report import tables, text
from hybridgen.report.cards import Card, curves, histograms, pictures
from hybridgen.report.charts import calls_chart, front_chart
from hybridgen.report.findings import headline, sample_counts, unequal_trainings
from hybridgen.report.ranking import ranked
from hybridgen.report.styles import DARK, LIGHT, styles
from hybridgen.training.checkpoint import write_atomically

Gallery = tuple[list[Card], list[Card]]
"""Cards that are seen at once, and those on request."""


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page as one file that needs no other and no network."""
    write_atomically(path, render(comparison).encode(errors="replace"))


def render(comparison: Comparison) -> str:
    """The text of the page."""
    names = metrics_of(comparison)
    ordered = [name for name in names if metric_of(name).better is not None]
    fronts = [front_chart(comparison, name) for name in ordered]
    walks = [calls_chart(comparison, name) for name in ordered]
    galleries = {
        "samples": pictures(comparison, "picture", comparison.quality),
        "classes": histograms(comparison),
        "neighbours": pictures(comparison, "neighbours", "memorisation"),
    }
    return (
        _environment()
        .get_template("page.html")
        .render(
            comparison=comparison,
            headline=headline(comparison),
            themes={name: _variables(theme) for name, theme in (("light", LIGHT), ("dark", DARK))},
            colours=[name for name in LIGHT if name.startswith("kind-")],
            styled=styles(comparison.rows),
            charts={
                "front": [chart for chart in fronts if chart is not None],
                "calls": [chart for chart in walks if chart is not None],
            },
            galleries={name: _gallery(comparison, cards) for name, cards in galleries.items()},
            trainings=[
                (model, curves(model, f"training-{number}"))
                for number, model in enumerate(comparison.models)
            ],
            tables=tables,
            sample_counts=sample_counts(comparison),
            unequal=unequal_trainings(comparison),
            metrics=[metric_of(name) for name in names],
        )
    )


def _gallery(comparison: Comparison, cards: Sequence[Card]) -> Gallery | None:
    """Cards of the best row of each kind, and of no row, come first; `None` without a row's."""
    if not any(card.style for card in cards):
        return None
    rest = [row for row in comparison.rows if comparison.quality not in row.figures]
    best: dict[str, Row] = {}
    for row in [*ranked(comparison.rows, comparison.quality), *rest]:
        best.setdefault(row.kind, row)
    hidden = {row.name for row in comparison.rows} - {row.name for row in best.values()}
    first = [card for card in cards if card.name not in hidden]
    return first, [card for card in cards if card.name in hidden]


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
    environment.filters |= {"count": text.count, "grouped": text.grouped, "marked": _marked}
    environment.filters["kind_name"] = text.kind_name
    return environment


def _asset(name: str) -> Markup:
    """A file of ours that goes into the page as it is."""
    return Markup((Path(__file__).parent / "templates" / name).read_text())


def _variables(theme: dict[str, str]) -> Markup:
    return Markup(" ".join(f"--{name}: {colour};" for name, colour in theme.items()))


def _marked(sentence: str) -> Markup:
    """A sentence with bold letters in the place of quotation marks; units and intervals stay
    in one line."""
    bold = re.sub("\u201c([^\u201c\u201d]*)\u201d", r"<b>\1</b>", str(escape(sentence)))
    whole = re.sub(r"\[[^\[\]<>]{,40}\]", lambda match: match[0].replace(" ", "&nbsp;"), bold)
    return Markup(re.sub(r"(?<=\d) (?=[n\u00b5m]?s\b|%)", "&nbsp;", whole))
