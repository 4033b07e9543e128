"""What tricks do: against scipy's paired t test, and a small sweep that breaks off and goes on."""

import json
import math
import sys

import pytest
import yaml
from experiments.conftest import EXPERIMENTS, TINY
from scipy import stats

from hybridgen.cli import command, read_settings
from hybridgen.metrics.intervals import holm

NAMES = ("gan", "seeds", "stability", "stability_effects", "stability_report")
RUN = """
import importlib.util, json, pathlib, sys
sys.path.insert(0, {experiments!r})
from hybridgen.cli import read_settings
spec = importlib.util.spec_from_file_location("real", {experiments!r} + "/gan.py")
real = importlib.util.module_from_spec(spec)
sys.modules["real"] = real
spec.loader.exec_module(real)
from dataclasses import asdict
from hybridgen.training.lock import FolderLock
gan = read_settings(real.Gan, sys.argv[1:])
config = {{name: value for name, value in asdict(gan).items() if name != "out"}}
home = pathlib.Path({home!r})
with FolderLock(gan.out, config, "Gan"), open(home / "started", "a") as started:
    started.write(f"{{gan.out.parent.name}} {{gan.seed}}\\n")
    relativistic = gan.adversarial.objective == "relativistic"
    if relativistic and gan.seed == 1 and (home / "cut").exists():
        sys.exit("error: the power is cut")
    if gan.training.learning_rate.start > 1:
        print("error: the generator's loss stopped being finite at step 3")
        sys.exit("a warning at exit")
    quality = 0.5 + (0.2 + 0.01 * gan.seed) * relativistic + 0.01 * gan.seed
    figures = {{"high_quality": quality, "floor_high_quality": 1.0 - 0.02 * gan.seed}}
    (gan.out / "result.json").write_text(json.dumps(figures))
"""
"""A training of no time, whose folder is as that of a real one."""


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(EXPERIMENTS))
    yield {name: __import__(name) for name in NAMES}
    sys.path.remove(str(EXPERIMENTS))
    for name in NAMES:
        del sys.modules[name]


@pytest.fixture
def sweep(modules, tmp_path, monkeypatch, capsys):
    """Run `stability.py` on two tricks of a tiny game with two seeds, and these arguments."""
    script = RUN.format(experiments=str(EXPERIMENTS), home=str(tmp_path))
    (tmp_path / "gan.py").write_text(script)
    config = {
        "base": {"training.steps": 2, "adversarial.objective": "non_saturating"},
        "sets": [
            {"name": "ring", "measures": ["high_quality"], "arguments": {"data.path": "ring"}}
        ],
        "tricks": [
            {"name": "relativistic", "arguments": {"adversarial.objective": "relativistic"}},
            {"name": "too fast", "arguments": {"training.learning_rate.start": 9}},
        ],
    }
    (tmp_path / "tricks.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(modules["seeds"], "__file__", str(tmp_path / "seeds.py"))

    def run(*more):
        argv = ["--config", str(tmp_path / "tricks.yaml"), "--out", str(tmp_path / "out")]
        script = modules["stability"]
        status = command(script.main, script.Stability, [*argv, "--seeds", "2", *more])
        return status, capsys.readouterr().err.splitlines()[-1:]

    return run


@pytest.mark.parametrize(
    ("measure", "good"), [("high_quality", "helps"), ("frechet_distance", "harms")]
)
def test_an_effect_is_scipys_paired_t_test_with_holms_correction(modules, measure, good):
    values = {
        "base": [0.30, 0.34, 0.31, 0.36, 0.33],
        "up": [0.40, 0.45, 0.42, 0.46, 0.42],
        "slightly up": [0.35, 0.35, 0.33, 0.40, 0.34],
        "level": [0.33, 0.31, 0.32, 0.36, 0.33],
    }
    rows = modules["stability_effects"].effects(measure, values)
    tests = [stats.ttest_rel(values[name], values["base"]) for name in rows]
    adjusted = holm([test.pvalue for test in tests])
    for (name, effect), test, p in zip(rows.items(), tests, adjusted, strict=True):
        differences = [x - y for x, y in zip(values[name], values["base"], strict=True)]
        assert effect.differences == pytest.approx(differences)
        assert effect.mean.value == pytest.approx(sum(values[name]) / 5)
        interval = test.confidence_interval(0.95)
        assert effect.change.value == pytest.approx(sum(differences) / 5)
        assert (effect.change.low, effect.change.high) == pytest.approx(tuple(interval))
        assert effect.p == pytest.approx(p)
    # Alone the second trick would pass (p .033), among three it does not.
    assert tests[1].pvalue < 0.05 < rows["slightly up"].p
    outcomes = [effect.outcome for effect in rows.values()]
    assert outcomes == [good, "neutral", "neutral"]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_trick_that_is_not_finite_once_has_no_effect_and_the_others_have(modules):
    values = {"base": [0.1, 0.2, 0.15], "lost": [0.1, math.inf, 0.2], "better": [0.05, 0.151, 0.1]}
    rows = modules["stability_effects"].effects("reverse_kl", values)
    assert rows["lost"].outcome == "not finite" and rows["lost"].p == 1
    assert rows["better"].outcome == "helps"


def test_a_trick_that_is_finite_where_the_base_is_not_is_not_called_so(modules):
    effects, report = modules["stability_effects"].effects, modules["stability_report"]
    values = {"base": [0.1, math.inf], "cure": [0.01, 0.01]}
    columns = {("ring", "reverse_kl"): effects("reverse_kl", values | {"t": [math.inf] * 2})}
    assert [row.outcome for row in columns["ring", "reverse_kl"].values()] == [
        "base not finite",
        "not finite",
    ]
    base = report.mean_of("reverse_kl", values["base"])
    figures = report.flat(columns, {("ring", "reverse_kl"): (None, base)})
    assert figures["ring/cure/reverse_kl_helps"] is figures["ring/t/reverse_kl_helps"] is None
    (sentence,) = report.findings(columns)
    assert "with t not finite; the base is not finite, cure finite" in sentence


@pytest.mark.parametrize("count", [2, 5, 8])
def test_equal_differences_and_counts_are_as_likely_as_their_signs(modules, count):
    effects = modules["stability_effects"].effects
    base = [0.1, 0.3, 0.7, 0.2, 0.9, 0.8, 0.33, 0.55][:count]
    for values, different in (
        ({"base": [7] * count, "t": [8] * count}, count),
        ({"base": base, "t": [x + 0.1 for x in base]}, count),  # equal but for rounding
        ({"base": [7] * count, "t": [8] * (count - 1) + [9]}, count),  # of counts
        ({"base": [7] * count, "t": [8] * (count - 1) + [7]}, count - 1),  # one is equal
    ):
        row, p = effects("modes", values)["t"], 2 ** (1 - different)
        assert row.p == pytest.approx(p) and row.outcome == ("helps" if p < 0.05 else "neutral")
    # With any signs 3 and 1 sum to 2 or more in size, as 3 - 1 does.
    assert effects("modes", {"base": [4, 4], "t": [7, 3]})["t"].p == pytest.approx(1)


def test_a_trick_alone_is_corrected_for_all_that_there_are(modules):
    values = {"base": [0.30, 0.34, 0.31, 0.36, 0.33], "t": [0.35, 0.35, 0.33, 0.40, 0.34]}
    effects = modules["stability_effects"].effects
    alone, among = effects("high_quality", values), effects("high_quality", values, family=18)
    assert alone["t"].p < 0.05 and alone["t"].outcome == "helps"
    assert among["t"].p == pytest.approx(18 * alone["t"].p) and among["t"].outcome == "neutral"


def test_a_sweep_that_breaks_off_goes_on_where_it_was_and_tells_what_helps(sweep, tmp_path):
    (tmp_path / "cut").touch()
    status, (sentence,) = sweep("--jobs", "2")
    assert status == 1
    assert "ring/relativistic/seed1 ended with status 1: error: the power is cut" in sentence
    started = (tmp_path / "started").read_text()
    (tmp_path / "cut").unlink()
    (tmp_path / "started").unlink()
    assert sweep("--jobs", "2")[0] == 0
    again = (tmp_path / "started").read_text().splitlines()
    assert "relativistic 1" in again
    # What was finished is not started again; a training that was lost is tried once more.
    whole = {"base 0", "relativistic 0"}
    assert whole <= set(started.splitlines()) and not whole & set(again)
    figures = json.loads((tmp_path / "out" / "result.json").read_text())
    assert set(map(type, figures.values())) <= {int, float, type(None)}
    assert figures["ring/relativistic/high_quality_change"] == pytest.approx(0.205)
    assert figures["ring/relativistic/high_quality_helps"] == 1
    assert figures["ring/too fast/high_quality_helps"] is None
    assert figures["ring/too fast/high_quality"] is None
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| real samples (floor) | 0.99 |" in table
    assert "helps, p 0.031: +0.20 " in table and "(not finite)" in table
    page = (tmp_path / "out" / "stability.html").read_text()
    assert "helped by relativistic" in page and page.count("<svg") == 1
    assert "(ring: 2)" in page
    p = figures["ring/relativistic/high_quality_p"]
    assert sweep("--jobs", "2", "--run_tricks", "[relativistic]")[0] == 0
    figures = json.loads((tmp_path / "out" / "result.json").read_text())
    assert figures["ring/relativistic/high_quality_p"] == pytest.approx(p)
    assert (tmp_path / "out" / "stability.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--run_tricks", "[relativstic]"], "did you mean relativistic?; there are relativistic,"),
        (["--run_sets", "[rung]"], "there is no set of data 'rung'; did you mean ring?"),
        (["--tricks", "[{name: base, arguments: {}}]"], "each trick has a name of its own"),
        (["--tricks", "[{name: a/b, arguments: {}}]"], "got 'a/b': rename it"),
        (
            ["--tricks", "[{name: odd, arguments: {training.stebs: 1}}]"],
            "odd on ring: there is no setting 'training.stebs'; did you mean training.steps?",
        ),
        (
            ["--sets", "[{name: ring, measures: [beauty], arguments: {}}]"],
            "ring: no metric 'beauty' ranks models",
        ),
        (
            ["--sets", "[{name: ring, measures: [mode_std], arguments: {}}]"],
            "ring: mode_std is best at 0.974 and can be missed on either side",
        ),
        (
            ["--sets", "[{name: ring, measures: [], arguments: {}}]"],
            "measures of ring must have an",
        ),
        (["--run_sets", "[]"], "run_sets must have an entry, got none"),
        (["--run_tricks", "[]"], "run_tricks must have an entry, got none"),
        (["--seeds", "1"], "seeds must be a whole number in [2, 1000], got 1"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_sentence_and_nothing_is_made(
    sweep, tmp_path, more, sentence
):
    status, (error,) = sweep(*more)
    assert status == 2
    assert sentence in error
    assert not (tmp_path / "out").exists()


def test_a_measure_that_a_set_does_not_have_is_refused_after_the_first_run(sweep, tmp_path):
    status, (error,) = sweep("--sets", "[{name: ring, measures: [modes], arguments: {}}]")
    assert status == 2
    assert "ring/base/seed0 has no figure modes, but high_quality" in error
    assert len((tmp_path / "started").read_text().splitlines()) <= 2


def test_a_real_run_is_known_as_finished_and_refused_with_other_settings(
    call, blind, modules, tmp_path
):
    stability, argv = modules["stability"], ["--data.path", "digits", "--seed", "3"]
    assert call(*argv, "--out", tmp_path / "run").status == 0
    gan = read_settings(modules["gan"].Gan, [*TINY, *argv])
    figures = stability._finished(tmp_path / "run", gan)
    assert figures == json.loads((tmp_path / "run" / "result.json").read_text())
    other = stability.replace(gan, seed=4)
    with pytest.raises(stability.InputError, match=r"holds a run with other settings \(seed\)"):
        stability._finished(tmp_path / "run", other)
    assert stability._finished(tmp_path / "none", gan) is None


def test_the_shipped_tricks_are_settings_of_gan_py(modules, tmp_path):
    stability = modules["stability"]
    argv = ["--config", str(stability.DEFAULT), "--out", str(tmp_path), "--seeds", "2"]
    settings = read_settings(stability.Stability, argv)
    rows = {name: len(tricks) for name, (_, tricks) in settings.chosen.items()}
    assert rows == {"ring": 19, "grid": 19, "digits": 20}
    few = stability.replace(settings, run_tricks=("R1", "packing", "spectral norm"))
    jobs, finished, seconds = stability.queue(few)
    assert not finished and seconds == 2 * 4 * sum(each.seconds for each in settings.sets)
    assert len({job.name for job in jobs}) == len(jobs) == 2 * 3 * 4
    assert jobs[0].name == "ring/base/seed0" and jobs[12].name == "ring/base/seed1"
