"""The command that fine-tunes a diffusion model: what it leaves, what it says, what it refuses."""

import json
import os
import shutil
import signal

import pytest
import torch
import yaml
from experiments.conftest import EXPERIMENTS, Answer, load
from safetensors.torch import load_file

from hybridgen.cli import command, read_settings
from hybridgen.evaluation.monitor import Monitor
from hybridgen.evaluation.runs import SavedRun
from hybridgen.networks.build import build_denoiser, build_generator
from hybridgen.networks.settings import DenoiserSettings, GeneratorSettings
from hybridgen.sampling.settings import SamplerSettings

TINY = (
    *("--training.batch", "8", "--training.steps", "6", "--training.levels", "2", "--threads", "1"),
    *("--num_samples", "40", "--final_samples", "40", "--eval_every", "100"),
    *("--sample_every", "3", "--log_every", "2", "--save_every", "2"),
)
SHORT = {"name": "heun", "steps": 3}


def model(folder, name="denoiser", *, data="digits", shape=(1, 8, 8), classes=0, **more):
    """A folder as `diffusion.py` or another script leaves it, of a model that was never trained."""
    torch.manual_seed(0)
    if name == "denoiser":
        settings = DenoiserSettings(widths=(8, 8), width=8, depth=1)
        network = build_denoiser(settings, shape, classes)
    else:
        network = build_generator(GeneratorSettings(width=8, latent=4), shape, classes)
    network.save_pretrained(folder / name)
    config = {"data": {"path": data, "labels": classes > 0}, "sampler": SHORT, "seed": 0, **more}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "result.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def finetune():
    return load("finetune")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return model(tmp_path_factory.mktemp("start"))


@pytest.fixture
def call(finetune, capsys):
    def run(*argv):
        torch.manual_seed(len(argv))  # nothing may depend on what ran in this process before
        status = command(finetune.main, finetune.Finetune, [*TINY, *map(str, argv)])
        return Answer(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def tuned(finetune, start, tmp_path_factory):
    """A run that nothing disturbed; nobody may write into it."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    argv = [*TINY, "--run", str(start), "--out", str(folder)]
    assert command(finetune.main, finetune.Finetune, argv) == 0
    return folder


def test_a_run_is_one_of_a_diffusion_model_with_data_and_sampler_of_its_start(tuned, start):
    assert {path.name for path in tuned.iterdir()} - {".lock"} == {
        *("config.yaml", "log.jsonl", "result.json", "samples", "samples.png", "samples.webp"),
        *("curves.png", "denoiser", "best", "checkpoints", "generated.safetensors"),
    }
    run = SavedRun(tuned)
    assert run.kind == "diffusion" and run.sampler_settings == SamplerSettings(**SHORT)
    assert (run.data.path, len(run.data.identity)) == ("digits", 32)
    assert run.fingerprint != SavedRun(start).fingerprint
    rows = [json.loads(line) for line in (tuned / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 6]
    assert {"total", "real_ratio", "fake_ratio"} <= rows[0].keys()
    generated = load_file(tuned / "generated.safetensors")["x"]
    assert generated.dtype == torch.uint8 and generated.shape == (40, 1, 8, 8)


def test_the_result_holds_the_figures_of_the_start_from_the_same_noise(
    call, start, tuned, tmp_path
):
    result = json.loads((tuned / "result.json").read_text())
    assert (result["steps"], result["denoiser_calls"]) == (6, 5)
    assert {
        "frechet_distance",
        "frechet_distance_before",
        "floor_frechet_distance",
    } <= result.keys()
    assert not any(name.startswith("floor") and name.endswith("before") for name in result)
    assert result["frechet_distance"] != result["frechet_distance_before"]
    still = ("--training.learning_rate.start", "0", "--training.learning_rate.end", "0")
    assert call("--run", start, "--out", tmp_path / "still", *still).status == 0
    same = json.loads((tmp_path / "still" / "result.json").read_text())
    assert same["frechet_distance"] == same["frechet_distance_before"]
    assert same["frechet_distance_before"] == result["frechet_distance_before"]


def test_a_finished_run_is_answered_with_its_table_and_can_be_tuned_once_more(
    call, start, tuned, tmp_path, monkeypatch
):
    status, out, err = call("--run", start, "--out", tuned)
    assert status == 0 and "finished already" in err and "frechet_distance_before" in out
    monkeypatch.setattr(Monitor, "figures", lambda *_: {})
    assert call("--run", tuned, "--out", tmp_path / "again").status == 0
    assert SavedRun(tmp_path / "again").sampler_settings == SamplerSettings(**SHORT)


@pytest.mark.parametrize(
    ("data", "shape", "classes"), [("ring", (2,), 0), ("digits", (1, 8, 8), 10)]
)
def test_points_and_labelled_images_can_be_tuned(call, tmp_path, monkeypatch, data, shape, classes):
    monkeypatch.setattr(Monitor, "figures", lambda *_: {})
    folder = model(tmp_path / "start", data=data, shape=shape, classes=classes)
    answer = call("--run", folder, "--out", tmp_path / "tuned")
    assert answer.status == 0, answer.err


def test_an_interrupted_run_goes_on_and_ends_bit_equal(
    call, blind, start, tuned, tmp_path, monkeypatch
):
    previews = iter((lambda *_: os.kill(os.getpid(), signal.SIGTERM), lambda *_: None))
    monkeypatch.setattr(Monitor, "preview", lambda *_: next(previews, lambda *_: None)())
    status, _, err = call("--run", start, "--out", tmp_path / "t")
    assert status == 128 + signal.SIGTERM and "saved at step 3" in err
    drawn = (tmp_path / "t" / "generated.safetensors").stat().st_mtime_ns
    status, _, err = call("--run", start, "--out", tmp_path / "t")
    assert status == 0 and "going on from step 3" in err
    assert (tmp_path / "t" / "generated.safetensors").stat().st_mtime_ns == drawn
    name = "denoiser/diffusion_pytorch_model.safetensors"
    mine, theirs = load_file(tmp_path / "t" / name), load_file(tuned / name)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in theirs)


def test_a_run_does_not_go_on_from_a_model_that_was_trained_again(
    call, blind, start, tmp_path, monkeypatch
):
    stop = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    monkeypatch.setattr(Monitor, "preview", stop)
    shutil.copytree(start, tmp_path / "start")
    call("--run", tmp_path / "start", "--out", tmp_path / "t")
    torch.manual_seed(1)
    other = DenoiserSettings(widths=(8, 8))
    build_denoiser(other, (1, 8, 8)).save_pretrained(tmp_path / "start" / "denoiser")
    status, _, err = call("--run", tmp_path / "start", "--out", tmp_path / "t")
    assert status == 2 and "other settings (identity was" in err, err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--run", "nowhere"], "'nowhere' is"),
        (
            ["--data.resolution", "8"],
            "has its own data settings: give data.path alone",
        ),
        (["--sampler.steps", "5"], "has its own sampler, with which it is fine-tuned"),
        (["--training.batch", "41"], "batch of 41 is larger than the training data of 40"),
        (["--training.sharpness", "0"], "training.sharpness must be a number in [1e-12, 1e+09]"),
        (["--training.noise.low", "9"], "noise levels need low < high, got 9.0 and 5.0"),
        (["--num_samples", "2000000"], "num_samples must be a whole number in [1, 1e+06] or null"),
    ],
)
def test_bad_input_gets_one_sentence(call, start, tmp_path, argv, expected):
    refused(call("--run", start, "--out", tmp_path / "t", *argv), expected, tmp_path / "t")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "generator"}, "holds a gan and no denoiser that is sampled in many calls"),
        (
            {"student": {"calls": 4}},
            "holds a student and no denoiser that is sampled in many calls",
        ),
        ({"shape": (1, 16, 16)}, "samples of shape (1, 16, 16) with 0 classes, and the data has"),
        ({"sampler": {"name": "none"}}, "config.yaml is damaged or of another version"),
        ({"sampler": 3}, "config.yaml is damaged"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_any_work(call, tmp_path, options, expected):
    folder = model(tmp_path / "start", **options)
    refused(call("--run", folder, "--out", tmp_path / "t"), expected, tmp_path / "t")


def refused(answer, expected, folder):
    assert answer.status == 2 and answer.out == ""
    sentences = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1 and expected in sentences[0] and len(sentences[0]) <= 300, answer.err
    assert not folder.exists()


def test_the_configurations_can_be_read_and_the_first_is_the_default(finetune):
    configs = EXPERIMENTS.parent / "configs" / "finetune"
    digits, mnist = (
        read_settings(finetune.Finetune, ["--config", str(configs / f"{name}.yaml")])
        for name in ("digits", "mnist")
    )
    assert digits == finetune.Finetune() and "mnist" in mnist.run
