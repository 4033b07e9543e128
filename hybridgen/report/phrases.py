"""Parts of the sentences about rows."""

import math
from collections.abc import Sequence

from hybridgen.evaluation.results import Comparison, Row
from hybridgen.metrics.registry import metric_of
from hybridgen.report import text as words
from hybridgen.report.ranking import badness, verdict

BUDGETS = frozenset({"call", "scale", "round"})
"""Words that stand beside the numbers of a setting."""


def quoted(name: str) -> str:
    """A name that the page makes bold."""
    return f"\u201c{name}\u201d"


def samples(comparison: Comparison) -> str:
    """How many a row has."""
    return words.count(comparison.samples)


def figure(row: Row, metric: str) -> str:
    """Such as "12.4 [12.0 to 12.9]", for use in brackets."""
    interval = words.interval_of(row.figures[metric])
    return words.value_of(row.figures[metric]) + (f" [{interval}]" if interval else "")


def against(row: Row, base: Row, metric: str) -> str:
    """Both figures, such as "recall 0.8 [0.7 to 0.9] against 0.5 [0.4 to 0.6]"."""
    return f"{metric_of(metric).label} {figure(row, metric)} against {figure(base, metric)}"


def seconds(row: Row) -> float:
    """A sample's."""
    return row.cost.seconds.value


def time(row: Row) -> str:
    """The same with its unit."""
    return words.seconds(seconds(row))


def times(row: Row, base: Row) -> str:
    """How the seconds of two rows compare, as far as their timing can tell."""
    if verdict(row.cost.seconds, base.cost.seconds, "seconds") in ("tie", None):
        return "about as long"
    return f"{words.ratio(seconds(row) / seconds(base))} as long"


def ranked(rows: Sequence[Row], metric: str) -> list[Row]:
    """The best first; of equal ones the fastest."""
    return sorted(rows, key=lambda row: (badness(row.figures[metric], metric).value, seconds(row)))


def budgets(rows: Sequence[Row], *, exact: bool = False) -> str:
    """What varies, such as "at 18 calls, scales 1, 2 and 4"; empty for rows without a setting.

    A part that is not at each value of the first one is given by its range, unless all must be
    `exact`: then every setting is named.
    """
    settings = [tuple(_part(p) for p in row.setting.split(", ")) for row in rows if row.setting]
    if not settings:
        return ""
    shapes = {tuple((before, after) for before, _, after in parts) for parts in settings}
    known = all(value is not None for parts in settings for _, value, _ in parts)
    columns = [sorted(set(column), key=str) for column in zip(*settings, strict=False)]
    full = math.prod(map(len, columns)) == len(set(settings))
    if len(shapes) > 1 or not known or (exact and not full):
        return "at " + "; ".join(dict.fromkeys(row.setting for row in rows if row.setting))
    written = []
    for number, column in enumerate(columns):
        before, _, after = column[0]
        values = sorted(value for _, value, _ in column if value is not None)
        many = len(values) > 1
        text = words.listed([f"{value:g}" for value in values])
        if many and number and not full:
            text = f"{values[0]:g} to {values[-1]:g}"
        before, after = before + "s" * (many and bool(before)), after + "s" * (values != [1.0])
        written.append(f"{before} {text}" if before else f"{text} {after}")
    return "at " + ", ".join(written)


def _part(text: str) -> tuple[str, float | None, str]:
    """A word before a number, the number, a word after it; `None` for what is no known budget."""
    first, _, second = text.partition(" ")
    for before, value, after in (("", first, second.removesuffix("s")), (first, second, "")):
        number = value.replace(".", "", 1)
        if (before or after) in BUDGETS and number.isascii() and number.isdigit():
            return before, float(value), after
    return text, None, ""
