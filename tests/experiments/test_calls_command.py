"""Quality against denoiser calls, from run folders to a table and a picture."""

import json

import pytest
import torch
import yaml
from experiments.conftest import Answer, load
from PIL import Image

from hybridgen.cli import command
from hybridgen.evaluation.runs import fingerprint
from hybridgen.networks.build import DenoiserSettings, build_denoiser
from hybridgen.networks.mlp import MlpDiscriminator

TINY = ("--samples", "200", "--search_samples", "100", "--scales", "[1.0]", "--budgets", "[3, 5]")


@pytest.fixture
def call(capsys):
    script = load("calls")

    def run(*argv):
        status = command(script.main, script.Calls, [*TINY, *map(str, argv)])
        return Answer(status, *capsys.readouterr())

    return run


@pytest.fixture
def runs(tmp_path):
    """Two untrained denoisers of the ring, one of the grid, and a guide for the first."""
    for name, data in (("ring0", "ring"), ("ring1", "ring"), ("grid0", "grid")):
        torch.manual_seed(int(name[-1]))
        folder = tmp_path / name
        denoiser = build_denoiser(DenoiserSettings(width=8, depth=1), (2,))
        denoiser.save_pretrained(folder / "denoiser")
        (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"path": data}}))
    discriminator = MlpDiscriminator(width=8, depth=1, noise_conditional=True)
    discriminator.save_pretrained(tmp_path / "guide" / "discriminator")
    (tmp_path / "guide" / "config.yaml").write_text(yaml.safe_dump({"run": f"{tmp_path}/ring0"}))
    bless(tmp_path)
    return tmp_path


def bless(folder, **changes):
    said = {
        "sampler": "heun",
        "steps": 18,
        "scale": 1.0,
        "validation_fraction": 0.2,
        "significant": True,
        "window": [0.05, None],
    }
    said |= {"model": fingerprint(folder / "ring0"), **changes}
    (folder / "guide" / "guide.json").write_text(json.dumps(said))


def test_a_guide_that_is_not_blessed_is_not_asked(call, runs):
    bless(runs, significant=False)
    answer = call("--guides", json.dumps({"guided": f"{runs}/guide"}), "--out", runs / "out")
    assert answer.status == 0
    assert "guided is not significant" in answer.err
    assert "guided/scale@3: 0" in answer.out


def test_a_guide_for_another_model_is_refused(call, runs):
    bless(runs, model="another")
    answer = call("--guides", json.dumps({"guided": f"{runs}/guide"}), "--out", runs / "out")
    assert answer.status == 2
    assert "is a guide for another model" in answer.err


def test_what_was_judged_once_is_not_judged_again(call, runs, monkeypatch):
    argv = ("--runs", json.dumps({"one": f"{runs}/ring0"}), "--out", runs / "out")
    first = call(*argv)
    monkeypatch.setattr("hybridgen.evaluation.cache.write_atomically", None)
    assert call(*argv).out == first.out


def test_runs_and_guides_are_judged_at_every_budget(call, runs):
    names = {"plain": f"{runs}/ring*"}
    guides = {"guided": f"{runs}/guide"}
    answer = call(
        *("--runs", json.dumps(names), "--guides", json.dumps(guides), "--out", runs / "out")
    )
    assert answer.status == 0, answer.err
    result = json.loads((runs / "out" / "result.json").read_text())
    assert "guided was trained on samples of heun, 18 steps, and is used with" in answer.err
    assert result["plain/discriminator_calls@5"] == 0
    for budget in (3, 5):  # of the levels, all but the last are in the window
        asked = result[f"guided/scale@{budget}"] != 0
        assert result[f"guided/discriminator_calls@{budget}"] == 2 * (budget - 1) * asked
    assert result["plain/sliced_wasserstein@3_se"] > 0
    assert "| sliced wasserstein | 3 calls | 5 calls |" in answer.out
    assert (runs / "out" / "table.md").read_text() in answer.out
    assert Image.open(runs / "out" / "calls.png").size[0] > 600


def test_one_run_at_one_budget_is_what_the_sampler_makes(call, runs):
    answer = call("--runs", json.dumps({"one": f"{runs}/ring0"}), "--out", runs / "a", "--draws", 2)
    again = call("--runs", json.dumps({"one": f"{runs}/ring0"}), "--out", runs / "b", "--draws", 2)
    assert answer.out == again.out


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ((), "there is nothing to sample: name runs or guides"),
        (("--runs", '{"a": "nowhere*"}'), "no finished run of diffusion.py matches"),
        (("--runs", '{"a": "HERE/ring0", "b": "HERE/grid0"}'), "was trained on other data than"),
        (("--guides", '{"g": "HERE/ring0"}'), "is not a finished run of guide.py"),
        (
            ("--runs", '{"a": "HERE/ring0"}', "--sampler.name", "heun", "--budgets", "[4]"),
            "heun makes an odd number of calls, so 4 is not one of its budgets",
        ),
        (("--runs", '{"a": "HERE/ring0"}', "--draws", "0"), "draws at least 1"),
        (("--runs", '{"a": "HERE/ring0"}', "--search_draws", "1"), "search_draws at least 2"),
        (("--runs", '{"a": "HERE/ring0"}', "--samples", "3"), "samples must be more than 5"),
        (("--runs", '{"a": "HERE/ring0"}', "--scales", "[0.0]"), "scales are finite and not 0"),
        (("--runs", '{"a": "HERE/ring0"}', "--threads", "0"), "threads at least"),
        (("--runs", '{"a": "HERE/ring0"}', "--metrics", '["fid"]'), "no metric 'fid' for ring"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_sentence(call, runs, argv, sentence):
    answer = call(*(word.replace("HERE", str(runs)) for word in argv), "--out", runs / "out")
    assert answer.status == 2
    assert sentence in answer.err
    assert "Traceback" not in answer.err
