"""The command that trains a GAN: what it leaves, how it stops, and what it says of bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from experiments.conftest import EXPERIMENTS, TINY
from limits import files_of_at_most
from PIL import Image
from safetensors.torch import load_file

from hybridgen.cli import command
from hybridgen.evaluation.monitor import Monitor
from hybridgen.networks.build import load_network
from hybridgen.training.signals import Signals

ADVERSARIAL = ("--adversarial.objective", "non_saturating")


def sentence(answer, status):
    """The one line that was said; anything more fails."""
    assert answer.status == status, answer
    (line,) = answer.err.splitlines()
    assert line.startswith("error: ")
    assert answer.out == ""
    return line


def weights(folder):
    found = {}
    for name in ("generator", "discriminator"):
        (file,) = (folder / name).glob("*.safetensors")
        found |= {f"{name}.{key}": tensor for key, tensor in load_file(file).items()}
    return found


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def pictures(folder, count=40, mode="L", size=(8, 8)):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        channels = () if mode == "L" else (3,)
        pixels = np.random.default_rng(i).integers(0, 256, (*size, *channels), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{mode}{size[0]}-{i:03}.png")
    return folder


@pytest.fixture(scope="module")
def finished(gan, tmp_path_factory):
    """A run that nothing disturbed; nobody may write into it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert command(gan.main, gan.Gan, [*TINY, "--out", str(folder)]) == 0
    return folder


def test_a_run_leaves_settings_log_result_pictures_and_weights(finished):
    names = {path.name for path in finished.iterdir()} - {".lock"}
    assert names == {
        *("config.yaml", "log.jsonl", "result.json", "samples", "samples.png", "samples.webp"),
        *("curves.png", "generator", "discriminator", "checkpoints", "best"),
    }
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["training"]["steps"] == 6 and config["data"]["path"] == "digits"
    assert "out" not in config
    rows = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 6]
    assert {"discriminator", "adversarial", "r1", "r2", "generator"} <= rows[0].keys()
    assert "frechet_distance" in rows[-1]
    assert rows[-1]["best"] == 1 and len(rows[-1]["shares"].split()) == 10
    result = json.loads((finished / "result.json").read_text())
    assert {type(value) for value in result.values()} <= {int, float}
    assert {"steps", "seconds", "images_per_second", "floor_kid", "class_reverse_kl"} <= set(result)
    assert result["steps"] == 6
    kept = sorted(path.name for path in (finished / "checkpoints").iterdir())
    assert kept == ["step-00000004", "step-00000006"]
    assert len(list((finished / "samples").iterdir())) == 2
    for name in ("samples.png", "samples.webp", "curves.png"):
        with Image.open(finished / name) as image:
            image.load()


def test_the_weights_of_a_run_can_be_loaded_and_used(finished):
    generator, discriminator = (
        load_network(finished / "generator"),
        load_network(finished / "discriminator"),
    )
    x = generator(torch.randn(3, generator.config.latent))
    assert x.shape == (3, 1, 8, 8)
    assert discriminator(x, torch.zeros(3), None).shape == (3,)


def test_a_finished_run_is_answered_with_its_table(call, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    status, out, err = call("--out", finished)
    assert status == 0
    assert "finished already" in err
    assert out.splitlines()[0].split() == ["measured", "floor"]
    assert "frechet_distance" in out
    del before[finished / ".lock"]
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


POINTS = ("--data.path", "ring", *("--generator.architecture", "mlp"))
POINTS += ("--discriminator.architecture", "mlp")

NOISY = ("--discriminator.noise_conditional", "true", "--diffusion.highest", "1")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--trainig.steps", "3"], r"no setting 'trainig.steps'; did you mean training.steps\?$"),
        (["--training.steps", "three"], "training.steps"),
        (
            ["--training.r1.start", "-1"],
            r"training.r1.start must be a number in \[0, 1e\+09\], got -1.0",
        ),
        (
            ["--training.steps", "0"],
            r"training.steps must be a whole number in \[1, 1e\+08\], got 0",
        ),
        (["--training.learning_rate.until", "2"], r"\(0, 1\], got 2.0"),
        (["--generator.architecture", "transformer"], "generator.architecture"),
        (["--generator.architecture", "mlp"], "architecture mlp is for points"),
        (["--generator.width", "0"], "width"),
        (
            ["--adversarial.objective", "wgan"],
            "adversarial.objective must be one of relativistic, .* got 'wgan'",
        ),
        (["--adversarial.gp", "-1"], "adversarial.gp must be a number in .* got -1.0"),
        (
            ["--adversarial.finite_difference", "0"],
            "adversarial.finite_difference must be a number in .* got 0.0",
        ),
        (["--adversarial.finite_difference", "0.1", "--augment.strength", "0.5"], "augment"),
        (["--augment.strength", "2"], r"augment.strength must be a number in \[0, 1\], got 2.0"),
        (["--training.accumulation", "3"], "batch of 16 cannot be cut evenly"),
        (["--training.batch", "1501"], "batch of 1501 is larger than the training data of 1500"),
        (["--mixed_precision", "fp16"], "mixed_precision"),
        (["--save_every", "0"], "save_every must be a whole number in .* got 0"),
        (["--tracking", "[crystal]"], "crystal"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--data.path", "./nowhere"], "no folder './nowhere'"),
        (["--data.path", "ring", "--data.channels", "1"], "made of points"),
        (["--threads", "0"], "threads"),
        (["--seed", "x"], "seed"),
        (["--seed", "-1"], "seed must be a whole number in .* got -1"),
        (["--eval_samples", "3"], r"eval_samples must be a whole number in \[6, .* got 3"),
        (["--training.beta2.start", "1.0"], "beta2 must stay below 1"),
        (["--training.step", "3"], r"no setting 'training.step'; did you mean training.steps\?$"),
        (["--threads", "100000"], r"threads must be a whole number in \[1, .* got 100000"),
        (["--data.path", "/"], "data.path is the whole file system"),
        (["--data.path", "~nobody-of-this-name/x"], "data.path .* cannot be a folder"),
        (["--data.path", "a" * 5000], "data.path .*aaa.* cannot be a folder"),
        ([*POINTS, "--augment.strength", "0.5"], "augmentation changes images"),
        ([*POINTS, "--augment.adaptive", "true"], "augmentation changes images"),
        (["--diffusion.highest", "1"], "set discriminator.noise_conditional true"),
        (["--diffusion.highest", "1", "--diffusion.lowest", "2"], "lowest must be below"),
        ([*NOISY, "--augment.strength", "0.5"], "set augment.strength 0"),
        (
            [*POINTS, "--generator.width", "4096", "--training.batch", "1000000"],
            r"a batch of 1000000 in 1 part\(s\) would take at least .* lower training.batch",
        ),
        (["--generator.width", "65536"], r"a DcganGenerator of .* would take at least .* GiB"),
    ],
)
def test_a_setting_that_cannot_work_is_one_sentence_and_leaves_no_folder(
    call, tmp_path, argv, expected
):
    line = sentence(call(*argv, "--out", tmp_path / "run"), 2)
    assert re.search(expected, line), line
    assert not (tmp_path / "run").exists()


def test_an_unknown_setting_in_a_file_is_named(call, tmp_path):
    (tmp_path / "my.yaml").write_text("training: {stepps: 3}")
    assert "stepps" in sentence(call("--config", tmp_path / "my.yaml", "--out", tmp_path / "r"), 2)
    assert not (tmp_path / "r").exists()


def no_pictures(folder):
    folder.mkdir()
    (folder / "readme.txt").write_text("x")


def truncated(folder):
    file = sorted(pictures(folder).iterdir())[3]
    os.truncate(file, file.stat().st_size // 2)
    return str(file)


def mixed_sizes(folder):
    pictures(folder, size=(8, 8)), pictures(folder, count=1, size=(9, 9))


def mixed_modes(folder):
    pictures(folder, mode="L"), pictures(folder, count=1, mode="RGB")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (no_pictures, "holds no image"),
        (truncated, "cannot be decoded"),
        (mixed_sizes, "9x9 pixels while the first image is 8x8; set data.resolution"),
        (mixed_modes, "set data.channels to 1 or 3"),
        (lambda folder: pictures(folder, count=12), "batch of 16 is larger than the training data"),
        (lambda folder: pictures(folder, size=(9, 9)), "9"),
        (lambda folder: pictures(folder, size=(8, 12)), "expected a square image"),
        (lambda folder: folder.write_text("x"), "is a file, expected an image folder"),
    ],
)
def test_data_that_cannot_be_trained_on_is_one_sentence_and_leaves_no_folder(
    call, tmp_path, make, expected
):
    named = make(tmp_path / "data")
    line = sentence(call("--data.path", tmp_path / "data", "--out", tmp_path / "run"), 2)
    assert expected in line
    assert not isinstance(named, str) or named in line
    assert not (tmp_path / "run").exists()


def test_a_folder_of_images_is_trained_on(call, tmp_path):
    pictures(tmp_path / "data", mode="RGB")
    answer = call("--data.path", tmp_path / "data", "--out", tmp_path / "run")
    assert answer.status == 0, answer.err
    assert load_network(tmp_path / "run" / "generator").config.channels == 3
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 6


def test_more_past_samples_than_memory_holds_are_refused(call, tmp_path):
    data = pictures(tmp_path / "data", size=(256, 256), mode="RGB", count=20)
    past = ("--training.replay", "0.5", "--training.replay_size", "1000000")
    line = sentence(call("--data.path", data, *past, "--out", tmp_path / "run"), 2)
    assert "1000000 past samples would take at least 732 GiB" in line
    assert "lower training.replay_size" in line


def test_a_hub_name_while_offline_is_one_sentence(call, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    line = sentence(call("--data.path", "nobody/nothing", "--out", tmp_path / "run"), 2)
    assert "'nobody/nothing' is no folder here" in line and "HF_HUB_OFFLINE" in line


def test_a_folder_that_cannot_be_written_or_is_something_else_is_refused(call, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "cannot be written" in sentence(call("--out", tmp_path / "file" / "run"), 2)
    assert "cannot be written" in sentence(call("--out", tmp_path / "file"), 2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert "not a run of this program" in sentence(call("--out", tmp_path / "mine"), 2)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_other_settings_in_the_folder_of_a_run_are_refused(call, finished):
    before = weights(finished)
    line = sentence(call("--out", finished, "--seed", 4, *ADVERSARIAL), 2)
    assert (
        "adversarial.objective was relativistic and is non_saturating; seed was 0 and is 4" in line
    )
    assert same(before, weights(finished))


@pytest.fixture
def killed(finished, tmp_path):
    """What is there of a run that was killed after its last checkpoint."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "result.json").unlink()
    for name in ("generator", "discriminator"):
        shutil.rmtree(folder / name)
    return folder


def test_a_damaged_checkpoint_is_passed_over_and_the_outcome_is_the_same(
    call, blind, finished, killed
):
    newest = killed / "checkpoints" / "step-00000006"
    os.truncate(newest / "discriminator" / "config.json", 5)
    status, _, err = call("--out", killed)
    assert status == 0
    assert "step-00000006 is damaged" in err and "going on from step 4" in err
    assert same(weights(killed), weights(finished))


def test_a_folder_that_grew_is_other_data_and_a_moved_one_is_not(call, blind, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    pictures(data, count=24, size=(8, 8))
    arguments = ("--out", run, "--training.steps", "4")
    assert call("--data.path", data, *arguments).status == 0
    (run / "result.json").unlink()
    data.rename(tmp_path / "moved")
    more = ("--threads", "2", "--training.accumulation", "2", "--data.memory_limit", "0")
    status, _, err = call("--data.path", tmp_path / "moved", *arguments, *more)
    assert status == 0 and "going on from step 4" in err
    (run / "result.json").unlink()
    shutil.copy(next((tmp_path / "moved").iterdir()), tmp_path / "moved" / "new.png")
    line = sentence(call("--data.path", tmp_path / "moved", *arguments), 2)
    assert "holds a run on other examples (some were added" in line


def test_a_checkpoint_of_another_configuration_is_refused(call, blind, killed):
    config = (killed / "config.yaml").read_text()
    (killed / "config.yaml").write_text(config.replace("latent: 8", "latent: 9"))
    answer = call("--generator.latent", 9, "--out", killed)
    assert answer.status == 2
    assert "error: " in answer.err and "was written with another config" in answer.err
    assert "Traceback" not in answer.err


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(
    call, blind, finished, tmp_path
):
    with files_of_at_most(9_000):
        status, _, err = call("--out", tmp_path / "run")
    assert status == 1
    last = err.splitlines()[-1]
    assert last.startswith("error: the checkpoint of step 2 could not be written")
    assert "make room" in last and "Traceback" not in err
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    assert call("--out", tmp_path / "run").status == 0
    assert same(weights(tmp_path / "run"), weights(finished))


def test_a_loss_that_explodes_is_one_sentence_and_the_last_good_checkpoint_stays(call, tmp_path):
    answer = call("--training.learning_rate.start", 1e9, "--out", tmp_path / "run")
    assert answer.status == 1
    assert "error: the " in answer.err.splitlines()[-1] and "at step" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_training_saves_and_leaves_within_a_second_and_the_run_goes_on(
    call, blind, finished, tmp_path, monkeypatch, number
):
    sent = []

    def send():
        sent.append(time.monotonic())
        os.kill(os.getpid(), number)

    preview = Monitor.preview
    monkeypatch.setattr(Monitor, "preview", lambda *_: (send(), time.sleep(20)))
    status, _, err = call("--out", tmp_path / "run")
    assert time.monotonic() - sent[0] < 1
    assert status == 128 + number
    assert (
        err.splitlines()[-1] == "stopped and saved at step 3; the same command goes on from there"
    )
    monkeypatch.setattr(Monitor, "preview", preview)
    status, _, err = call("--out", tmp_path / "run")
    assert status == 0 and "going on from step 3" in err
    assert same(weights(tmp_path / "run"), weights(finished))
    previews = [
        sorted(p.name for p in (f / "samples").iterdir()) for f in (tmp_path / "run", finished)
    ]
    assert previews[0] == previews[1]


def test_a_discriminator_of_patches_trains_and_goes_on_bit_for_bit(
    call, blind, tmp_path, monkeypatch
):
    patches = ("--discriminator.architecture", "patch", "--discriminator.depth", "1")
    assert call(*patches, "--out", tmp_path / "whole").status == 0
    preview = Monitor.preview
    monkeypatch.setattr(Monitor, "preview", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert call(*patches, "--out", tmp_path / "run").status == 128 + signal.SIGTERM
    monkeypatch.setattr(Monitor, "preview", preview)
    assert call(*patches, "--out", tmp_path / "run").status == 0
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    discriminator = load_network(tmp_path / "run" / "discriminator")
    assert discriminator(torch.randn(2, 1, 8, 8)).shape == (2, 1, 2, 2)


def test_a_training_with_noise_says_its_depth_and_goes_on_bit_for_bit(
    call, blind, tmp_path, monkeypatch
):
    noisy = (*NOISY, "--diffusion.speed_images", 1_000, "--seed", 1)  # at once too good
    assert call(*noisy, "--out", tmp_path / "whole").status == 0
    preview = Monitor.preview
    monkeypatch.setattr(Monitor, "preview", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert call(*noisy, "--out", tmp_path / "run").status == 128 + signal.SIGTERM
    monkeypatch.setattr(Monitor, "preview", preview)
    assert call(*noisy, "--out", tmp_path / "run").status == 0
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    rows = [json.loads(row) for row in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    depths = [row["depth"] for row in rows if "depth" in row]
    assert depths == pytest.approx([0.032, 0.064, 0.096])


def test_an_evaluation_cut_off_after_its_step_was_saved_is_made_up_for(
    call, blind, tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    def figures(monitor, model, samples=None):
        if cut:
            raise Killed
        return {"kid": 1.0, "floor_kid": 0.0}

    monkeypatch.setattr(Monitor, "figures", figures)
    for cut in (True, False):
        with nullcontext() if not cut else pytest.raises(Killed):
            assert call("--eval_every", 4, "--out", tmp_path / "run").status == 0
    rows = [json.loads(row) for row in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "kid" in row] == [4, 6]


def test_the_losses_at_an_evaluation_are_logged_however_seldom_others_are(call, blind, tmp_path):
    assert call("--log_every", 50, "--eval_every", 3, "--out", tmp_path / "run").status == 0
    rows = [json.loads(row) for row in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "discriminator" in row] == [3, 6]


def test_the_losses_of_the_step_at_which_a_signal_came_are_logged(
    call, blind, tmp_path, monkeypatch
):
    def received(_, step, **how):
        return signal.SIGTERM if step == 4 else 0

    with monkeypatch.context() as patch:
        patch.setattr(Signals, "received", received)
        assert call("--out", tmp_path / "run").status == 128 + signal.SIGTERM
    assert call("--out", tmp_path / "run").status == 0
    rows = [json.loads(row) for row in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "discriminator" in row] == [2, 4, 6]


def test_a_signal_at_the_final_judgement_leaves_at_once_and_the_run_goes_on(
    call, blind, finished, tmp_path, monkeypatch
):
    figures = Monitor.figures

    def hang(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)

    monkeypatch.setattr(Monitor, "figures", hang)
    started = time.monotonic()
    assert call("--out", tmp_path / "run").status == 128 + signal.SIGTERM
    assert time.monotonic() - started < 15
    assert not (tmp_path / "run" / "result.json").exists()
    monkeypatch.setattr(Monitor, "figures", figures)
    assert call("--out", tmp_path / "run").status == 0
    assert same(weights(tmp_path / "run"), weights(finished))


def test_the_program_itself_ends_with_the_status_of_the_signal_and_without_a_traceback(tmp_path):
    program = [sys.executable, str(EXPERIMENTS / "gan.py"), *TINY, "--training.steps", "100000"]
    process = subprocess.Popen(
        [*program, "--out", str(tmp_path / "run")], stderr=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    while process.poll() is None and not list((tmp_path / "run").glob("checkpoints/step-*")):
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate()
    watchdog.cancel()
    assert process.returncode == 143, err
    assert "stopped and saved at step" in err.splitlines()[-1] and "Traceback" not in err
