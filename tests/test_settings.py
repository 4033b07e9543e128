"""Settings: every number has a range, every name its choices, and every message one short line."""

import dataclasses
import importlib
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest

import hybridgen.settings
from hybridgen.cli import argument, command, read_settings
from hybridgen.errors import InputError, one_line, quoted, reason
from hybridgen.maths import objectives
from hybridgen.networks.build import _NETWORKS, activation_bytes, build_denoiser, build_generator
from hybridgen.networks.settings import Architecture, DenoiserSettings, GeneratorSettings
from hybridgen.settings import Range, Settings, check, check_memory
from hybridgen.training.settings import ObjectiveName

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module", autouse=True)
def scripts():
    sys.path.insert(0, str(EXPERIMENTS))
    names = [path.stem for path in EXPERIMENTS.glob("*.py") if "__main__" in path.read_text()]
    for name in names:
        importlib.import_module(name)
    yield
    sys.path.remove(str(EXPERIMENTS))


def classes() -> list[type[Settings]]:
    """Every settings class that was imported."""
    kinds, waiting = [], [Settings]
    while waiting:
        kinds.append(waiting.pop())
        waiting += kinds[-1].__subclasses__()
    return kinds


def bare_numbers(hint: Any) -> bool:
    """Whether a number without a range is anywhere in a type."""
    if get_origin(hint) is Annotated:
        return not any(isinstance(each, Range) for each in get_args(hint)[1:])
    return hint in (int, float) or any(map(bare_numbers, get_args(hint)))


def test_every_number_of_every_settings_class_has_a_range():
    fields = {
        f"{kind.__name__}.{name}": hint
        for kind in classes()
        for name, hint in get_type_hints(kind, include_extras=True).items()
    }
    assert len(fields) > 150
    bare = {name for name, hint in fields.items() if bare_numbers(hint)}
    # Those are handed on to a script, which checks them.
    assert bare == {"Model.arguments", "DataSet.arguments", "Trick.arguments", "Stability.base"}


def test_every_settings_class_of_a_script_checks_itself():
    kinds = classes()
    for kind in kinds:
        for hint in get_type_hints(kind).values():
            inner = [each for each in (hint, *get_args(hint)) if dataclasses.is_dataclass(each)]
            assert all(issubclass(each, Settings) for each in inner), kind
    names = {kind.__name__ for kind in kinds}
    assert {"Gan", "Diffusion", "GuideExperiment", "Compare", "Seeds", "Benchmark"} <= names


def test_the_names_that_settings_take_are_those_of_the_tables():
    assert set(get_args(ObjectiveName)) == set(objectives.by_name())
    assert set(get_args(Architecture)) == set(_NETWORKS)


@dataclass(frozen=True, kw_only=True)
class Inner(Settings):
    """Inner.

    Attributes:
        rate: a rate.
    """

    rate: Annotated[float, Range(0, 1, "()")] | None = None


@dataclass(frozen=True, kw_only=True)
class Outer(Settings):
    """Outer.

    Attributes:
        count: a count.
        name: a name.
        flag: a flag.
        sizes: sizes.
        inner: a group.
        items: groups.
        folder: a path.
        table: a map.
    """

    count: Annotated[int, Range(1, 1e6)] = 1
    name: Literal["heun", "euler"] = "heun"
    flag: bool = False
    sizes: tuple[Annotated[int, Range(1, 9)], ...] = (1,)
    inner: Inner = field(default_factory=Inner)
    items: tuple[Inner, ...] = ()
    folder: Path | None = None
    table: dict[str, str] = field(default_factory=dict)


WRONG = [
    ("count", "0", 0, "count must be a whole number in [1, 1e+06], got"),
    ("count", "1000001", 1_000_001, "count must be a whole number in [1, 1e+06], got"),
    ("count", "1.5", 1.5, "count must be a whole number in [1, 1e+06], got"),
    ("count", "true", True, "count must be a whole number in [1, 1e+06], got"),
    ("count", "1" * 5000, 10**5000, "count must be a whole number in [1, 1e+06], got"),
    ("name", "hun", "hun", "name must be one of heun, euler, got 'hun'; did you mean heun?"),
    ("flag", "3", 3, "flag must be true or false, got"),
    ("sizes", "[1, 10]", (1, 10), "sizes must be a list of which each is a whole number in [1, 9]"),
    ("sizes", "x", "x", "sizes must be a list of which each is a whole number in [1, 9]"),
    ("folder", "a\0b", Path("a\0b"), "folder must be a path or null"),
    ("table", "3", 3, "table must be names with values, got"),
]


@pytest.mark.parametrize(
    ("name", "word", "value", "sentence"), WRONG, ids=[f"{row[0]}-{row[1]!r:.9}" for row in WRONG]
)
def test_what_a_field_does_not_take_is_refused_alike_in_python_and_at_the_command_line(
    name, word, value, sentence, capsys
):
    with pytest.raises(InputError) as error:
        Outer(**{name: value})
    assert str(error.value).startswith(sentence)
    assert command(lambda _: None, Outer, [f"--{name}={word}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {sentence}")


@pytest.mark.parametrize("rate", ["0", "1", "-0.1", "nan", "inf", ".inf", "x"])
def test_a_setting_inside_a_group_is_refused_by_its_whole_name(rate, capsys):
    for argv in (
        f"--inner.rate={rate}",
        f"--inner={{rate: {rate}}}",
        f"--items=[{{rate: {rate}}}]",
    ):
        assert command(lambda _: None, Outer, [argv]) == 2
        message = capsys.readouterr().err
        if "items" in argv:
            assert re.match("error: (items|rate) must be", message)
        else:
            assert message.startswith("error: inner.rate must be a number in (0, 1) or null, got")
    with pytest.raises(InputError, match=r"rate must be a number in \(0, 1\) or null, got nan"):
        Inner(rate=float("nan"))
    with pytest.raises(InputError, match="inner must be a group of settings, got 3"):
        Outer(inner=3)  # type: ignore[arg-type]


def test_a_whole_number_is_a_number_and_the_ends_belong_to_a_closed_range():
    assert Inner(rate=0.5).rate == 0.5
    check(Annotated[float, Range(1, 2)], 1)
    check(Annotated[float, Range(1, 2)], 2.0)
    for ends, number in (("(]", 1), ("[)", 2), ("()", 1), ("()", 2)):
        assert number not in Range(1, 2, ends)


@pytest.mark.parametrize(
    ("argv", "nearest"),
    [
        (["--coun", "3"], "count"),
        (["--inner.rat", "0.5"], "inner.rate"),
        (["--inner", "{rat: 0.5}"], "inner.rate"),
        (["--fla=true"], "flag"),
    ],
)
def test_an_abbreviated_or_misspelt_name_is_refused_with_the_nearest(argv, nearest, capsys):
    assert command(lambda _: None, Outer, argv) == 2
    assert capsys.readouterr().err.endswith(f"; did you mean {nearest}?\n")


@pytest.mark.parametrize(
    "text",
    ["x" * 5000, "a\nb\tc", "a b " * 500, "\x1b[31m" * 300, "9" * 5000, "[" * 1000, "\u202e" * 400],
    ids=["letters", "lines", "words", "escapes", "digits", "brackets", "right-to-left"],
)
def test_a_message_is_one_line_of_at_most_300_characters_whatever_was_typed(text, capsys, tmp_path):
    (tmp_path / "bad.yaml").write_text(text)
    for argv in (
        *([f"--{name}={text}"] for name in ("count", "name", "inner.rate", "items", text)),
        *([text], ["--config", str(tmp_path / "bad.yaml")], ["--config", text]),
    ):
        assert command(lambda _: None, Outer, argv) == 2
        message = capsys.readouterr().err
        assert message.endswith("\n") and message[:-1].isprintable() and len(message) <= 301
    for error in (InputError(text), RuntimeError(text)):
        assert len(reason(error)) <= 300
        fail = lambda _, error=error: (_ for _ in ()).throw(InputError(str(error)))  # noqa: E731
        assert command(fail, Outer, []) == 2
        assert len(capsys.readouterr().err) <= 301


def test_a_long_value_loses_its_middle_and_the_sentence_stays():
    line = one_line(f"there is no folder {'x' * 5000}: correct data.path")
    assert line.startswith("there is no folder xxx") and line.endswith("xxx: correct data.path")
    assert quoted(10**5000).startswith("a number of thousands")
    assert one_line("short \n one") == "short one"


def test_what_is_larger_than_memory_is_refused_before_anything_is_allocated():
    check_memory(1e6, "a little", "nothing")
    with pytest.raises(InputError, match=r"take at least .* GiB .* this machine has .*: lower it"):
        check_memory(1e16, "this", "lower it")
    huge = GeneratorSettings(architecture="mlp", width=65_536, depth=256)
    with pytest.raises(InputError, match=r"a MlpGenerator of 1.1e\+12 weights would take"):
        build_generator(huge, (2,))
    with pytest.raises(InputError, match="ImageDenoiser of"):
        build_denoiser(DenoiserSettings(widths=(65_536, 65_536)), (1, 8, 8))


def test_the_bytes_of_a_sample_are_those_that_autograd_keeps():
    import torch

    network = build_generator(
        GeneratorSettings(architecture="mlp", latent=3, width=5, depth=1), (2,)
    )
    state = torch.get_rng_state()
    # The latents, the input and the output of the activation; 4 bytes each.
    assert activation_bytes(network) == 4 * (3 + 5 + 5)
    assert torch.equal(state, torch.get_rng_state())
    assert next(network.parameters()).device.type == "cpu" and network.training


def test_the_memory_of_a_container_counts(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(hybridgen.settings, "_GROUP", limit)
    limit.write_text("max\n")
    check_memory(2e6, "a little", "nothing")
    limit.write_text("1000000\n")
    with pytest.raises(InputError, match=r"this machine has 0\.000931"):
        check_memory(2e6, "this", "lower it")


def test_settings_are_read_back_as_they_were_written():
    written = Outer(count=3, inner=Inner(rate=0.25), items=(Inner(rate=0.5),), table={"a": "b"})
    argv = ["--count=3", "--inner.rate=0.25", "--items=[{rate: 0.5}]", "--table={a: b}"]
    assert read_settings(Outer, argv) == written


@dataclass(frozen=True, kw_only=True)
class Kinds:
    flag: bool = False
    rate: float | None = 1.0
    count: int = 0
    name: str = ""


@pytest.mark.parametrize(
    "values", [{"flag": True, "rate": None, "count": 3, "name": "hinge"}, {"rate": 1e-5}]
)
def test_a_value_written_as_a_word_is_read_back(values):
    words = [word for name, value in values.items() for word in (f"--{name}", argument(value))]
    assert read_settings(Kinds, words) == Kinds(**values)
