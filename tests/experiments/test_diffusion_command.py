"""The commands that train a diffusion model, alone or with a discriminator beside it."""

import json
import os
import re
import runpy
import shutil
import signal
import sys

import datasets
import pytest
import torch
import yaml
from experiments.conftest import EXPERIMENTS, Answer, load
from PIL import Image
from safetensors.torch import load_file

from hybridgen.cli import command, read_settings
from hybridgen.evaluation.monitor import Monitor
from hybridgen.networks.build import load_network

TINY = (
    *(
        "--denoiser.widths",
        "[8, 16]",
        "--discriminator.architecture",
        "dcgan",
        "--discriminator.width",
        "8",
    ),
    *("--training.batch", "16", "--training.steps", "6", "--save_every", "2", "--log_every", "2"),
    *("--sample_every", "3", "--threads", "1", "--sampler.steps", "3"),
)
PLAIN = ()
HYBRID = (
    *("--adversarial.source", "chain", "--adversarial.warm_up", "1", "--adversarial.ramp", "2"),
    *("--adversarial.calls", "[2, 3]"),
)
BOTH = pytest.mark.parametrize("kind", ["plain", "hybrid"])
TERM = {"plain": PLAIN, "hybrid": HYBRID}
FOLDERS = ("diffusion", "hybrid")
CONFIGS = sorted(p for f in FOLDERS for p in (EXPERIMENTS.parent / "configs" / f).glob("*.yaml"))


@pytest.fixture(scope="module")
def diffusion():
    return load("diffusion")


@pytest.fixture
def call(diffusion, capsys, monkeypatch, tmp_path_factory):
    """Run `diffusion.py` with these arguments after `TINY`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))

    def run(*argv):
        torch.manual_seed(len(argv))  # nothing may depend on what ran in this process before
        status = command(diffusion.main, diffusion.Diffusion, [*TINY, *map(str, argv)])
        return Answer(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def finished(diffusion, tmp_path_factory):
    """Runs that nothing disturbed; nobody may write into them."""
    folder = tmp_path_factory.mktemp("finished")
    for kind, term in TERM.items():
        argv = [*TINY, *term, "--out", str(folder / kind)]
        assert command(diffusion.main, diffusion.Diffusion, argv) == 0
    return folder


def weights(folder):
    found = {}
    for file in sorted(folder.glob("*/*.safetensors")):
        found |= {f"{file.parent.name}.{k}": v for k, v in load_file(file).items()}
    return found


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def sentence(answer, status):
    """The one line that was said; anything more fails."""
    assert answer.status == status, answer
    (line,) = answer.err.splitlines()
    assert line.startswith("error: ")
    assert answer.out == ""
    return line


@BOTH
def test_a_run_leaves_settings_log_result_pictures_and_weights(finished, kind):
    folder = finished / kind
    assert {path.name for path in folder.iterdir()} - {".lock"} == {
        *("config.yaml", "log.jsonl", "result.json", "samples", "samples.png", "samples.webp"),
        *("curves.png", "denoiser", "best", "checkpoints"),
        *(("discriminator",) if kind == "hybrid" else ()),
    }
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["training"]["steps"] == 6 and "out" not in config
    assert config["adversarial"]["source"] == ("chain" if kind == "hybrid" else None)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 6]
    parts = {"generator", "weight", "discriminator", "adversarial", "r1", "r2"}
    for row in rows[:3]:
        assert {"total", "denoising"} <= row.keys()
        assert parts & row.keys() == (parts if kind == "hybrid" else set())
    assert "frechet_distance" in rows[-1]
    result = json.loads((folder / "result.json").read_text())
    assert {type(value) for value in result.values()} <= {int, float}
    assert result["steps"] == 6 and result["denoiser_calls"] == 5
    assert {"seconds", "images_per_second", "parameters", "floor_kid"} <= result.keys()
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == ["step-00000004", "step-00000006"]
    assert len(list((folder / "samples").iterdir())) == 2
    for name in ("samples.png", "samples.webp", "curves.png"):
        with Image.open(folder / name) as image:
            image.load()


@BOTH
def test_the_weights_of_a_run_can_be_loaded_and_used(finished, kind):
    denoiser = load_network(finished / kind / "denoiser")
    x, sigma = torch.randn(3, *denoiser.shape), torch.ones(3)
    assert denoiser(x, sigma).shape == (3, 1, 8, 8)
    result = json.loads((finished / kind / "result.json").read_text())
    assert result["parameters"] == sum(p.numel() for p in denoiser.parameters())
    if kind == "hybrid":
        assert load_network(finished / kind / "discriminator")(x, sigma, None).shape == (3,)


@BOTH
def test_a_finished_run_is_answered_with_its_table(call, finished, kind):
    before = {p: p.stat().st_mtime_ns for p in (finished / kind).rglob("*") if p.is_file()}
    status, out, err = call(*TERM[kind], "--out", finished / kind)
    assert status == 0
    assert "finished already" in err
    assert out.splitlines()[0].split() == ["measured", "floor"]
    assert "frechet_distance" in out and "denoiser_calls" in out
    del before[finished / kind / ".lock"]
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


@BOTH
def test_an_interrupted_run_goes_on_and_ends_bit_equal(
    call, blind, finished, tmp_path, monkeypatch, kind
):
    stop = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    monkeypatch.setattr(Monitor, "preview", stop)
    status, _, err = call(*TERM[kind], "--out", tmp_path / "run")
    assert status == 128 + signal.SIGTERM
    assert "stopped and saved at step 3" in err.splitlines()[-1]
    monkeypatch.setattr(Monitor, "preview", lambda *_: None)
    status, _, err = call(*TERM[kind], "--out", tmp_path / "run")
    assert status == 0 and "going on from step 3" in err
    assert same(weights(tmp_path / "run"), weights(finished / kind))
    shutil.copytree(tmp_path / "run", tmp_path / "killed", ignore=ignored)
    assert call(*TERM[kind], "--out", tmp_path / "killed").status == 0
    assert same(weights(tmp_path / "killed"), weights(finished / kind))


def ignored(folder, names):
    """What is not there of a run that was killed after its last checkpoint."""
    return {"result.json", "denoiser", "discriminator"} & set(names) if "log.jsonl" in names else ()


@pytest.mark.parametrize(("warm_up", "warned"), [(6, True), (5, False)])
def test_a_training_shorter_than_the_warm_up_says_that_no_discriminator_took_part(
    call, blind, tmp_path, warm_up, warned
):
    answer = call(*HYBRID, "--adversarial.warm_up", warm_up, "--out", tmp_path / "run")
    assert answer.status == 0
    assert ("warms up for 6 steps" in answer.err) == warned
    assert ("no discriminator takes part" in answer.err) == warned


@pytest.mark.parametrize("source", ["clean", "renoised"])
def test_points_are_trained_on_with_labels(call, blind, tmp_path, source):
    points = ("--data.path", "ring", "--data.labels", "true", "--discriminator.architecture", "mlp")
    term = ("--adversarial.source", source, "--adversarial.warm_up", 0, "--adversarial.ramp", 0)
    forced = ("--adversarial.force", "true")  # the ring's modes are far narrower than the noise
    answer = call(
        *points, *term, *forced, "--adversarial.adaptive", "true", "--out", tmp_path / "run"
    )
    assert answer.status == 0, answer.err
    assert load_network(tmp_path / "run" / "denoiser").classes == 8
    assert load_network(tmp_path / "run" / "discriminator").config.noise_conditional


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--adversarial.source", "clean", "--adversarial.highest", "0.2"], "above 0.125 even a p"),
        (
            ["--adversarial.source", "chain", "--discriminator.noise_conditional", "false"],
            "set discriminator.noise_conditional true",
        ),
        (
            [
                "--adversarial.source",
                "clean",
                "--data.path",
                "ring",
                "--discriminator.architecture",
                "mlp",
            ],
            "above 0.00353518 even a p",  # a quarter of a mode's deviation
        ),
        (["--adversarial.source", "clan"], "adversarial.source"),
        (["--adversarial.weight", "-1"], "adversarial.weight"),
        (["--adversarial.share", "0"], r"adversarial.share must be a number in \(0, 1\], got 0"),
        (["--adversarial.calls", "[1]"], r"adversarial.calls must be .* in \[2, 1000\], got"),
        (
            ["--adversarial.lowest", "90"],
            "adversarial.lowest must be below high, got 90.0 and 80.0",
        ),
        (
            [*HYBRID, "--adversarial.objective", "wgan"],
            "adversarial.objective must be one of .* got 'wgan'",
        ),
        ([*HYBRID, "--discriminator.architecture", "mlp"], "architecture mlp is for points"),
        (["--denoiser.widths", "[8, 8, 8, 8, 8]"], "does not divide 8: give fewer widths"),
        (["--denoiser.widths", "[0]"], "denoiser.widths must be .* got"),
        (["--denoiser.widths", "[]"], "widths is empty"),
        (["--denoiser.widths", "wide"], "denoiser.widths"),
        (["--denoiser.patch", "3"], "does not divide 8"),
        (["--denoiser.dropout", "1"], r"denoiser.dropout must be a number in \[0, 1\), got 1.0"),
        (["--denoiser.data_std", "0"], "denoiser.data_std must be a number in .* got 0.0"),
        (["--data.path", "ring", "--denoiser.min_wavelength", "0"], "min_wavelength must be"),
        (["--sampler.name", "eulr"], "sampler.name"),
        (["--sampler.steps", "1"], "sampler heun takes at least 2 steps, got 1"),
        (["--sampler.low", "90"], "low"),
        (["--training.steps", "0"], "training.steps must be a whole number in .* got 0"),
        (["--training.label_drop", "1"], "training.label_drop"),
        (["--training.noise.std", "0"], "training.noise.std must be a number in .* got 0.0"),
        (["--training.accumulation", "3"], "batch of 16 cannot be cut evenly"),
        (["--training.batch", "1501"], "batch of 1501 is larger than the training data of 1500"),
        (["--mixed_precision", "fp16"], "mixed_precision"),
        (["--save_every", "0"], "save_every must be a whole number in .* got 0"),
        (["--eval_samples", "3"], r"eval_samples must be a whole number in \[6, .* got 3"),
        (["--final_samples", "5"], r"final_samples must be a whole number in \[6, .* got 5"),
        (["--data.path", "./nowhere"], "no folder './nowhere'"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--seed", "-1"], "seed must be a whole number in .* got -1"),
        (["--trainig.steps", "3"], "trainig"),
        (
            ["--data.path", "ring", "--denoiser.width", "8192", "--training.batch", "1000000"],
            r"a batch of 1000000 in 1 part\(s\) would take at least .* lower training.batch",
        ),
    ],
)
def test_a_setting_that_cannot_work_is_one_sentence_and_leaves_no_folder(
    call, tmp_path, argv, expected
):
    line = sentence(call(*argv, "--out", tmp_path / "run"), 2)
    assert re.search(expected, line), line
    assert not (tmp_path / "run").exists()


def test_clean_estimates_at_high_noise_can_be_forced(call, blind, tmp_path):
    high = ("--adversarial.source", "clean", "--adversarial.highest", 2, "--adversarial.force")
    assert call(*high, "true", "--out", tmp_path / "run").status == 0


def test_other_settings_in_the_folder_of_a_run_are_refused(call, finished):
    line = sentence(call(*HYBRID, "--out", finished / "plain"), 2)
    assert "adversarial.source was None and is chain" in line


@BOTH
def test_a_loss_that_explodes_is_one_sentence(call, tmp_path, kind):
    explosive = ("--training.learning_rate.start", 1e9)
    answer = call(*TERM[kind], *explosive, "--out", tmp_path / "run")
    assert answer.status == 1
    assert "error: the denoiser's loss stopped being finite at step" in answer.err.splitlines()[-1]
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: "/".join(path.parts[-2:]))
def test_every_shipped_configuration_is_read(diffusion, path):
    settings = read_settings(diffusion.Diffusion, ["--config", str(path)])
    assert (settings.adversarial.source is not None) == (path.parent.name == "hybrid")


def test_the_embedded_digits_are_the_default(diffusion):
    written = EXPERIMENTS.parent / "configs" / "diffusion" / "digits.yaml"
    assert read_settings(diffusion.Diffusion, ["--config", str(written)]) == diffusion.Diffusion()


@pytest.fixture
def through_the_door(monkeypatch):
    """The arguments that `hybrid.py` goes on with, given these."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))

    def run(*argv):
        taken = []

        def read(settings, words, _):
            taken.append((settings.__name__, words))
            return settings()

        monkeypatch.setattr("hybridgen.cli.read_settings", read)
        monkeypatch.setattr(sys, "argv", ["hybrid.py", *argv])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(EXPERIMENTS / "hybrid.py"), run_name="__main__")
        ((name, words),) = taken
        assert name == "Diffusion" and stop.value.code == 2
        return words

    return run


def test_the_hybrid_door_takes_the_digits_unless_it_is_given_a_file(through_the_door, capsys):
    digits = EXPERIMENTS.parent / "configs" / "hybrid" / "digits.yaml"
    assert through_the_door("--seed", "3") == ["--config", str(digits), "--seed", "3"]
    for given in (["--config", "own.yaml"], ["--config=own.yaml"], ["--seed=1", "--config", "b"]):
        assert through_the_door(*given) == given
    assert digits.is_file()
    assert capsys.readouterr().err.count("no discriminator takes part") == 4
