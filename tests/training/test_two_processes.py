"""Two processes are one, only faster. They are started once for all tests here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from training.workers import two_processes

from hybridgen.training import checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launch, two_processes.__file__, folder],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def said(folder: Path):
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_have_the_gradients_weights_and_losses_of_one(folder, accumulation, double):
    one = two_processes.outcome(Accelerator(cpu=True), 1)
    for rank in (0, 1):
        two = load_file(folder / f"rank{rank}-accumulation{accumulation}.safetensors")
        assert set(two) == set(one)
        for name, expected in one.items():
            torch.testing.assert_close(two[name], expected, rtol=0, atol=1e-6, msg=name)


def test_both_processes_hold_the_same_bits(folder):
    a, b = (load_file(folder / f"rank{rank}-accumulation2.safetensors") for rank in (0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_loss_through_the_unprepared_discriminator_is_found_and_the_right_one_passes(said):
    for each in said:
        assert each["world"] == 2
        assert each["right"] is None
        assert "the processes disagree on the discriminator's gradients at step 1" in each["wrong"]


def test_when_one_process_is_asked_to_stop_all_stop_at_the_same_step_and_it_is_saved(folder, said):
    assert {each["stopped"] for each in said} == {
        "stopped and saved at step 2; the same command goes on from there"
    }
    found, complaints = checkpoint.newest(folder / "run" / "checkpoints")
    assert found is not None and found.step == 2 and complaints == []
    assert found.manifest["world"] == 2
