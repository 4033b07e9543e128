"""A training that is killed and started again ends with the same weights, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from experiments.conftest import EXPERIMENTS, TINY, load
from experiments.workers import killed_while_writing
from safetensors.torch import load_file

from hybridgen.cli import command

TESTS = Path(__file__).parents[1]
PLACES = [place.__name__ for place in killed_while_writing.PLACES]


@pytest.fixture(scope="module")
def endurance():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXPERIMENTS))
        yield load("endurance")


def weights(folder):
    files = [next((folder / name).glob("*.safetensors")) for name in ("generator", "discriminator")]
    return [tensor for file in files for _, tensor in sorted(load_file(file).items())]


@pytest.fixture(scope="module")
def runs(gan, tmp_path_factory):
    """One run that went through, and for every place one that died there."""
    folder = tmp_path_factory.mktemp("killed")
    subprocess.run(
        [sys.executable, killed_while_writing.__file__, folder, *TINY],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        check=True,
        timeout=240,
    )
    assert command(gan.main, gan.Gan, [*TINY, "--out", str(folder / "straight")]) == 0
    return folder


@pytest.mark.parametrize("place", PLACES)
def test_killed_at_the_worst_place_and_started_again_a_training_ends_the_same(
    runs, call, blind, place
):
    died_in = runs / place
    assert not (died_in / "result.json").exists()
    half = list(died_in.glob("checkpoints/.tmp-*"))
    assert bool(half) == (place in {PLACES[0], PLACES[2], PLACES[3]})
    status, _, err = call("--out", died_in)
    assert status == 0, err
    assert all(map(torch.equal, weights(died_in), weights(runs / "straight")))
    assert not list(died_in.rglob(".tmp-*"))


def test_a_training_killed_at_three_random_moments_ends_the_same(tmp_path):
    """As a program, which forks its trainings: this process has threads of torch's."""
    settings = ["--kills", "3", "--steps", "30", "--seed", "2", "--scripts", "[gan]"]
    settings += ["--out", str(tmp_path / "out")]
    program = [sys.executable, str(EXPERIMENTS / "endurance.py"), *settings]
    done = subprocess.run(program, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["kills"], result["differences"]) == (3, 0)
    assert (result["other_figures"], result["other_rows"]) == (0, 0)
    assert "in all: 3 kills" in done.stdout


def test_a_difference_of_one_bit_is_counted_and_fails(endurance, runs, tmp_path, capsys):
    other = tmp_path / "other"
    for name in ("generator", "discriminator"):
        (other / name).mkdir(parents=True)
        for file in (runs / "straight" / name).glob("*.safetensors"):
            content = bytearray(file.read_bytes())
            content[-1] ^= name == "discriminator"
            (other / name / file.name).write_bytes(content)
    assert endurance.differences(runs / "straight", other) == 1
    assert endurance.differences(runs / "straight", runs / "straight") == 0


def test_too_few_steps_for_the_kills_and_a_folder_in_use_are_refused(endurance, tmp_path, capsys):
    (tmp_path / "killed").mkdir()
    for arguments in (["--kills", "9", "--steps", "12"], ["--out", str(tmp_path)]):
        assert command(endurance.main, endurance.Endurance, arguments) == 2
        assert capsys.readouterr().err.startswith("error: ")
