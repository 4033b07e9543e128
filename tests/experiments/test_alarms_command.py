"""A training that is ended by its alarms or by its stopping rule, killed and resumed."""

import json
import shutil

import pytest
import torch
from experiments.conftest import EXPERIMENTS
from safetensors.torch import load_file

from hybridgen.cli import command
from hybridgen.evaluation import fit
from hybridgen.evaluation.evaluator import Evaluator
from hybridgen.evaluation.monitor import Monitor
from hybridgen.training.run import JsonLines

RING = (
    *("--config", str(EXPERIMENTS.parent / "configs" / "gan" / "ring.yaml")),
    *("--generator.width", "8", "--generator.depth", "2", "--discriminator.width", "8"),
    *("--training.batch", "16", "--training.steps", "40", "--eval_every", "4", "--log_every", "2"),
    *("--save_every", "6", "--sample_every", "40", "--eval_samples", "100"),
)
DISTANCES = [0.5, 0.3, 0.2, 0.1, 0.15, 0.11, 0.12, 0.13, 0.14, 0.2]


class Killed(BaseException):
    pass


@pytest.fixture
def train(gan, capsys, monkeypatch, tmp_path):
    """A training of a ring whose distances at steps 4, 8, ... are written down."""
    made = []

    def values(evaluator, x):
        made.append(x)
        distance = train.distances[min(train.step // 4 - 1, len(train.distances) - 1)]
        figures = {"sliced_wasserstein": distance, "modes": 8.0}
        return figures | {"floor_sliced_wasserstein": 0.01, "floor_modes": 8.0}

    between = fit.monitored

    def monitored(*arguments, **options):
        conclude, inner = between(*arguments, **options)

        def spied(step):
            train.step = step.number
            return inner(step)

        return conclude, spied

    def run(*argv, out="run", distances=DISTANCES):
        train.distances = distances
        status = command(gan.main, gan.Gan, [*RING, "--out", str(tmp_path / out), *map(str, argv)])
        return status, capsys.readouterr().err

    monkeypatch.setattr(fit, "monitored", monitored)
    monkeypatch.setattr(Evaluator, "values", values)
    monkeypatch.setattr(Evaluator, "shares", lambda *_: train.shares)
    monkeypatch.setattr(Monitor, "finish", lambda *_: None)
    train = run
    train.shares = [0.125] * 8
    return train


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def result(folder):
    return json.loads((folder / "result.json").read_text())


def weights(folder):
    return load_file(folder / "diffusion_pytorch_model.safetensors")


def same(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_the_best_evaluation_s_weights_are_kept_and_the_last_ones_too(train, tmp_path):
    assert train()[0] == 0
    folder = tmp_path / "run"
    assert result(folder)["best_step"] == 16 and result(folder)["steps"] == 40
    assert [r["step"] for r in rows(folder) if r.get("best") == 1] == [4, 8, 12, 16]
    assert not same(folder / "best" / "generator", folder / "generator")
    assert train("--training.steps", 16, out="short")[0] == 0
    assert "best_step" not in result(tmp_path / "short")
    assert train("--stopping.keep_best", "false", "--training.steps", 8, out="none")[0] == 0
    assert not (tmp_path / "none" / "best").exists()


def test_a_run_whose_patience_is_over_ends_as_a_finished_one(train, tmp_path):
    folder = tmp_path / "run"
    status, err = train("--stopping.patience", 3)
    assert status == 0 and "ended at step 28 of 40: the 3 evaluations since step 16" in err
    assert result(folder)["steps"] == 28 and result(folder)["best_step"] == 16
    assert sorted(path.name for path in (folder / "checkpoints").iterdir())[-1] == "step-00000028"
    status, err = train("--stopping.patience", 3)
    assert status == 0 and "finished already" in err


def test_a_collapse_is_said_logged_and_may_end_the_run(train, tmp_path):
    train.shares = [1.0] + [0.0] * 7
    status, err = train("--alarms.stop", "true")
    assert status == 0
    assert err.count("alarm: collapse since step 12: samples are spread as over 1.0 of 8") == 1
    assert "ended at step 16 of 40: an alarm ends the run" in err
    folder = tmp_path / "run"
    assert result(folder)["alarm_collapse"] == 16 and result(folder)["steps"] == 16
    evaluated = [row for row in rows(folder) if "best" in row]
    assert [row["alarm_collapse"] for row in evaluated] == [0, 0, 0, 1]
    assert "collapse since step 12" in evaluated[-1]["alarms"]
    assert train("--alarms.enabled", "false", out="off")[0] == 0
    assert not any("alarm" in name for row in rows(tmp_path / "off") for name in row)


@pytest.mark.parametrize("moment", ["log", "save", "conclude"])
def test_a_run_that_is_killed_comes_to_the_same_best_and_the_same_end(
    train, tmp_path, monkeypatch, moment
):
    train("--stopping.patience", 3, out="whole")
    whole, folder = tmp_path / "whole", tmp_path / "run"
    save, log, finish = fit.save_network, JsonLines.log, fit.table

    def kill_at(step, function):
        def killed(*arguments, **options):
            if train.step == step:
                raise Killed
            return function(*arguments, **options)

        return killed

    place = {"log": (JsonLines, "log", log), "save": (fit, "save_network", save)}
    where, name, function = place.get(moment, (fit, "table", finish))
    with monkeypatch.context() as patch:
        patch.setattr(where, name, kill_at(28 if moment == "conclude" else 16, function))
        with pytest.raises(Killed):
            train("--stopping.patience", 3)
    if moment == "conclude":  # killed after everything but the result
        (folder / "result.json").unlink()
        shutil.rmtree(folder / "generator")
    assert train("--stopping.patience", 3)[0] == 0
    assert same(folder / "best" / "generator", whole / "best" / "generator")
    assert same(folder / "generator", whole / "generator")
    timeless = [{k: v for k, v in result(f).items() if "second" not in k} for f in (folder, whole)]
    assert timeless[0] == timeless[1]
    figures = [[r for r in rows(f) if "best" in r] for f in (folder, whole)]
    assert figures[0] == figures[1]
