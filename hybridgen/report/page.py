"""From a comparison to the text of its page, and to a file; and how any page is filled."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from hybridgen.evaluation.results import Comparison, metrics_of
from hybridgen.files import write_atomically
from hybridgen.metrics.registry import metric_of
from hybridgen.report import charts, findings, svg, tables
from hybridgen.report.ranking import ranked
from hybridgen.report.text import grouped, number

Cards = list[charts.Card]


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page as one file that needs no other and no network."""
    write_atomically(path, render(comparison).encode(errors="replace"))


def render(comparison: Comparison) -> str:
    """The text of the page."""
    facts = {"features": comparison.features, "samples a row": comparison.samples}
    trainings = enumerate(comparison.models)
    galleries = {
        "samples": charts.pictures(comparison, "picture", comparison.quality),
        "classes": charts.histograms(comparison),
        "neighbours": charts.pictures(comparison, "neighbours", "memorisation"),
    }
    return filled(
        "page.html",
        comparison=comparison,
        facts={**comparison.data, **facts},
        keys=svg.keys(comparison.rows),
        charts={price: charts.charts(comparison, price) for price in ("seconds", "calls")},
        galleries={name: _gallery(comparison, cards) for name, cards in galleries.items()},
        curves=[(m.name, charts.curves(m, f"training-{i}")) for i, m in trainings],
        findings=findings,
        tables=tables,
        metrics=[metric_of(name) for name in metrics_of(comparison)],
    )


def filled(template: str, **values: Any) -> str:
    """The text of a page, in the colours of both themes; `values` are what its template names."""
    environment = Environment(
        loader=PackageLoader("hybridgen.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"grouped": grouped, "bold": _bold, "css": _css}
    digits = {"figure": partial(number, digits=4), "tolerance": partial(number, digits=1)}
    environment.filters |= digits
    themes = (svg.LIGHT, svg.DARK)
    return environment.get_template(template).render(themes=themes, **values)


def _css(colours: Mapping[str, str]) -> str:
    """Colours by name, as variables of a style."""
    return "".join(f"--{name}: {code}; " for name, code in colours.items())


def _gallery(comparison: Comparison, cards: Cards) -> tuple[Cards, Cards]:
    """Cards of the best row of each kind, and of no row, are seen at once, others on request."""
    rest = [row for row in comparison.rows if comparison.quality not in row.figures]
    order = [*ranked(comparison.rows, comparison.quality), *rest]
    best = {row.kind: row.name for row in reversed(order)}
    first = [card for card in cards if card.key is None or card.name in best.values()]
    more = [card for card in cards if card not in first]
    return (first, more) if any(card.key for card in cards) else ([], [])


def _bold(sentence: str) -> Markup:
    """Bold letters in the place of quotation marks."""
    return Markup(re.sub("\u201c([^\u201c\u201d]*)\u201d", r"<b>\1</b>", str(escape(sentence))))
