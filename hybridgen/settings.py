"""What settings may be: a number's range and a word's choices, declared where the field is.

`steps: Annotated[int, Range(1, 10)] = 3` is refused outside, in Python and at the command line.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hybridgen.errors import InputError, quoted


@dataclass(frozen=True)
class Range:
    """The interval that a number lies in; `ends` are its brackets, such as `(]` without the least.

    NaN lies in none.
    """

    least: float
    most: float
    ends: Literal["[]", "(]", "[)", "()"] = "[]"

    def __contains__(self, number: float) -> bool:
        left = self.least < number if self.ends[0] == "(" else self.least <= number
        return left and (number < self.most if self.ends[1] == ")" else number <= self.most)

    def __repr__(self) -> str:
        return f"{self.ends[0]}{self.least:g}, {self.most:g}{self.ends[1]}"


Count = Annotated[int, Range(1, 1e8)]
"""Of steps: ten times as many as the longest trainings that were published."""
Interval = Annotated[int, Range(1, 1e9)]
Samples = Annotated[int, Range(1, 1e6)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Positive = Annotated[float, Range(1e-12, 1e9)]
Weight = Annotated[float, Range(0, 1e9)]
Share = Annotated[float, Range(0, 1, "()")]
Level = Annotated[float, Range(1e-6, 1e6)]
"""Of noise, in the scale of the data."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of all settings: refuses, by `InputError`, values that their fields do not take."""

    def __post_init__(self) -> None:
        check(type(self), self)


@cache
def hints(settings: type) -> dict[str, Any]:
    """The type of each field, with its range."""
    return get_type_hints(settings, include_extras=True)


def check(hint: Any, value: Any, name: str = "") -> None:
    """Raise `InputError` for a value called `name` that is not of the type, or out of its range.

    Args:
        hint: a type; of a dataclass, `value` may also be a namespace with its fields.
    """
    if is_dataclass(hint) and hasattr(value, "__dict__"):
        if not (name and isinstance(value, Settings)):  # which has checked itself
            for field, kind in hints(hint).items():
                if field in vars(value):
                    check(kind, vars(value)[field], f"{name}.{field}".lstrip("."))
    elif isinstance(value, list | tuple) and is_dataclass(next(iter(get_args(hint)), None)):
        for number, item in enumerate(value):
            check(get_args(hint)[0], item, f"{name}[{number}]")
    elif not accepts(hint, value):
        raise InputError(refusal(hint, value, name))


def refusal(hint: Any, value: Any, name: str) -> str:
    """The sentence about a value that a type does not take."""
    choices = [each for kind in (hint, *get_args(hint)) for each in get_args(kind)]
    nearest = did_you_mean(value, choices) if isinstance(value, str) else ""
    return f"{name} must be {words(hint)}, got {quoted(value)}{nearest}"


def accepts(hint: Any, value: Any) -> bool:
    """Whether a value is of the type, and in its range.

    A whole number is a number, a truth value is not, and no text holds a zero byte.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return accepts(arguments[0], value) and all(value in each for each in arguments[1:])
    if origin in (Union, UnionType):
        return any(accepts(kind, value) for kind in arguments)
    if origin is Literal:
        return (type(value), value) in [(type(choice), choice) for choice in arguments]
    if origin is tuple:
        return isinstance(value, tuple | list) and all(accepts(arguments[0], x) for x in value)
    if origin is not None:
        return isinstance(value, Mapping) and all(accepts(arguments[1], value[x]) for x in value)
    if isinstance(value, bool):
        return hint is bool
    if hint in (str, Path):
        return isinstance(value, hint) and "\0" not in str(value)
    return isinstance(value, (int, float) if hint is float else hint)


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    NoneType: "null",
}


def words(hint: Any) -> str:
    """What a value of the type is."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{words(arguments[0])} in {arguments[1]}"
    if origin in (Union, UnionType):
        return " or ".join(map(words, arguments))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        return f"a list of which each is {words(arguments[0])}"
    if origin is not None:
        return "names with values"
    return _WORDS.get(hint, "a group of settings")


_GROUP = Path("/sys/fs/cgroup/memory.max")


def check_memory(needed: float, what: str, remedy: str) -> None:
    """Refuse, by `InputError`, what takes more bytes than this machine, or its container, has."""
    import psutil  # comes with Accelerate

    available = psutil.virtual_memory().total
    if _GROUP.is_file() and (limit := _GROUP.read_text().strip()).isdigit():
        available = min(available, int(limit))
    if needed > available:
        raise InputError(
            f"{what} would take at least {needed / 2**30:.3g} GiB of memory, and this machine has "
            f"{available / 2**30:.3g}: {remedy}"
        )


def did_you_mean(word: str, names: Iterable[object]) -> str:
    """The nearest of the names as a question, or nothing."""
    nearest = get_close_matches(word, [name for name in names if isinstance(name, str)], 1)
    return f"; did you mean {nearest[0]}?" if nearest and nearest[0] != word else ""
