import pytest
from limits import files_of_at_most

from hybridgen.errors import RunError
from hybridgen.networks.mlp import MlpGenerator
from hybridgen.training.files import save_network, write_atomically


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "before")
    write_atomically(path, b"after")
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_on_a_full_disk_the_old_file_stays(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "before")
    with files_of_at_most(1_000), pytest.raises(OSError, match="too large"):
        write_atomically(path, "x" * 2_000)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_on_a_full_disk_the_old_weights_stay(tmp_path):
    old = MlpGenerator(width=4, depth=1)
    save_network(old, tmp_path / "generator")
    before = {path: path.read_bytes() for path in (tmp_path / "generator").iterdir()}
    sentence = r"generator could not be written .*make room"
    with files_of_at_most(1_000), pytest.raises(RunError, match=sentence):
        save_network(MlpGenerator(width=64, depth=1), tmp_path / "generator")
    assert {path: path.read_bytes() for path in (tmp_path / "generator").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["generator"]


def test_saved_weights_take_the_place_of_older_ones(tmp_path):
    for width in (4, 8):
        save_network(MlpGenerator(width=width, depth=1), tmp_path / "generator")
    assert MlpGenerator.from_pretrained(tmp_path / "generator").config["width"] == 8
