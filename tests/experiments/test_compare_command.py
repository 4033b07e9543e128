"""The comparison, from run folders to the page: what it writes, what it keeps, what it refuses."""

import json
import shutil

import pytest
import torch
import yaml
from experiments.conftest import EXPERIMENTS, Answer
from PIL import Image

from hybridgen.cli import command
from hybridgen.evaluation.runs import fingerprint
from hybridgen.networks.build import DenoiserSettings, build_denoiser
from hybridgen.networks.dcgan import DcganDiscriminator, DcganGenerator

METHODS = [
    {"name": "GAN", "model": "gan"},
    {
        "name": "GAN refined",
        "model": "gan",
        "discriminator": "judge",
        "rounds": [1],
        "baseline": "GAN",
    },
    {"name": "diffusion", "model": "diffusion", "calls": [3]},
    {"name": "guided", "model": "diffusion", "guide": "guide", "scales": [1.0], "calls": [3]},
]
FAST = (
    *("--samples", "120", "--subsets", "8", "--timing_batch", "4", "--timing_rounds", "3"),
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
    """Untrained models of the digits, each with a discriminator that knows nothing, and one of a
    ring.
    """
    home = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    DcganGenerator(resolution=8, latent=8, width=8).save_pretrained(home / "gan" / "generator")
    DcganDiscriminator(resolution=8, width=8).save_pretrained(home / "gan" / "discriminator")
    settings = DenoiserSettings(widths=(8, 8), layers=1)
    build_denoiser(settings, (1, 8, 8)).save_pretrained(home / "diffusion" / "denoiser")
    build_denoiser(DenoiserSettings(width=8, depth=1), (2,)).save_pretrained(
        home / "ring" / "denoiser"
    )
    for name, data in (("gan", "digits"), ("diffusion", "digits"), ("ring", "ring")):
        run_folder(home / name, data)
    for name, of, part in (("judge", "gan", "generator"), ("guide", "diffusion", "denoiser")):
        discriminator = DcganDiscriminator(resolution=8, width=8, noise_conditional=True)
        discriminator.save_pretrained(home / name / "discriminator")
        run_folder(home / name, "digits", run=str(home / of))
        said = {
            **{
                "sampler": "heun",
                "steps": 18,
                "scale": 1.0,
                "validation_fraction": 0.2,
                "significant": True,
            },
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
    assert figures["GAN refined, 1 round/discriminator_forward_calls"] == 2
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
    import hybridgen.evaluation.measure as scoring

    measured = []
    before = scoring.draw_samples
    monkeypatch.setattr(
        scoring, "draw_samples", lambda *a, **k: measured.append(a[0]) or before(*a, **k)
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
                *(
                    "--methods",
                    '[{"name": "a", "model": "gan", "discriminator": "guide", "rounds": [1]}]',
                ),
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
        (
            lambda r: (*given(r, "gan"), "--methods", METHOD, "--quality", "c2st_p"),
            "no metric 'c2st_p'",
        ),
        (
            lambda r: (*given(r, "gan"), "--methods", METHOD, "--timing_rounds", "2"),
            "timing_rounds must be at least 3, got 2",
        ),
        (
            lambda r: (*given(r, "gan"), "--methods", f"[{METHOD[1:-1]}, {METHOD[1:-1]}]"),
            "two methods are called 'a'",
        ),
        (
            lambda r: (*given(r, "gan"), "--methods", METHOD[:-2] + ', "baseline": "GANN"}]'),
            "its baseline 'GANN' is no method",
        ),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(call, runs, tmp_path, argv, sentence):
    answer = call(*argv(runs))
    assert answer.status == 2
    assert sentence in answer.err
    assert "Traceback" not in answer.err
    assert answer.err.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", ""),
        ("config.yaml", "a: [1"),
        ("config.yaml", "training: {batch: 8}"),
        ("config.yaml", "data: {path: digits, colour: red}"),
        ("result.json", "{"),
        ("guide.json", "{}"),
        ("guide.json", "{"),
    ],
)
def test_a_damaged_run_is_named(call, runs, tmp_path, name, content):
    which = "judge" if name == "guide.json" else "gan"
    for run in ("gan", "judge"):
        shutil.copytree(runs / run, tmp_path / run)
    config = yaml.safe_load((tmp_path / "judge" / "config.yaml").read_text())
    config["run"] = str(tmp_path / "gan")
    (tmp_path / "judge" / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / which / name).write_text(content)
    answer = call(*given(tmp_path, "gan", "judge"), "--methods", json.dumps(METHODS[:2]))
    assert answer.status == 2
    assert str(tmp_path / which) in answer.err
    assert "Traceback" not in answer.err


def test_a_row_that_diverges_is_named_and_left_out(call, runs, tmp_path):
    shutil.copytree(runs / "gan", tmp_path / "bad")
    generator = DcganGenerator.from_pretrained(tmp_path / "bad" / "generator")
    with torch.no_grad():
        next(generator.parameters()).fill_(float("nan"))
    generator.save_pretrained(tmp_path / "bad" / "generator")
    given_runs = {"gan": str(runs / "gan"), "bad": str(tmp_path / "bad")}
    methods = [METHODS[0], {"name": "broken", "model": "bad"}]
    answer = call("--runs", json.dumps(given_runs), "--methods", json.dumps(methods))
    assert answer.status == 0, answer.err
    assert "broken is left out" in (tmp_path / "out" / "report.html").read_text()
    assert "GAN/kid" in json.loads((tmp_path / "out" / "result.json").read_text())


def test_a_measurement_that_is_damaged_is_made_again(call, runs, tmp_path):
    argv = (*given(runs, "gan"), "--methods", METHOD)
    first = call(*argv)
    for path in (tmp_path / "out" / "measured").iterdir():
        path.unlink() if path.suffix == ".png" else path.write_text("{")
    again = call(*argv)
    assert again.status == 0, again.err
    assert again.out.splitlines()[0] == first.out.splitlines()[0]


def test_a_guide_for_other_steps_is_used_with_a_warning(call, runs, tmp_path):
    answer = call(*everything(runs))
    assert answer.status == 0, answer.err
    page = (tmp_path / "out" / "report.html").read_text()
    assert "trained on samples of heun with 18 steps" in page


METHOD = '[{"name": "a", "model": "gan"}]'


def test_a_comparison_does_not_overwrite_what_is_something_else(call, runs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    answer = call(*given(runs, "gan"), "--methods", METHOD)
    assert answer.status == 2
    assert "not empty and not a run" in answer.err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.tex"]
