"""Two processes are one, only faster: of GANs, a denoiser with each kind of term, guides, an
autoencoder, a student."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from training.workers import two_diffusions, two_processes, two_students

from hybridgen.training import checkpoint
from hybridgen.training.run import Run
from hybridgen.training.signals import AGREE_EVERY


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What `workers/two_processes.py` left, started once for all tests."""
    folder = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*launch, Path(__file__).with_name("workers") / "two_processes.py", folder],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def records(folder: Path):
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_have_the_gradients_weights_and_losses_of_one(folder, accumulation, double):
    one = two_processes.outcome(Accelerator(cpu=True), 1)
    for rank in (0, 1):
        two = load_file(folder / f"rank{rank}-accumulation{accumulation}.safetensors")
        assert set(two) == set(one)
        for name, expected in one.items():
            torch.testing.assert_close(two[name], expected, rtol=0, atol=1e-6, msg=name)


def test_two_processes_put_the_noise_of_one_on_what_the_discriminator_sees(folder, double):
    one = two_processes.noisy_outcome(Accelerator(cpu=True))
    assert one["3.depth"] > 0
    compare(folder, "noise", one)


def test_two_processes_train_a_gan_of_unusual_settings_as_one(folder, double):
    compare(folder, "knobs", two_processes.knobs_outcome(Accelerator(cpu=True)))


def test_both_processes_hold_the_same_bits(folder):
    a, b = (load_file(folder / f"rank{rank}-accumulation2.safetensors") for rank in (0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_loss_through_the_unprepared_discriminator_is_found_and_the_right_one_passes(records):
    for record in records:
        assert record["world"] == 2
        assert record["right"] is None
        assert (
            "the processes disagree on the discriminator's gradients at step 1" in record["wrong"]
        )


def test_when_one_process_is_asked_to_stop_all_stop_at_the_same_step_and_it_is_saved(
    folder, records
):
    (sentence,) = {record["stopped"] for record in records}
    newest, complaints = checkpoint.newest(folder / "run" / "checkpoints")
    assert newest is not None and complaints == []
    step = newest.step
    assert sentence == f"stopped and saved at step {step}; the same command goes on from there"
    assert 2 <= step <= 2 + AGREE_EVERY
    assert newest.manifest["world"] == 2


def test_what_two_processes_began_one_finishes_as_if_alone(folder, tmp_path, capsys):
    shutil.copytree(folder / "run", tmp_path / "begun")
    finals = []
    for name in ("begun", "alone"):
        accelerator, made = Accelerator(cpu=True), two_processes.players()
        with Run(tmp_path / name, two_processes.Settings(), accelerator) as run:
            *_, last = two_processes.steps_of(accelerator, made, steps=30, resume=run.resume)
        assert last.number == 30
        finals.append(last.average.state_dict())
    assert "begun on 2 process(es), going on with 1" in capsys.readouterr().err
    for key, expected in finals[1].items():
        torch.testing.assert_close(finals[0][key], expected, rtol=0, atol=1e-3, msg=key)


def test_processes_share_the_samples_of_an_evaluation_and_all_get_the_figures_of_one(records):
    one = two_processes.figures(None)
    for record in records:
        assert record["figures"] == pytest.approx(one, rel=1e-5)


def test_adaptive_weights_and_balanced_gradients_of_two_processes_are_those_of_one(records):
    one = two_processes.weights_of_losses(Accelerator(cpu=True))
    for record in records:
        for name in ("layer", "output", "sums"):
            assert record["weights"][name] == pytest.approx(one[name], rel=1e-6)
    shares = torch.tensor([record["weights"]["balanced"] for record in records])
    torch.testing.assert_close(shares.mean(0), torch.tensor(one["balanced"]), rtol=1e-5, atol=0)
    assert not torch.allclose(*shares)


def test_a_process_that_dies_ends_the_other_within_seconds_with_one_sentence(records):
    status, said = records[0]["lost"]
    assert status == 1 and records[0]["seconds"] < 20
    assert said.startswith("error: another process of this run was lost")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("kind", two_diffusions.KINDS)
def test_two_processes_have_the_gradients_and_weights_of_one_denoiser(folder, kind, double):
    one = two_diffusions.outcome(Accelerator(cpu=True), kind, adaptive=kind == "chain")
    compare(folder, kind, one)


@pytest.mark.parametrize("objective", two_diffusions.OBJECTIVES)
def test_two_processes_train_the_guide_of_one(folder, objective, double):
    compare(folder, objective, two_diffusions.guide_outcome(Accelerator(cpu=True), objective))


def test_two_processes_train_the_autoencoder_of_one(folder, double):
    compare(folder, "autoencoder", two_diffusions.autoencoder_outcome(Accelerator(cpu=True)))


def test_two_processes_train_the_student_of_one(folder, double):
    one = two_students.student_outcome(Accelerator(cpu=True), adaptive=True)
    compare(folder, "student", one)


def test_two_processes_are_one_with_lists_features_and_weights(folder, double):
    compare(folder, "answers", two_processes.answers(Accelerator(cpu=True)))


def test_two_processes_fine_tune_the_denoiser_of_one(folder, double):
    compare(folder, "finetune", two_diffusions.finetune_outcome(Accelerator(cpu=True)))


def compare(folder, kind, one):
    ranks = [load_file(folder / f"rank{rank}-{kind}.safetensors") for rank in (0, 1)]
    for two in ranks:
        assert set(two) == set(one)
        for name, expected in one.items():
            torch.testing.assert_close(two[name], expected, rtol=1e-6, atol=1e-6, msg=name)
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in one)
