"""Numbers for readers: as many digits as the uncertainty leaves, and units."""

import math
import re
import unicodedata

from hybridgen.metrics.intervals import Estimate

MINUS, SPACE = "\u2212", "\u202f"
SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "\u00b5s"), (1e-9, "ns"))
THOUSANDS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
BYTES = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))


def number(value: float, digits: int = 3, *, padded: bool = False) -> str:
    """About `digits` significant digits, without exponents where that stays short.

    Zeros at the end of a fraction are left out unless `padded`.
    """
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "\u221e" if value > 0 else MINUS + "\u221e"
    if value == 0:
        return "0"
    mantissa, exponent = f"{abs(value):.{digits - 1}e}".split("e")
    if (size := int(exponent)) < -4:
        text = f"{mantissa}e{MINUS}{-size}"
    else:
        text = _grouped(abs(value), max(0, digits - 1 - size))
        if "." in text and not padded:
            text = text.rstrip("0").rstrip(".")
    return (MINUS if value < 0 else "") + text


def value_of(estimate: Estimate, end: float | None = None) -> str:
    """A figure alone, or an end of its interval.

    Half the interval has one significant digit, or two that begin with 1.
    """
    value = estimate.value if end is None else end
    half = (estimate.high - estimate.low) / 2
    if not math.isfinite(half) or not math.isfinite(estimate.value) or half <= 0:
        return number(value)
    size = math.floor(math.log10(half))
    places = max(0, min((half < 2 * 10.0**size) - size, 7))
    negative = value < 0 and float(f"{value:.{places}f}") != 0
    return (MINUS if negative else "") + _grouped(abs(value), places)


def interval_of(estimate: Estimate) -> str:
    """Its interval, such as "12.0 to 12.9"; empty where nothing is uncertain."""
    ends = (value_of(estimate, end) for end in (estimate.low, estimate.high))
    return " to ".join(ends) if estimate.low != estimate.high else ""


def with_interval(estimate: Estimate, brackets: str = "()") -> str:
    """Such as "12.4 (12.0 to 12.9)"."""
    interval = interval_of(estimate)
    return value_of(estimate) + (f" {brackets[0]}{interval}{brackets[1]}" if interval else "")


def p_value(value: float) -> str:
    """A p-value; those below 0.001 are all written alike."""
    return "< 0.001" if value < 0.001 else number(value, 2)


def in_units(value: float, units: tuple[tuple[float, str], ...], *, padded: bool = True) -> str:
    """A number in the largest of `units` (sizes and names) that it reaches, such as "2.30 ms"."""
    for size, unit in units:
        if math.isfinite(value) and abs(value) >= size * 0.9995:
            return f"{number(value / size, padded=padded)} {unit}"
    return number(value)


def seconds(value: float, *, padded: bool = True) -> str:
    """Such as "2.30 ms"."""
    return in_units(value, SECONDS, padded=padded)


def span(estimate: Estimate) -> str:
    """The interval of seconds, such as "1.98 ms to 2.02 ms"; empty where nothing is uncertain."""
    ends = dict.fromkeys(seconds(end) for end in (estimate.low, estimate.high))
    return " to ".join(ends) if estimate.low != estimate.high else ""


def grouped(text: str | int) -> str:
    """A text in which whole numbers of four digits and more are written such as "50 000"."""
    digits = r"(?<![\w.,])\d{4,}(?![\w.,])"
    return re.sub(digits, lambda match: _grouped(int(match[0]), 0), str(text), flags=re.A)


def printable(text: str) -> str:
    """A text without control characters and halves of surrogate pairs, which no font can draw."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def _grouped(value: float, places: int) -> str:
    return f"{value:,.{places}f}".replace(",", SPACE)
