"""The command that makes a denoiser sample in few calls: what it leaves, says and refuses."""

import json
import os
import re
import shutil
import signal

import diffusers
import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from experiments.conftest import EXPERIMENTS, Answer, load
from PIL import Image
from safetensors.torch import load_file

from hybridgen.cli import command, read_settings
from hybridgen.evaluation.monitor import Monitor
from hybridgen.evaluation.runs import SavedRun
from hybridgen.networks.build import load_network
from hybridgen.sampling.build import build_sampler
from hybridgen.sampling.settings import StudentSettings

FEW = ("--training.batch", "8", "--training.steps", "6", "--save_every", "2", "--log_every", "2")
FEW += ("--sample_every", "3", "--threads", "1")
TEACHER = (*FEW, "--denoiser.widths", "[8, 8]", "--data.labels", "true", "--sampler.steps", "2")
TINY = (
    *(*FEW, "--discriminator.architecture", "dcgan", "--discriminator.width", "8"),
    *("--student.calls", "2", "--training.rounds", "2", "--matching.weight", "1"),
    *("--regression.weight.start", "10", "--regression.pairs", "20", "--sampler.steps", "2"),
    *("--eval_samples", "20", "--final_samples", "20"),
)
RATIO = ("--matching.divergence", "forward_kl", "--adversarial.objective", "non_saturating")
ALONE = ("--regression.weight.start", "0")
SHORT = ("--training.steps", "2", "--training.rounds", "1")


@pytest.fixture(scope="module")
def distill():
    return load("distill")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A finished run of `diffusion.py`; nobody may write into it."""
    diffusion, folder = load("diffusion"), tmp_path_factory.mktemp("teacher") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("figures", "finish"):
            patch.setattr(Monitor, name, lambda *_: {})
        argv = [*TEACHER, "--out", str(folder)]
        assert command(diffusion.main, diffusion.Diffusion, argv) == 0
    return folder


@pytest.fixture(scope="module")
def finished(distill, teacher, tmp_path_factory):
    """A student that nothing disturbed; nobody may write into its folder."""
    folder = tmp_path_factory.mktemp("student") / "run"
    argv = [*TINY, "--run", str(teacher), "--out", str(folder)]
    assert command(distill.main, distill.Distill, argv) == 0
    return folder


@pytest.fixture
def call(distill, teacher, capsys):
    """Run `distill.py` with these arguments after `TINY`."""

    def run(*argv):
        torch.manual_seed(len(argv))  # nothing may depend on what ran in this process before
        words = [*TINY, "--run", teacher, *argv]
        status = command(distill.main, distill.Distill, list(map(str, words)))
        return Answer(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A pipeline of diffusers' own, untrained."""
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    folder = tmp_path_factory.mktemp("pipeline")
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained(folder)
    return folder


def weights(folder):
    found = {}
    for file in sorted(folder.glob("*/*.safetensors")):
        found |= {f"{file.parent.name}.{k}": v for k, v in load_file(file).items()}
    return found


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def sentence(answer, status=2):
    """The one line that was said; anything more fails."""
    assert answer.status == status, answer
    (line,) = answer.err.splitlines()
    assert line.startswith("error: ") and len(line) <= 300
    assert answer.out == ""
    return line


def test_a_run_leaves_settings_log_result_pictures_pairs_weights_and_a_pipeline(finished, teacher):
    assert {path.name for path in finished.iterdir()} - {".lock"} == {
        *("config.yaml", "log.jsonl", "result.json", "samples", "samples.png", "samples.webp"),
        *("curves.png", "denoiser", "discriminator", "pipeline", "pairs.safetensors"),
        *("best", "checkpoints"),
    }
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["student"]["calls"] == 2 and config["run"] == str(teacher)
    assert config["data"]["labels"] and config["data"]["path"] == "digits"
    rows = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 6]
    parts = {"generator", "weight", "discriminator", "adversarial", "r1", "r2"}
    for row in rows[:3]:
        assert {"total", "matching", "follower", *parts} <= row.keys()
    result = json.loads((finished / "result.json").read_text())
    assert {type(value) for value in result.values()} <= {int, float}
    assert result["steps"] == 6 and result["denoiser_calls"] == 2
    distances = {"frechet_distance", "frechet_distance_at_1", "floor_frechet_distance"}
    assert {"seconds", "images_per_second", *distances} <= result.keys()
    assert result["frechet_distance"] != result["frechet_distance_at_1"]
    for name in ("samples.png", "samples.webp", "curves.png"):
        with Image.open(finished / name) as image:
            image.load()
    run = SavedRun(finished)
    assert (run.kind, run.student) == ("student", StudentSettings(calls=2))
    assert load_file(finished / "pairs.safetensors")["x"].shape == (2, 20, 1, 8, 8)


def test_the_pipeline_samples_what_the_student_samples(finished):
    student, label = load_network(finished / "denoiser"), torch.arange(3)
    sampler = build_sampler(StudentSettings(calls=2).sampler, student, (1, 8, 8))
    ours, theirs = (torch.Generator().manual_seed(0) for _ in range(2))
    noise = torch.randn(3, 1, 8, 8, generator=ours)
    made = DiffusionPipeline.from_pretrained(finished / "pipeline")
    made.set_progress_bar_config(disable=True)
    options = {"class_labels": label, "num_inference_steps": 2, "output_type": "pt"}
    images = made(3, generator=theirs, **options).images
    x = sampler(noise, label, generator=ours)
    torch.testing.assert_close(images, (x / 2 + 0.5).clamp(0, 1))


def test_a_student_that_does_not_learn_is_its_teacher(call, blind, finished, teacher, tmp_path):
    still = ("--training.learning_rate.start", 0, "--training.learning_rate.end", 0)
    assert call(*still, *ALONE, *SHORT, "--out", tmp_path / "run").status == 0
    given, found = (
        load_file(next((folder / "denoiser").glob("*.safetensors")))
        for folder in (teacher, tmp_path / "run")
    )
    assert same(given, found)
    assert not same(given, load_file(next((finished / "denoiser").glob("*.safetensors"))))


def test_a_finished_student_is_answered_with_its_table(call, finished):
    status, out, err = call("--out", finished)
    assert status == 0 and "finished already" in err
    assert "frechet_distance_at_1" in out and "denoiser_calls" in out


def test_an_interrupted_run_goes_on_with_its_pairs_and_ends_bit_equal(
    call, blind, finished, tmp_path, monkeypatch
):
    stop = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    monkeypatch.setattr(Monitor, "preview", stop)
    status, _, err = call("--out", tmp_path / "run")
    assert status == 128 + signal.SIGTERM and "saved at step 3" in err.splitlines()[-1]
    monkeypatch.setattr(Monitor, "preview", lambda *_: None)
    pairs = tmp_path / "run" / "pairs.safetensors"
    drawn = pairs.read_bytes()
    pairs.write_bytes(drawn[:-1])
    answer = call("--out", tmp_path / "run")
    assert answer.status == 2
    assert f"error: {pairs} is damaged (" in answer.err.splitlines()[-1]
    pairs.unlink()
    status, _, err = call("--out", tmp_path / "run")
    assert status == 0 and "going on from step 3" in err
    assert pairs.read_bytes() == drawn
    assert same(weights(tmp_path / "run"), weights(finished))


def test_a_teacher_that_was_trained_again_is_refused(call, blind, teacher, tmp_path):
    again = shutil.copytree(teacher, tmp_path / "teacher")
    argv = ("--run", again, *ALONE, *SHORT, "--out", tmp_path / "run")
    assert call(*argv).status == 0
    (tmp_path / "run" / "result.json").unlink()
    network = load_network(again / "denoiser")
    with torch.no_grad():
        next(network.parameters()).add_(1)
    network.save_pretrained(again / "denoiser")
    answer = call(*argv)
    assert answer.status == 2
    assert "holds a run with other settings (identity was" in answer.err.splitlines()[-1]


def kind_of(folder, teacher, how):
    """A copy of the teacher's run that is something else."""
    run = shutil.copytree(teacher, folder / "other", ignore=shutil.ignore_patterns("check*"))
    if how == "gan":
        shutil.move(run / "denoiser", run / "generator")
    elif how == "unfinished":
        (run / "result.json").unlink()
    else:
        config = yaml.safe_load((run / "config.yaml").read_text())
        more = {"data": {"path": "ring"}} if how == "ring" else {how: {"calls": 2}}
        (run / "config.yaml").write_text(yaml.safe_dump(config | more))
    return run


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("gan", "holds a gan and no denoiser that is sampled in many calls: name a finished"),
        ("student", "holds a student and no denoiser that is sampled in many calls: name a"),
        ("unfinished", r"is not a finished run of .* \(it has no result.json\)"),
        ("ring", r"denoises samples of shape \(1, 8, 8\) with 10 classes, and the data has shape"),
    ],
)
def test_what_cannot_teach_is_refused(call, teacher, tmp_path, how, expected):
    run = kind_of(tmp_path, teacher, how)
    line = sentence(call("--run", run, "--out", tmp_path / "run"))
    assert re.search(expected, line), line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--run", "no/where"], "where"),
        (["--student.high", "200"], "noise level 200 is asked for, and .* from 0.002 to 80"),
        (["--student.calls", "65"], r"student.calls must be a whole number in \[1, 64\], got 65"),
        (["--student.low", "90"], "low must be below high, got 90.0 and 80.0"),
        (["--discriminator.noise_conditional", "false"], "discriminator.noise_conditional true"),
        (
            ["--adversarial.weight", "0", "--matching.weight", "0", *ALONE],
            "nothing pulls at the student: set adversarial.weight, matching.weight or",
        ),
        (
            ["--adversarial.adaptive", "true", "--matching.weight", "0", *ALONE],
            "adversarial.adaptive weighs the term against other losses, and there are none",
        ),
        (
            [
                *("--adversarial.adaptive", "true", "--matching.weight", "0"),
                *("--regression.weight.end", "0"),
            ],
            "adversarial.adaptive weighs the term against .* in every step",
        ),
        (
            ["--matching.divergence", "forward_kl"],
            "matching.divergence forward_kl needs the density ratio, .* non_saturating",
        ),
        (
            [*RATIO, "--adversarial.noise.high", "9"],
            "asks the discriminator at noise levels from 0.05 to 10, .* from 0.02 to 9: widen",
        ),
        (
            [*ALONE, "--matching.weight", "0", "--adversarial.weight", "0"],
            "nothing pulls at the student",
        ),
        (
            ["--sampler.name", "ddim"],
            "pairs for a student of 2 calls begin at each of its levels, and sampler.name ddim",
        ),
        (
            ["--sampler.low", "1", "--student.low", "0.1", "--student.high", "2"],
            "low must be below high, got 1.0 and 0.",
        ),
        (
            [*ALONE, "--regression.alone", "5"],
            "nothing trains in the first 5 steps, which regression.alone leaves to the pairs",
        ),
        (
            [*RATIO, "--adversarial.noise.high", "10", "--discriminator.architecture", "patch"],
            "needs one logit a sample, and architecture patch answers one a patch",
        ),
        (["--regression.share", "0"], r"regression.share must be a number in \(0, 1\], got 0"),
        (["--regression.pairs", "9"], "regression.pairs must be at least one for each of the 10"),
        (["--adversarial.clean", "2"], r"adversarial.clean must be a number in \[0, 1\], got 2"),
        (["--training.rounds", "0"], r"training.rounds must be a whole number in .*, got 0"),
        (["--training.batch", "1501"], "batch of 1501 is larger than the training data of 1500"),
        (["--discriminator.architecture", "mlp"], "architecture mlp is for points"),
        (["--sampler.name", "heun", "--sampler.steps", "1"], "heun takes at least 2 steps, got 1"),
        (["--data.path", "./nowhere"], "no folder './nowhere'"),
    ],
)
def test_a_setting_that_cannot_work_is_one_sentence_and_leaves_no_folder(
    call, tmp_path, argv, expected
):
    line = sentence(call(*argv, "--out", tmp_path / "run"))
    assert re.search(expected, line), line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("high", [80.0, 7.3])
def test_the_highest_level_of_the_teacher_can_be_asked(high, teacher):
    """Levels are rounded: the first of a grid that begins at `high` may be a bit above it."""
    from hybridgen.evaluation.teacher import Teacher
    from hybridgen.maths.noise import karras_sigmas

    network = load_network(teacher / "denoiser")
    levels = karras_sigmas(3, 0.002, high, 7.0)[:2].tolist()
    given = {"sampler": None, "levels": (0.002, high), "fingerprint": ""}
    Teacher(name="a", network=network, data=None, **given).check((1, 8, 8), 10, levels)


def test_a_pipeline_needs_data_and_teaches(call, blind, pipeline, tmp_path):
    line = sentence(call("--run", pipeline, "--out", tmp_path / "run"))
    assert "is a pipeline, which keeps no data: give --data.path" in line
    argv = ("--run", pipeline, "--data.path", "digits", "--student.high", "100", "--student.low")
    argv = (*argv, "0.02", "--sampler.low", "0.02", "--adversarial.adaptive", "true")
    argv = (*argv, *SHORT, "--out", tmp_path / "run")
    answer = call(*argv)
    assert answer.status == 0, answer.err
    made = DiffusionPipeline.from_pretrained(tmp_path / "run" / "pipeline")
    made.set_progress_bar_config(disable=True)
    images = made(batch_size=2, num_inference_steps=2, output_type="pt").images
    assert images.shape == (2, 1, 8, 8) and bool(images.isfinite().all())
    run = SavedRun(tmp_path / "run")
    assert run.kind == "student" and run.network.shape == (1, 8, 8)
    assert run.facts["denoiser_parameters"] > 0
    labelled = ("--data.labels", "true", "--out", tmp_path / "other")
    status, _, err = call(*argv, *labelled)
    assert status == 2 and "with 0 classes, and the data has" in err.splitlines()[-1]


def test_the_teachers_encoder_can_be_the_discriminator(call, blind, tmp_path):
    argv = ("--adversarial.from_teacher", "true", "--out", tmp_path / "run", *ALONE)
    answer = call(*argv, *SHORT, "--discriminator.noise_conditional", "false")
    assert answer.status == 0, answer.err
    assert type(load_network(tmp_path / "run" / "discriminator")).__name__ == "EncoderDiscriminator"


def compared(monkeypatch, capsys, finished, out, *methods):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    import compare

    fast = ("--samples", "50", "--subsets", "8", "--timing_batch", "2", "--timing_rounds", "3")
    runs = ("--runs", json.dumps({"student": str(finished)}), "--threads", "1")
    argv = [*fast, *runs, "--methods", json.dumps(methods), "--out", str(out)]
    return Answer(command(compare.main, compare.Compare, argv), *capsys.readouterr())


def test_a_student_is_compared_at_its_budgets_and_refused_at_others(
    monkeypatch, capsys, finished, tmp_path
):
    method = {"name": "few", "model": "student"}
    answer = compared(monkeypatch, capsys, finished, tmp_path / "a", method | {"calls": [1, 2]})
    assert answer.status == 0, answer.err
    table = (tmp_path / "a" / "table.md").read_text()
    assert "few, 1 call" in table and "few, 2 calls" in table
    for more, expected in (
        ({"calls": [3]}, "a student of 2 calls samples in 1, 2, and not in 3: choose one of these"),
        ({}, "few: name its denoiser calls a sample"),
        ({"calls": [2], "guide": "student"}, "a student's samples cannot be guided"),
    ):
        line = sentence(compared(monkeypatch, capsys, finished, tmp_path / "b", method | more))
        assert expected in line
        assert not (tmp_path / "b").exists()


def test_a_student_gets_no_guide(capsys, finished, tmp_path):
    guide = load("guide")
    argv = ["--run", str(finished), "--out", str(tmp_path / "g"), "--threads", "1"]
    status = command(guide.main, guide.GuideExperiment, argv)
    assert "whose few calls leave a guide nothing to mend" in sentence(
        Answer(status, *capsys.readouterr())
    )
    assert not (tmp_path / "g").exists()


def test_the_shipped_configuration_is_read_and_is_the_default(distill):
    written = EXPERIMENTS.parent / "configs" / "distill" / "digits.yaml"
    settings = read_settings(distill.Distill, ["--config", str(written)])
    assert settings.student.calls == 1 and written == distill.DEFAULT
