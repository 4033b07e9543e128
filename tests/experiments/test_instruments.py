"""Measures held against the truth: small runs of the script."""

import json

import pytest
from experiments.conftest import EXPERIMENTS, load

from hybridgen.cli import command
from hybridgen.errors import InputError


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENTS)
        yield load("instruments")


def test_bounds_of_a_few_pairs_are_written_with_their_excess_and_a_picture(script, tmp_path):
    argv = ["--pairs", "2", "--samples", "60", "--out", str(tmp_path / "run")]
    assert command(script.main, script.Instruments, argv) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in log]
    for name in ("jsd_excess_exact", "tv_excess_trained"):
        assert result[name] == max(row[name] for row in rows)
    above = sum(row["jsd_excess_exact"] > 2 for row in rows)
    assert result["jsd_above_exact"] == above
    assert all(row["jsd_exact"] > row["jsd_flat"] - 0.2 for row in rows)
    assert (tmp_path / "run" / "picture.png").stat().st_size > 5_000


def test_gaps_along_a_short_training_are_ranked_against_the_truth(script, tmp_path):
    argv = ["--what", "gap", "--training.steps", "40", "--training.batch", "16", "--moments", "3"]
    argv += ["--samples", "100", "--worst_steps", "2", "--generator.width", "8"]
    argv += ["--discriminator.width", "8", "--out", str(tmp_path / "run")]
    assert command(script.main, script.Instruments, argv) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    rows = [json.loads(r) for r in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 28, 40]
    for row in rows:
        parts = row["gap_discriminator"] + row["gap_generator"]
        assert row["duality_gap"] == pytest.approx(parts, abs=1e-6)
        assert 0 < row["jsd"] < 0.6932
    assert -1 <= result["spearman_reverse_kl"] <= 1
    assert result["above_jsd_bound"] == sum(r["duality_gap"] > r["jsd_bound"] for r in rows)
    assert (tmp_path / "run" / "picture.png").stat().st_size > 5_000


def test_the_summary_ranks_and_counts(script):
    rows = [
        {"step": i, "reverse_kl": 3.0 - i, "jsd": 0.5 - i / 9, "jsd_bound": 0.4 - i / 9}
        | {"duality_gap": 0.45 - i / 8, "duality_gap_perturbed": 0.1 + i}
        for i in range(3)
    ]
    figures = script.figures_of(rows, script.Instruments(what="gap"))
    assert figures["spearman_reverse_kl"] == figures["spearman_jsd_bound"] == pytest.approx(1)
    assert figures["spearman_jsd_perturbed"] == pytest.approx(-1)
    assert (figures["above_jsd_bound"], figures["above_jsd"]) == (3, 0)
    assert figures["final_duality_gap"] == 0.2


def test_data_without_a_density_and_too_short_a_training_are_refused(script, tmp_path, capsys):
    with pytest.raises(InputError, match="12 moments from step 20 on need a longer"):
        script.Instruments(what="gap", training=script.GanTraining(steps=31))
    argv = ["--what", "gap", "--data.path", "digits", "--out", str(tmp_path / "run")]
    assert command(script.main, script.Instruments, argv) == 2
    assert "known of mixtures alone" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "figure"), [("ring", "modes"), ("line", "modes"), ("digits", "frechet_distance")]
)
def test_the_protocol_of_the_alarms_counts_the_runs_of_a_regime(
    script, tmp_path, monkeypatch, data, figure
):
    names = script.trainings.__globals__
    regime = names["Regime"](steps=10, generator=15, fails=True)
    regimes = "IMAGES" if data == "digits" else "REGIMES"
    monkeypatch.setitem(names, regimes, {"1:15": regime})
    monkeypatch.setitem(names, "EVALUATIONS", 5)
    monkeypatch.setitem(names, "SAMPLES", 200)
    argv = ["--what", "alarms", "--data.path", data, "--seeds", "1", "--out", str(tmp_path / "run")]
    assert command(script.main, script.Instruments, argv) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["1_to_15/runs"] == 1
    assert f"1_to_15/{figure}" in result
    if data == "ring":
        assert result["1_to_15/with_an_alarm"] == 1
        assert 3 <= result["1_to_15/latest_first_alarm"] <= 5


def test_what_the_rule_chose_is_compared_with_the_best_in_hindsight(script, monkeypatch):
    names = script.trainings.__globals__
    monkeypatch.setitem(names, "REGIMES", {"1:1": names["Regime"]()})
    seen, true = (0.5, 0.2, 0.3, 0.4), (0.6, 0.3, 0.25, 0.5)
    rows = [
        {
            "step": step,
            "sliced_wasserstein": a,
            "floor_sliced_wasserstein": 0.1,
            "shares": "0.5 0.5",
        }
        | {"true_sliced_wasserstein": b, "true_modes": 2.0}
        for step, (a, b) in enumerate(zip(seen, true, strict=True), 1)
    ]
    monkeypatch.setitem(names, "history", lambda *args: rows)
    (row,) = script.trainings(script.DataSettings(path="line"), [0], None)
    assert row["rule_over_best"] == pytest.approx(0.3 / 0.25)
    assert row["last_over_best"] == pytest.approx(0.5 / 0.25)
    assert (row["modes"], row["first_alarm"]) == (2, 0)


def test_a_crippled_discriminator_learns_a_hundredth_as_fast(script):
    names = script.trainings.__globals__
    training = names["IMAGES"]["crippled discriminator"].training
    assert (training.discriminator.rate, training.generator.rate) == (0.01, 1)
