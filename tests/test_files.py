"""Whatever is in a file of a run, or in its place: it is read as what it should be or refused in a
sentence, and writing never reaches anything else.
"""

import json
import os
import stat

import pytest

from hybridgen.errors import InputError
from hybridgen.files import Number, new_file, read_object, replacing, write_atomically


@pytest.fixture
def outside(tmp_path):
    path = tmp_path / "outside.txt"
    path.write_text("somebody's")
    return path


@pytest.mark.parametrize("place", ["a.json", ".tmp-a.json"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path, outside, place, link):
    folder = tmp_path / "run"
    folder.mkdir()
    link(outside, folder / place)
    write_atomically(folder / "a.json", "ours")
    assert outside.read_text() == "somebody's"
    assert (folder / "a.json").read_text() == "ours" and not (folder / "a.json").is_symlink()
    assert [path.name for path in folder.iterdir()] == ["a.json"]


def test_a_new_file_takes_the_place_of_a_link(tmp_path, outside):
    os.symlink(outside, tmp_path / "log")
    with new_file(tmp_path / "log") as file:
        file.write(b"ours")
    assert (outside.read_text(), (tmp_path / "log").read_text()) == ("somebody's", "ours")


def test_what_fails_half_way_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "before")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_mode_of_a_file_follows_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o666 & ~mask


DAMAGED = {
    "empty": b"",
    "cut": b'{"steps": 3',
    "a list": b"[1]",
    "a number": b"3",
    "not UTF-8": b'{"steps": "\xff"}',
    "two byte-order marks": b"\xef\xbb\xbf\xef\xbb\xbf{}",
    "no such field": b'{"step": 3}',
    "text for a number": b'{"steps": "3"}',
    "an object for a number": b'{"steps": {}}',
    "an absurd number": b'{"steps": ' + b"9" * 400 + b"}",
    "an absurd literal": b'{"steps": ' + b"9" * 5_000 + b"}",
    "nested without end": b'{"steps": 1, "x": ' + b"[" * 3_000 + b"]" * 3_000 + b"}",
    "nested deeply": b'{"steps": 1, "x": ' + b"[" * 200 + b"]" * 200 + b"}",
    "no text": bytes(range(256)),
}
ONLY_YAML = {
    "an alias of an alias": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (n + 1, n + 1, b",".join([b"*%c" % n] * 9)) for n in range(97, 106)
    )
    + b"steps: 3\n",
    "a key that is no text": b"steps: 3\n1: 2\n",
    "a date": b"steps: 3\nday: 2026-01-01\n",
    "an empty number": b"steps: !!int ''\n",
    "an object of Python": b"steps: 3\nx: !!python/object/apply:os.system ['touch /tmp/x']\n",
    "too large": b"steps: 3\nx: " + b"y" * 2**18,
}


@pytest.mark.parametrize(
    ("suffix", "content"),
    [("json", c) for c in DAMAGED.values()]
    + [("yaml", c) for c in (*DAMAGED.values(), *ONLY_YAML.values())],
    ids=[*(f"json, {n}" for n in DAMAGED), *(f"yaml, {n}" for n in (*DAMAGED, *ONLY_YAML))],
)
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, suffix, content):
    path = tmp_path / f"result.{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_object(path, {"steps": Number}, advice="train it again")
    sentence = str(caught.value).replace(str(tmp_path), "")
    assert "is damaged" in sentence and sentence.endswith(": train it again")
    assert "\n" not in sentence and len(sentence) < 200


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink(path, path)])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, make):
    make(tmp_path / "result.json")
    with pytest.raises(InputError, match=r"result.json is damaged"):
        read_object(tmp_path / "result.json")


def test_a_whole_file_is_read_with_or_without_a_byte_order_mark(tmp_path):
    content = {"steps": 3, "kid": None, "names": ["a", {"b": True}], "x": 1e-3}
    for start in ("", "\ufeff"):
        for suffix in ("json", "yaml"):  # whatever is JSON is YAML too
            path = tmp_path / f"a.{suffix}"
            path.write_text(start + json.dumps(content).replace("0.001", "1.0e-3"))
            assert read_object(path, {"steps": int, "kid": Number | None}) == content


def test_every_value_can_be_asked_to_be_of_a_type(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"kid": 0.5, "x": null}')
    assert read_object(path, values=Number | None) == {"kid": 0.5, "x": None}
    path.write_text('{"kid": 0.5, "x": "much"}')
    with pytest.raises(InputError, match=r"its x is 'much'"):
        read_object(path, values=Number | None)


def test_a_few_lines_that_become_billions_of_values_are_refused_at_once(tmp_path):
    lines = ["a0: &a0 {x: 1}"]
    for n in range(1, 13):
        aliases = ", ".join([f"*a{n - 1}"] * 9)
        lines.append(f"a{n}: &a{n} {{<<: [{aliases}]}}")
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    with pytest.raises(InputError, match="it has aliases"):
        read_object(tmp_path / "config.yaml")
