"""What scripts find in the folder that they are given: something else, links to what is somebody
else's, damaged files. Nothing outside or foreign is written, changed or deleted, and a sentence
says what is wrong.
"""

import importlib
import json
import os
import random
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from experiments.conftest import EXPERIMENTS, TINY, Answer

from hybridgen.cli import command
from hybridgen.errors import InputError
from hybridgen.evaluation.monitor import Monitor
from hybridgen.evaluation.runs import SavedRun, load_guide, training_summary
from hybridgen.networks.build import DenoiserSettings, build_denoiser

CLASSES = {
    **{"gan": "Gan", "diffusion": "Diffusion", "hybrid": "Diffusion", "guide": "GuideExperiment"},
    **{
        "autoencoder": "Autoencoder",
        "finetune": "Finetune",
        "compare": "Compare",
        "seeds": "Seeds",
        "features": "FeatureExperiment",
    },
    **{"benchmark": "Benchmark", "endurance": "Endurance", "distill": "Distill"},
    **{"instruments": "Instruments", "lecture": "Lecture", "stability": "Stability"},
}
RUNS = ["--threads", "1", "--training.steps", "2", "--training.batch", "8", "--log_every", "1"]
ARGUMENTS = {
    "gan": [*TINY, "--training.steps", "2"],
    "diffusion": [*RUNS, "--denoiser.widths", "[8, 8]", "--sampler.steps", "2"],
    "hybrid": [*RUNS, "--adversarial.source", "chain"],
    "autoencoder": [*RUNS, "--autoencoder.widths", "[8, 8]", "--discriminator.width", "8"],
    "guide": [
        *(*RUNS, "--discriminator.width", "8", "--discriminator.depth", "1"),
        *("--sampler.steps", "2", "--training.levels", "2", "--num_samples", "40"),
        *("--scales", "[0.0, 1.0]", "--scale_samples", "4", "--scale_draws", "2"),
        *("--final_samples", "8"),
    ],
    "distill": [
        *(*RUNS, "--discriminator.width", "8", "--regression.weight.start", "1"),
        *("--regression.pairs", "8", "--sampler.steps", "2"),
    ],
    "finetune": [*RUNS, "--num_samples", "40", "--final_samples", "40"],
    "compare": [
        *("--samples", "120", "--subsets", "8", "--timing_batch", "2", "--timing_rounds", "3"),
        *("--threads", "1", "--methods", '[{"name": "a", "model": "gan"}]'),
    ],
    "seeds": ["--seeds", "1"],
    "features": ["--training.steps", "2", "--training.batch", "8", "--log_every", "1"],
    "benchmark": [],
    "endurance": [],
    "instruments": ["--pairs", "1", "--samples", "40"],
    "lecture": ["--effort", "0.01", "--statements", "[modes]"],
    "stability": [
        *("--config", str(EXPERIMENTS.parent / "configs" / "stability" / "tricks.yaml")),
        *("--seeds", "2", "--run_tricks", "[R1]", "--run_sets", "[ring]"),
    ],
}
MADE = ("gan", "autoencoder", "guide", "distill", "compare", "features", "seeds")
"""Scripts whose whole folders are made here; the others share their parts."""


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXPERIMENTS))
        yield {name: importlib.import_module(name) for name in CLASSES}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A denoiser that was never trained, and a script that trains in no time."""
    home = tmp_path_factory.mktemp("home")
    build_denoiser(DenoiserSettings(widths=(8, 8), layers=1), (1, 8, 8)).save_pretrained(
        home / "diffusion" / "denoiser"
    )
    (home / "diffusion" / "config.yaml").write_text(
        yaml.safe_dump({"data": {"path": "digits"}, "sampler": {"steps": 2}})
    )
    (home / "diffusion" / "result.json").write_text("{}")
    (home / "gan.py").write_text(
        "import json, pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "folder.mkdir(exist_ok=True)\n"
        "(folder / 'result.json').write_text(json.dumps({'kid': 0.5}))\n"
    )
    return home


@pytest.fixture(scope="module")
def run(scripts, home):
    """Run a script in this process, as a program would be."""

    def run(name, folder, *more):
        argv = [*ARGUMENTS[name], "--out", str(folder), *map(str, more)]
        if name in ("guide", "distill", "finetune") and "--run" not in more:
            argv += ["--run", str(home / "diffusion")]
        if name == "compare" and "--runs" not in more:
            argv += ["--runs", json.dumps({"gan": str(home / "gan")})]
        script = scripts[name]
        main = script.hybrid if name == "hybrid" else script.main
        torch.manual_seed(0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scripts["seeds"], "__file__", str(home / "seeds.py"))
            # Takes longer than such a training, and writes nothing.
            patch.setattr(Monitor, "figures", lambda *_: {"kid": 0.5, "floor_kid": 0.1})
            return command(main, getattr(script, CLASSES[name]), argv)

    return run


@pytest.fixture
def answer(run, capsys):
    def answer(*argv):
        capsys.readouterr()
        return Answer(run(*argv), *capsys.readouterr())

    return answer


@pytest.fixture(scope="module")
def made(run, home):
    """What each script leaves; nobody may write into it."""
    for name in MADE:
        assert run(name, home / name) == 0
    return SimpleNamespace(**{name: home / name for name in MADE})


def snapshot(folder):
    """Everything about every file but whether it was read; a lock says nothing."""
    return {
        path: (path.lstat().st_mode, path.lstat().st_mtime_ns, path.lstat().st_ino)
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


def sentence(answer, status=2):
    """The one line that was said, of bounded length whatever the folder is called."""
    assert answer.status == status, answer
    lines = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and len(lines[0]) <= 300 and "Traceback" not in answer.err, answer
    return lines[0]


def project(folder, marker="# settings of my own"):
    """A folder with a person's work in it."""
    for name in ("samples/holiday.png", "models/mine/weights.safetensors", "checkpoints/step-1/x"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("mine")
    for name in ("result.json", "log.jsonl", "table.md", "front.png", "report.html"):
        (folder / name).write_text("{}")
    (folder / "config.yaml").write_text(f"{marker}\ntraining: {{steps: 3}}\n")
    return folder


@pytest.mark.parametrize("name", CLASSES)
def test_a_folder_of_something_else_is_refused_and_left_as_it_is(
    answer, made, tmp_path, monkeypatch, name
):
    other = "Compare" if name != "compare" else "Gan"
    for marker in ("# settings of my own", f"# {other}, hybridgen"):
        folder = project(tmp_path / marker.split()[1])
        monkeypatch.chdir(folder)
        before = snapshot(folder)
        assert "not a run of this program" in sentence(answer(name, "."))
        assert snapshot(folder) == before and not (folder / ".lock").exists()


HOLD = (
    "import fcntl, sys; files = [open(path, 'a') for path in sys.argv[1:]]; "
    "[fcntl.lockf(file, fcntl.LOCK_EX) for file in files]; print(flush=True); sys.stdin.read()"
)


def test_of_two_processes_in_one_folder_the_second_is_refused_whatever_it_runs(
    answer, made, tmp_path
):
    for name in CLASSES:
        (tmp_path / name).mkdir()
    locks = [str(tmp_path / name / ".lock") for name in CLASSES]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, *locks], **pipes) as other:
        other.stdout.readline()
        for name in CLASSES:
            assert "another process is working in" in sentence(answer(name, tmp_path / name))
            assert [path.name for path in (tmp_path / name).iterdir()] == [".lock"]
        other.stdin.close()


READ = {".lock", "config.yaml", "result.json", "generated.safetensors", "pairs.safetensors"}
"""What a run goes on from."""


def linked(made, folder, outside):
    """A folder of the same script in which every file is a link to somebody's, and every name that
    a write could go through; only the settings are files.
    """
    for path in [made, *made.rglob("*")]:
        place = folder / path.relative_to(made)
        if "checkpoints" in place.parts:
            continue
        if path.is_dir():
            place.mkdir(parents=True)
        elif path.name == "config.yaml":
            shutil.copy(path, place)
        for name in (path.name, f".tmp-{path.name}") if path.is_file() else ():
            if name not in READ:
                number = len(list(outside.iterdir()))
                target = outside / str(number)
                target.write_text("somebody's")
                (os.symlink, os.link)[number // 2 % 2](target, place.with_name(name))


@pytest.mark.parametrize("name", MADE)
def test_in_a_folder_full_of_links_nothing_is_written_outside(answer, made, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    linked(getattr(made, name), tmp_path / "run", outside)
    files = {path: path.read_text() for path in outside.iterdir()}
    assert len(files) > 4
    status, _, err = answer(name, tmp_path / "run")
    assert status == 0, err
    assert {path: path.read_text() for path in outside.iterdir()} == files
    links = [path for path in (tmp_path / "run").rglob("*") if path.is_symlink()]
    assert all(path.name.startswith(".tmp-") for path in links)


@pytest.mark.parametrize(
    "place", ["samples", "checkpoints", "generator", ".tmp-generator", ".lock"]
)
def test_a_link_in_the_place_of_a_folder_is_refused(answer, made, tmp_path, place):
    outside, folder = project(tmp_path / "outside"), tmp_path / "run"
    folder.mkdir()
    shutil.copy(made.gan / "config.yaml", folder)
    os.symlink(outside / "samples" if place != ".lock" else outside / "new", folder / place)
    before = snapshot(tmp_path)
    line = sentence(answer("gan", folder))
    assert str(folder / place) in line and "is a link" in line
    assert snapshot(tmp_path) == before


def test_a_refused_command_leaves_nothing_behind(answer, scripts, home, made, tmp_path):
    out = tmp_path / "a" / "b"
    assert "no metric 'beauty'" in sentence(answer("compare", out, "--quality", "beauty"))
    argv = ("--run", home / "nowhere")
    assert "nowhere is not a finished run" in sentence(answer("guide", out, *argv))
    assert not (tmp_path / "a").exists()


def test_a_refused_comparison_leaves_an_earlier_one_as_it_is(run, made, tmp_path):
    folder = shutil.copytree(made.compare, tmp_path / "out")
    before = snapshot(folder)
    assert run("compare", folder, "--quality", "beauty", "--subsets", "9") == 2
    assert snapshot(folder) == before


def test_a_training_that_is_refused_leaves_nothing_of_the_whole(
    run, home, made, tmp_path, monkeypatch, capfd
):
    script = "import sys; print('error: no data', file=sys.stderr); sys.exit(2)"
    (tmp_path / "gan.py").write_text(script)
    monkeypatch.setattr(sys.modules["compare_models"], "HERE", tmp_path)
    models = '[{"name": "new", "script": "gan", "config": "gan/digits"}]'
    methods = '[{"name": "a", "model": "new"}]'
    argv = ("--models", models, "--methods", methods, "--train", "true", "--runs", "{}")
    shutil.copy(tmp_path / "gan.py", home / "diffusion.py")
    for name, more, line in (
        ("compare", argv, "error: no data"),
        ("seeds", ("--script", "diffusion"), "error: seed0: no data"),
    ):
        capfd.readouterr()
        assert run(name, tmp_path / "out", *more) in (1, 2)
        errors = [x for x in capfd.readouterr().err.splitlines() if x.startswith("error")]
        assert errors == [line]
        assert not (tmp_path / "out").exists()
    folder = shutil.copytree(made.compare, tmp_path / "earlier")
    before = snapshot(folder)
    assert run("compare", folder, *argv) == 1
    assert snapshot(folder) == before


def test_damaged_files_of_a_run_end_in_a_sentence_or_are_done_without(
    answer, scripts, made, tmp_path
):
    """Drawn from files of finished and unfinished runs, by a seed."""
    draws = random.Random(0)
    for number in range(16):
        name, folder = draws.choice(["gan", "distill", "guide"]), tmp_path / str(number)
        case = scripts["endurance"].damaged_copy(getattr(made, name), folder, draws)
        case, before = f"case {number} of {name}, {case}", snapshot(folder)
        status, _, err = answer(name, folder)
        assert status in (0, 1, 2), f"{case}: {err}"
        if status:
            lines = [line for line in err.splitlines() if line.startswith("error: ")]
            assert len(lines) == 1 and len(lines[0]) <= 300, f"{case}: {err}"
        if status == 2:
            assert snapshot(folder) == before, f"{case}: {err}"
        shutil.rmtree(folder)


def test_damaged_files_are_refused_by_whoever_reads_a_run(scripts, made, tmp_path):
    draws, refused = random.Random(1), 0
    for number in range(40):
        name, folder = draws.choice(["gan", "guide", "distill"]), tmp_path / str(number)
        shutil.copytree(getattr(made, name), folder, ignore=shutil.ignore_patterns("checkpoints"))
        case = scripts["endurance"].damaged(folder, draws)
        read = [lambda run: run.kind, lambda run: run.data, lambda run: run.network]
        if name == "guide":
            read = [lambda run: load_guide(run.folder), lambda run: run.result]
        read += [lambda run: run.student] if name == "distill" else []
        for part in [*read, lambda run: training_summary("a", [run], "")]:
            try:
                part(SavedRun(folder))
            except InputError as error:
                refused += 1
                assert len(str(error)) <= 300 and "\n" not in str(error), case
            except Exception as error:
                raise AssertionError(case) from error
        shutil.rmtree(folder)
    assert refused > 30
