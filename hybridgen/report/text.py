"""Numbers and names for readers: as many digits as the uncertainty leaves, and units."""

import math
import re
import unicodedata
from collections.abc import Sequence

from hybridgen.metrics.intervals import Estimate

MINUS, SPACE = "\u2212", "\u202f"
MODELS = {
    "gan": "GAN",
    "diffusion": "diffusion",
    "hybrid": "diffusion trained with a discriminator",
}
NETWORKS = ("denoiser", "generator", "discriminator_forward", "discriminator_backward")
"""What calls are counted of."""
CHANGES = {"guided": "guided", "refined": "refined by a discriminator"}


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


def value_of(estimate: Estimate) -> str:
    """A figure alone."""
    places = _decimals(estimate)
    return number(estimate.value) if places is None else _fixed(estimate.value, places)


def interval_of(estimate: Estimate) -> str:
    """Its interval, such as "12.0 to 12.9"; empty where nothing is uncertain."""
    if estimate.low == estimate.high:
        return ""
    places = _decimals(estimate)
    ends = (estimate.low, estimate.high)
    return " to ".join(number(end) if places is None else _fixed(end, places) for end in ends)


def with_interval(estimate: Estimate, brackets: str = "()") -> str:
    """Such as "12.4 (12.0 to 12.9)"."""
    interval = interval_of(estimate)
    return value_of(estimate) + (f" {brackets[0]}{interval}{brackets[1]}" if interval else "")


def p_value(value: float) -> str:
    """A p-value; those below 0.001 are all written alike."""
    return "< 0.001" if value < 0.001 else number(value, 2)


def seconds(value: float, *, padded: bool = True) -> str:
    """Such as "2.30 ms"."""
    if not math.isfinite(value) or value == 0:
        return f"{number(value)} s"
    units = ((1.0, "s"), (1e-3, "ms"), (1e-6, "\u00b5s"), (1e-9, "ns"))
    size, unit = next((u for u in units if abs(value) >= u[0] * 0.9995), units[-1])
    return f"{number(value / size, padded=padded)} {unit}"


def seconds_with_interval(estimate: Estimate) -> str:
    """Such as "2.00 ms (1.98 ms to 2.02 ms)"."""
    interval = f" ({seconds(estimate.low)} to {seconds(estimate.high)})"
    return seconds(estimate.value) + (interval if estimate.low != estimate.high else "")


def with_prefix(value: float) -> str:
    """A number with a prefix of a thousand, such as "3.4 M"."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if math.isfinite(value) and abs(value) >= size * 0.9995:
            return f"{number(value / size, padded=True)} {prefix}"
    return number(value)


def memory(value: float) -> str:
    """Bytes, such as "12 MiB"."""
    units = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (0, "B"))
    size, unit = next(u for u in units if value >= u[0])
    return f"{number(value / (size or 1))} {unit}"


def ratio(value: float) -> str:
    """Such as "99 times", and "1.7 times" where the digit matters."""
    return f"{number(value, 2 if value < 100 else 3)} times"


def count(value: int) -> str:
    """Such as "50 000"."""
    return _grouped(value, 0)


def grouped(text: str) -> str:
    """A text in which whole numbers of four digits and more are written as `count` does."""
    digits = r"(?<![\w.,])\d{4,}(?![\w.,])"
    return re.sub(digits, lambda match: count(int(match[0])), text, flags=re.A)


def listed(parts: Sequence[str]) -> str:
    """Such as "a, b and c"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def quoted(name: str) -> str:
    """A name that the page makes bold."""
    return f"\u201c{name}\u201d"


def printable(text: str) -> str:
    """A text without control characters and halves of surrogate pairs, which no font can draw."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def kind_name(kind: str) -> str:
    """A kind of method in words, such as "GAN, refined by a discriminator" for "gan, refined".

    Kinds that a user made up stay as they are.
    """
    model, *changes = kind.split(", ")
    if model not in MODELS or any(change not in CHANGES for change in changes):
        return kind
    return ", ".join(filter(None, (MODELS[model], " and ".join(CHANGES[c] for c in changes))))


def _decimals(estimate: Estimate) -> int | None:
    """Decimals of a figure, so that half its interval has one significant digit, or two that
    begin with 1; `None` where nothing is uncertain."""
    half = (estimate.high - estimate.low) / 2
    if not math.isfinite(half) or not math.isfinite(estimate.value) or half <= 0:
        return None
    size = math.floor(math.log10(half))
    return max(0, min((half < 2 * 10.0**size) - size, 7))


def _fixed(value: float, places: int) -> str:
    negative = value < 0 and float(f"{value:.{places}f}") != 0
    return (MINUS if negative else "") + _grouped(abs(value), places)


def _grouped(value: float, places: int) -> str:
    return f"{value:,.{places}f}".replace(",", SPACE)
