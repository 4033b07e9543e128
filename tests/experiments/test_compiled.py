"""A generator that `torch.compile` really compiles: the same training within rounding."""

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from hybridgen.cli import command

COMPILER = os.environ.get("CXX", "g++")
TINY = (
    *("--data.path", "ring", "--training.batch", "16", "--training.steps", "4"),
    *("--save_every", "2", "--log_every", "2", "--threads", "1"),
    *("--generator.architecture", "mlp", "--generator.width", "8"),
    *("--discriminator.architecture", "mlp", "--discriminator.width", "8"),
)


def weights(folder):
    files = {path.parent.name: load_file(path) for path in folder.glob("*/*.safetensors")}
    return {f"{name}.{key}": x for name, file in files.items() for key, x in file.items()}


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_generator_trains_to_the_same_weights_and_goes_on_bit_for_bit(
    gan, blind, tmp_path
):
    eager, straight, resumed = (tmp_path / folder for folder in ("eager", "straight", "resumed"))

    def run(folder, *more):
        argv = [*TINY, *more, "--out", str(folder)]
        assert command(gan.main, gan.Gan, argv) == 0
        return weights(folder)

    uncompiled = run(eager)
    counters.clear()
    compiled = run(straight, "--training.compile", "true")
    assert counters["stats"]["unique_graphs"] > 0 and counters["inductor"]
    assert compiled.keys() == uncompiled.keys()
    for key, x in compiled.items():
        assert torch.allclose(x, uncompiled[key], rtol=1e-4, atol=1e-5), key
    shutil.copytree(straight, resumed)
    shutil.rmtree(resumed / "checkpoints" / "step-00000004")
    (resumed / "result.json").unlink()
    again = run(resumed, "--training.compile", "true")
    assert all(torch.equal(x, again[key]) for key, x in compiled.items())


def test_without_a_compiler_the_run_is_refused_in_a_sentence_and_leaves_no_folder(
    gan, blind, capsys, monkeypatch, tmp_path
):
    torch._dynamo.reset()
    monkeypatch.setenv("CXX", "no-compiler")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-compiler",))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    folder = tmp_path / "run"
    argv = [*TINY, "--training.compile", "true", "--out", str(folder)]
    assert command(gan.main, gan.Gan, argv) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(line) <= 300
    assert "No working C++ compiler" in line and "leave --training.compile false" in line
    assert not folder.exists()
