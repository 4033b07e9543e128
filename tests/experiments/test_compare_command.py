"""The comparison, from run folders to the page: what it writes, what it keeps, what it refuses."""

import json

import pytest
import torch
import yaml
from experiments.conftest import EXPERIMENTS, Answer
from PIL import Image

from hybridgen.config import command
from hybridgen.evaluation.guide_material import fingerprint
from hybridgen.networks.build import DenoiserSettings, build_denoiser
from hybridgen.networks.dcgan import DcganCritic, DcganGenerator

METHODS = [
    {"name": "GAN", "model": "gan"},
    {"name": "GAN refined", "model": "gan", "critic": "judge", "rounds": [1], "baseline": "GAN"},
    {"name": "diffusion", "model": "diffusion", "calls": [3]},
    {"name": "guided", "model": "diffusion", "guide": "guide", "scales": [1.0], "calls": [3]},
]
FAST = (
    *("--samples", "120", "--parts", "4", "--timing_batch", "4", "--timing_rounds", "3"),
    *("--threads", "1"),
)


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    import compare

    def run(*argv):
        given = [*FAST, "--out", str(tmp_path / "out"), *map(str, argv)]
        return Answer(command(compare.main, compare.Compare, given), *capsys.readouterr())

    return run


def run_folder(folder, data, **more):
    config = {"data": {"path": data}, "training": {"batch": 8}, "adversarial": {"source": None}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config | more))
    (folder / "result.json").write_text(json.dumps({"steps": 2, "seconds": 1.0}))


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Untrained models of the digits, each with a critic that knows nothing, and one of a ring."""
    home = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    DcganGenerator(resolution=8, latent=8, width=8).save_pretrained(home / "gan" / "generator")
    DcganCritic(resolution=8, width=8).save_pretrained(home / "gan" / "critic")
    settings = DenoiserSettings(widths=(8, 8), layers=1)
    build_denoiser(settings, (1, 8, 8)).save_pretrained(home / "diffusion" / "denoiser")
    build_denoiser(DenoiserSettings(width=8, depth=1), (2,)).save_pretrained(
        home / "ring" / "denoiser"
    )
    for name, data in (("gan", "digits"), ("diffusion", "digits"), ("ring", "ring")):
        run_folder(home / name, data)
    for name, of, part in (("judge", "gan", "generator"), ("guide", "diffusion", "denoiser")):
        critic = DcganCritic(resolution=8, width=8, noise_conditional=True)
        critic.save_pretrained(home / name / "critic")
        run_folder(home / name, "digits", run=str(home / of))
        said = {
            **{"sampler": "heun", "steps": 18, "scale": 1.0, "set_apart": 0.2, "blessed": True},
            **{"window": [0.05, None], "model": fingerprint(home / of, part)},
            "log_ratio": {
                **{"sigma": 0.05, "slope": 1.0, "offset": 0.0},
                **{"log_bound": 1.0, "acceptance": 0.5},
            },
        }
        (home / name / "guide.json").write_text(json.dumps(said))
    return home


def given(runs, *names):
    return ("--runs", json.dumps({name: str(runs / name) for name in names}))


def everything(runs):
    return (*given(runs, "gan", "judge", "diffusion", "guide"), "--methods", json.dumps(METHODS))


def test_a_comparison_leaves_figures_a_table_pictures_and_a_page(call, runs, tmp_path):
    answer = call(*everything(runs))
    assert answer.status == 0, answer.err
    out = tmp_path / "out"
    figures = json.loads((out / "result.json").read_text())
    for row in ("GAN", "GAN refined, 1 round", "diffusion, 3 calls", "guided, 3 calls, scale 1"):
        for metric in ("frechet_distance", "kid", "coverage", "c2st_accuracy", "memorisation"):
            low, value, high = (figures[f"{row}/{metric}{end}"] for end in ("_low", "", "_high"))
            assert low <= value <= high
            assert figures[f"floor_{metric}"] is not None
        assert figures[f"{row}/seconds"] > 0
        assert figures[f"{row}/peak_bytes"] > 0
    assert figures["GAN/generator_calls"] == 1
    assert figures["GAN refined, 1 round/generator_calls"] == 2
    assert figures["GAN refined, 1 round/critic_forward_calls"] == 2
    assert figures["guided, 3 calls, scale 1/denoiser_calls"] == 3
    assert figures["training/gan/images"] == 16
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert "guided" in (out / "table.md").read_text()
    assert len((out / "log.jsonl").read_text().splitlines()) == 4
    for name in ("front", "samples/real", "samples/GAN", "samples/guided-3-calls-scale-1"):
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 100
    settings = yaml.safe_load((out / "config.yaml").read_text())
    assert settings["samples"] == 120
    assert answer.out.count("the page is") == 1


def test_what_is_measured_is_not_measured_again_and_a_row_can_be_added(call, runs, monkeypatch):
    first = call(*given(runs, "gan"), "--methods", json.dumps(METHODS[:1]))
    assert first.status == 0, first.err
    import hybridgen.evaluation.scoring as scoring

    measured = []
    before = scoring.samples_of
    monkeypatch.setattr(
        scoring, "samples_of", lambda *a, **k: measured.append(a[0]) or before(*a, **k)
    )
    assert call(*given(runs, "gan"), "--methods", json.dumps(METHODS[:1])).out == first.out
    assert measured == []
    more = call(*given(runs, "gan", "judge"), "--methods", json.dumps(METHODS[:2]))
    assert more.status == 0, more.err
    assert len(measured) == 1


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (lambda r: (), "there is nothing to compare"),
        (
            lambda r: (*given(r, "gan"), "--methods", '[{"name": "a", "model": "b"}]'),
            "a: no run is called 'b'; there are gan",
        ),
        (
            lambda r: (*given(r, "gan", "diffusion"), "--methods", METHOD),
            "no method samples the run 'diffusion'",
        ),
        (
            lambda r: ("--runs", json.dumps({"gan": str(r)}), "--methods", METHOD),
            "given for 'gan', is not a finished run",
        ),
        (
            lambda r: (
                *given(r, "gan", "ring"),
                *("--methods", f'[{METHOD[1:-1]}, {{"name": "r", "model": "ring", "calls": [3]}}]'),
            ),
            "was trained on other data",
        ),
        (
            lambda r: (
                *given(r, "gan", "guide"),
                *("--methods", '[{"name": "a", "model": "gan", "critic": "guide", "rounds": [1]}]'),
            ),
            "a density ratio belongs to one model",
        ),
        (
            lambda r: (*given(r, "gan"), "--methods", METHOD, "--samples", "3"),
            "samples",
        ),
        (
            lambda r: (
                *("--models", '[{"name": "gan", "script": "gan", "config": "gan/digits"}]'),
                *("--methods", METHOD),
            ),
            "not trained yet: gan; add --train true",
        ),
        (
            lambda r: (*given(r, "diffusion"), "--methods", METHOD.replace("gan", "diffusion")),
            "name its denoiser calls",
        ),
        (
            lambda r: (*given(r, "gan"), "--methods", METHOD[:-2] + ', "calls": [3]}]'),
            "a GAN takes one pass",
        ),
        (
            lambda r: (*given(r, "gan"), "--methods", METHOD, "--quality", "beauty"),
            "no metric 'beauty'",
        ),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(call, runs, tmp_path, argv, sentence):
    answer = call(*argv(runs))
    assert answer.status == 2
    assert sentence in answer.err
    assert "Traceback" not in answer.err
    assert answer.err.strip().count("\n") == 0


METHOD = '[{"name": "a", "model": "gan"}]'


def test_a_comparison_does_not_overwrite_what_is_something_else(call, runs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    answer = call(*given(runs, "gan"), "--methods", METHOD)
    assert answer.status == 2
    assert "not empty and not a run" in answer.err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.tex"]
