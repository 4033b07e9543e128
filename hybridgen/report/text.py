"""Numbers as a reader wants them: as many digits as the uncertainty leaves, with units."""

import math
import re

from hybridgen.metrics.intervals import Estimate

MINUS, SPACE = "\u2212", "\u202f"


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
    size = int(f"{abs(value):.{digits - 1}e}".split("e")[1])
    if size < -4:
        mantissa, exponent = f"{abs(value):.{digits - 1}e}".split("e")
        text = f"{mantissa}e{MINUS}{abs(int(exponent))}"
    else:
        text = f"{abs(value):,.{max(0, digits - 1 - size)}f}".replace(",", SPACE)
        if "." in text and not padded:
            text = text.rstrip("0").rstrip(".")
    return (MINUS if value < 0 else "") + text


def decimals(estimate: Estimate) -> int | None:
    """Of a figure, so that half its interval has one significant digit, or two that begin with 1;
    `None` where nothing is uncertain."""
    half = (estimate.high - estimate.low) / 2
    if not math.isfinite(half) or not math.isfinite(estimate.value) or half <= 0:
        return None
    size = math.floor(math.log10(half))
    wanted = -size + (half < 2 * 10.0**size)
    return max(0, min(wanted, 7))


def value_of(estimate: Estimate) -> str:
    """A figure alone."""
    places = decimals(estimate)
    return number(estimate.value) if places is None else _fixed(estimate.value, places)


def interval_of(estimate: Estimate) -> str:
    """Its interval, such as "12.0 to 12.9"; empty where nothing is uncertain."""
    if estimate.low == estimate.high:
        return ""
    places = decimals(estimate)
    if places is None:
        return f"{number(estimate.low)} to {number(estimate.high)}"
    return f"{_fixed(estimate.low, places)} to {_fixed(estimate.high, places)}"


def with_interval(estimate: Estimate) -> str:
    """Such as "12.4 (12.0 to 12.9)"."""
    interval = interval_of(estimate)
    return f"{value_of(estimate)} ({interval})" if interval else value_of(estimate)


def seconds(value: float, *, padded: bool = True) -> str:
    """Such as "2.30 ms"."""
    if not math.isfinite(value) or value == 0:
        return f"{number(value)} s"
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "\u00b5s")):
        if abs(value) >= unit * 0.9995:
            return f"{number(value / unit, padded=padded)} {name}"
    return f"{number(value / 1e-9, padded=padded)} ns"


def chance(value: float) -> str:
    """A p-value; those below 0.001 are all told alike."""
    return "< 0.001" if value < 0.001 else number(value, 2)


def grouped(text: str) -> str:
    """Whole numbers of four digits and more as `count` writes them."""
    return re.sub(
        r"(?<![\w.,])\d{4,}(?![\w.,])", lambda found: count(int(found[0])), text, flags=re.A
    )


def scaled(value: float) -> str:
    """With a prefix of a thousand, such as "3.4 M"."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if math.isfinite(value) and abs(value) >= size * 0.9995:
            return f"{number(value / size, padded=True)} {prefix}"
    return number(value)


def memory(value: float) -> str:
    """Bytes, such as "12 MiB"."""
    for size, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= size:
            return f"{number(value / size)} {name}"
    return f"{number(value)} B"


def ratio(value: float) -> str:
    """Such as "99 times", and "1.7 times" where the digit matters."""
    return f"{number(value, 2 if value < 100 else 3)} times"


def count(value: int) -> str:
    """Such as "50 000"."""
    return f"{value:,}".replace(",", SPACE)


def listed(parts: list[str]) -> str:
    """Such as "a, b and c"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _fixed(value: float, places: int) -> str:
    text = f"{abs(value):,.{places}f}".replace(",", SPACE)
    negative = value < 0 and float(f"{value:.{places}f}") != 0
    return (MINUS if negative else "") + text
