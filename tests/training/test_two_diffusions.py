"""Two processes train one denoiser, with and without a term. Started once for all tests here."""

import os
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from training.workers import two_diffusions


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launch, two_diffusions.__file__, folder],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("kind", two_diffusions.KINDS)
def test_two_processes_have_the_gradients_weights_and_losses_of_one(folder, kind, double):
    one = two_diffusions.outcome(Accelerator(cpu=True), kind, adaptive=kind == "chain")
    compare(folder, kind, one)


@pytest.mark.parametrize("objective", two_diffusions.OBJECTIVES)
def test_two_processes_train_the_guide_of_one(folder, objective, double):
    compare(folder, objective, two_diffusions.guide_outcome(Accelerator(cpu=True), objective))


def compare(folder, kind, one):
    ranks = [load_file(folder / f"rank{rank}-{kind}.safetensors") for rank in (0, 1)]
    for two in ranks:
        assert set(two) == set(one)
        for name, expected in one.items():
            torch.testing.assert_close(two[name], expected, rtol=1e-6, atol=1e-6, msg=name)
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in one)
