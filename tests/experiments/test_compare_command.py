"""The comparison, from run folders to the page: what it writes, what it keeps, what it refuses."""

import json
import re
import shutil

import pytest
import torch
import yaml
from experiments.conftest import EXPERIMENTS, Answer
from PIL import Image

from hybridgen.cli import command
from hybridgen.data.images import digits
from hybridgen.evaluation.runs import SavedRun
from hybridgen.networks.build import DenoiserSettings, build_denoiser
from hybridgen.networks.dcgan import DcganDiscriminator, DcganGenerator
from hybridgen.report import publish as publishing

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
def script(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    import compare

    return compare


@pytest.fixture
def call(script, capsys, tmp_path):
    def run(*argv):
        arguments = [*FAST, "--out", str(tmp_path / "out"), *map(str, argv)]
        return Answer(command(script.main, script.Compare, arguments), *capsys.readouterr())

    return run


def run_folder(folder, data, **more):
    config = {"data": {"path": data}, "training": {"batch": 8}, "adversarial": {"source": None}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config | more))
    (folder / "result.json").write_text(json.dumps({"steps": 2, "seconds": 1.0}))


def guide_folder(folder, model, **more):
    """A discriminator that was never trained, as `guide.py` leaves one for this model."""
    discriminator = DcganDiscriminator(resolution=8, width=8, noise_conditional=True)
    discriminator.save_pretrained(folder / "discriminator")
    run_folder(folder, "digits", run=str(model), **more)
    log_ratio = {"sigma": 0.05, "slope": 1.0, "offset": 0.0, "log_bound": 1.0, "acceptance": 0.5}
    record = {
        **{"sampler": "heun", "steps": 18, "scale": 1.0, "validation_fraction": 0.2},
        **{"significant": True, "window": [0.05, None], "model": SavedRun(model).fingerprint},
        "log_ratio": log_ratio,
    }
    (folder / "guide.json").write_text(json.dumps(record))


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
    for name, of in (("judge", "gan"), ("guide", "diffusion")):
        guide_folder(home / name, home / of)
    return home


def test_models_with_and_without_labels_are_compared_each_with_its_own(call, runs, tmp_path):
    labelled = tmp_path / "labelled"
    settings = DenoiserSettings(widths=(8, 8), layers=1)
    build_denoiser(settings, (1, 8, 8), 10).save_pretrained(labelled / "denoiser")
    run_folder(labelled, "digits")
    config = (labelled / "config.yaml").read_text()
    (labelled / "config.yaml").write_text(
        config.replace("path: digits", "path: digits\n  labels: true")
    )
    names = {"gan": str(runs / "gan"), "labelled": str(labelled)}
    methods = [
        {"name": "GAN", "model": "gan"},
        {"name": "diffusion", "model": "labelled", "calls": [3]},
    ]
    for order in (methods, methods[::-1]):
        flags = ("--runs", json.dumps(names), "--methods", json.dumps(order))
        answer = call(*flags, "--out", tmp_path / str(order[0]["name"]))
        assert answer.status == 0, answer.err


def run_flags(runs, *names):
    return ("--runs", json.dumps({name: str(runs / name) for name in names}))


def everything(runs):
    return (
        *run_flags(runs, "gan", "judge", "diffusion", "guide"),
        "--methods",
        json.dumps(METHODS),
    )


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
    first = call(*run_flags(runs, "gan"), "--methods", json.dumps(METHODS[:1]))
    assert first.status == 0, first.err
    import hybridgen.evaluation.measure as scoring

    measured = []
    before = scoring.draw_samples
    monkeypatch.setattr(
        scoring, "draw_samples", lambda *a, **k: measured.append(a[0]) or before(*a, **k)
    )
    assert call(*run_flags(runs, "gan"), "--methods", json.dumps(METHODS[:1])).out == first.out
    assert measured == []
    more = call(*run_flags(runs, "gan", "judge"), "--methods", json.dumps(METHODS[:2]))
    assert more.status == 0, more.err
    assert len(measured) == 1


@pytest.fixture(scope="session")
def seeds(tmp_path_factory):
    """Two trainings of a GAN, and two of a diffusion model with a guide for each."""
    home = tmp_path_factory.mktemp("seeds")
    settings = DenoiserSettings(widths=(8, 8), layers=1)
    for seed in range(2):
        torch.manual_seed(seed)
        gan, diffusion, guide = (
            home / name / f"seed{seed}" for name in ("gan", "diffusion", "guide")
        )
        DcganGenerator(resolution=8, latent=8, width=8).save_pretrained(gan / "generator")
        build_denoiser(settings, (1, 8, 8)).save_pretrained(diffusion / "denoiser")
        run_folder(gan, "digits", seed=seed)
        run_folder(diffusion, "digits", seed=seed)
        guide_folder(guide, diffusion, seed=seed)
    return home


def test_a_pattern_of_seeds_gives_the_mean_of_the_trainings_and_its_standard_error(
    call, seeds, tmp_path
):
    patterns = {"0": f"{seeds}/gan/seed0", "1": f"{seeds}/gan/seed1", "both": f"{seeds}/gan/seed*"}
    methods = [{"name": f"row {name}", "model": name} for name in patterns]
    answer = call("--runs", json.dumps(patterns), "--methods", json.dumps(methods))
    assert answer.status == 0, answer.err
    figures = json.loads((tmp_path / "out" / "result.json").read_text())
    for metric in ("frechet_distance", "kid", "coverage"):
        first, second = (figures[f"row {seed}/{metric}"] for seed in (0, 1))
        mean, error = figures[f"row both/{metric}"], figures[f"row both/{metric}_se"]
        assert mean == pytest.approx((first + second) / 2)
        assert error == pytest.approx(abs(first - second) / 2)
        assert f"row 0/{metric}_se" not in figures
    reach = 12.7062 * figures["row both/kid_se"]  # Student's t, one degree of freedom
    ends = [figures["row both/kid"] - reach, figures["row both/kid"] + reach]
    assert [figures[f"row both/kid_{end}"] for end in ("low", "high")] == pytest.approx(ends)
    assert figures["row both/trainings"] == figures["training/both/trainings"] == 2
    assert "row 0/trainings" not in figures and "row both/c2st_p" not in figures
    page = (tmp_path / "out" / "report.html").read_text()
    assert "trainings: 2 of both, one of each other model" in page
    assert "seed0; seed1" in page


def test_each_training_is_guided_by_its_own_guide(call, seeds, tmp_path):
    method = METHODS[3] | {"name": "guided", "scales": []}
    patterns = {name: f"{seeds}/{name}/seed*" for name in ("diffusion", "guide")}
    argv = ("--runs", json.dumps(patterns), "--methods", json.dumps([METHODS[2], method]))
    answer = call(*argv)
    assert answer.status == 0, answer.err
    figures = json.loads((tmp_path / "out" / "result.json").read_text())
    assert figures["guided, 3 calls, scale 1/trainings"] == 2
    page = (tmp_path / "out" / "report.html").read_text()
    assert "trained 2 times each" in page and "one training" not in page
    assert figures["guided, 3 calls, scale 1/kid"] != figures["diffusion, 3 calls/kid"]
    records = map(json.loads, (f.read_text() for f in (tmp_path / "out/measured").iterdir()))
    assert sum("neighbours" in record["measured"] for record in records) == 4


def test_guides_for_some_of_the_trainings_or_of_different_scales_are_refused(call, seeds, tmp_path):
    method = METHODS[3] | {"scales": []}
    runs = {"diffusion": f"{seeds}/diffusion/seed*", "guide": f"{seeds}/guide/seed0"}
    answer = call("--runs", json.dumps(runs), "--methods", json.dumps([method]))
    assert answer.status == 2
    assert "'guide' has 1 discriminators for 1 of 2 trainings of 'diffusion'" in answer.err
    for seed in range(2):
        folder = shutil.copytree(seeds / "guide" / f"seed{seed}", tmp_path / f"guide{seed}")
        record = json.loads((folder / "guide.json").read_text()) | {"scale": 1.0 + seed}
        (folder / "guide.json").write_text(json.dumps(record))
    runs["guide"] = f"{tmp_path}/guide*"
    answer = call("--runs", json.dumps(runs), "--methods", json.dumps([method]))
    assert answer.status == 2
    assert "its guides were given different scales ([1.0, 2.0])" in answer.err


def test_missing_models_are_trained_in_the_order_of_their_list(script, tmp_path):
    models = (
        script.Model(name="gan", script="gan", config="gan/digits"),
        script.Model(name="judge", script="guide", config="guide/gan-digits", of="gan"),
    )
    methods = (script.Method(name="a", model="gan", discriminator="judge", rounds=(1,)),)
    settings = script.Compare(models=models, methods=methods, train=True)
    folders = script.find_runs(models, {}, tmp_path)
    models = [training.model for training in script.trainings_of(settings, folders)]
    assert [(model.name, model.script) for model in models] == [("gan", "gan"), ("judge", "guide")]


def test_only_what_methods_use_is_trained_and_what_their_discriminators_judge(script, tmp_path):
    models = (
        script.Model(name="gan", script="gan", config="gan/digits"),
        script.Model(name="judge", script="guide", config="guide/gan-digits", of="gan"),
        script.Model(name="diffusion", script="diffusion", config="diffusion/digits"),
        script.Model(name="other", script="gan", config="gan/ring"),
    )
    methods = (script.Method(name="a", model="diffusion", calls=(3,), guide="judge"),)
    settings = script.Compare(models=models, methods=methods, train=True)
    trainings = script.trainings_of(settings, script.find_runs(models, {}, tmp_path))
    assert [training.model.name for training in trainings] == ["gan", "judge", "diffusion"]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (lambda r: (), "there is nothing to compare"),
        (
            lambda r: (*run_flags(r, "gan"), "--methods", '[{"name": "a", "model": "b"}]'),
            "a: no run is called 'b'; there are gan",
        ),
        (
            lambda r: (*run_flags(r, "gan", "diffusion"), "--methods", METHOD),
            "no method samples the run 'diffusion'",
        ),
        (
            lambda r: ("--runs", json.dumps({"gan": str(r)}), "--methods", METHOD),
            "given for 'gan', is not a finished run",
        ),
        (
            lambda r: (
                *run_flags(r, "gan", "ring"),
                *("--methods", f'[{METHOD[1:-1]}, {{"name": "r", "model": "ring", "calls": [3]}}]'),
            ),
            "was trained on other data",
        ),
        (
            lambda r: (
                *run_flags(r, "gan", "guide"),
                *(
                    "--methods",
                    '[{"name": "a", "model": "gan", "discriminator": "guide", "rounds": [1]}]',
                ),
            ),
            "a density ratio belongs to one model",
        ),
        (
            lambda r: (*run_flags(r, "gan"), "--methods", METHOD, "--samples", "3"),
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
            lambda r: (*run_flags(r, "diffusion"), "--methods", METHOD.replace("gan", "diffusion")),
            "name its denoiser calls",
        ),
        (
            lambda r: (*run_flags(r, "gan"), "--methods", METHOD[:-2] + ', "calls": [3]}]'),
            "a GAN takes one pass",
        ),
        (
            lambda r: (*run_flags(r, "gan"), "--methods", METHOD, "--quality", "beauty"),
            "no metric 'beauty'",
        ),
        (
            lambda r: (*run_flags(r, "gan"), "--methods", METHOD, "--quality", "c2st_p"),
            "no metric 'c2st_p'",
        ),
        (
            lambda r: (*run_flags(r, "gan"), "--methods", METHOD, "--timing_rounds", "2"),
            "timing_rounds must be a whole number in [3, 1000], got 2",
        ),
        (
            lambda r: (*run_flags(r, "gan"), "--methods", f"[{METHOD[1:-1]}, {METHOD[1:-1]}]"),
            "two methods are called 'a'",
        ),
        *(
            (
                lambda r, names=names: (
                    *run_flags(r, "gan"),
                    "--methods",
                    json.dumps([{"name": name, "model": "gan"} for name in names]),
                ),
                sentence,
            )
            for names, sentence in (
                (["--"], "of 1 to 120 letters, digits and spaces, got '--'"),
                (["a" * 300], "of 1 to 120 letters, digits and spaces"),
                (["a/b", "a b"], "the pictures of 'a b' and 'a/b' would have one name"),
                (["real"], "the pictures of 'real' and 'real samples' would have one name"),
            )
        ),
        (
            lambda r: (*run_flags(r, "gan"), "--methods", METHOD[:-2] + ', "baseline": "GANN"}]'),
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


def test_held_out_data_must_be_that_which_was_not_trained_on(call, runs, tmp_path):
    identity = digits().identity
    for run, data in (("gan", "0" * 32), ("diffusion", identity)):
        shutil.copytree(runs / run, tmp_path / run)
        config = yaml.safe_load((tmp_path / run / "config.yaml").read_text())
        config["data"] |= {"identity": data}
        (tmp_path / run / "config.yaml").write_text(yaml.safe_dump(config))
    answer = call(*run_flags(tmp_path, "gan"), "--methods", METHOD)
    assert answer.status == 2 and "are not those that were trained on" in answer.err
    both = f'[{METHOD[1:-1]}, {{"name": "d", "model": "diffusion", "calls": [3]}}]'
    answer = call(*run_flags(tmp_path, "gan", "diffusion"), "--methods", both)
    assert answer.status == 2 and "was trained on other data" in answer.err
    assert not (tmp_path / "out" / "result.json").exists()


def test_runs_that_name_one_data_set_by_two_paths_are_compared(script, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        data = {"path": f"{name}/photos", "identity": "x"}
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    assert script.same_data([SavedRun(tmp_path / name) for name in "ab"]).path == "a/photos"


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
    answer = call(*run_flags(tmp_path, "gan", "judge"), "--methods", json.dumps(METHODS[:2]))
    assert answer.status == 2
    assert str(tmp_path / which) in answer.err
    assert "Traceback" not in answer.err


def test_a_row_that_diverges_is_named_and_left_out(call, runs, tmp_path):
    shutil.copytree(runs / "gan", tmp_path / "bad")
    generator = DcganGenerator.from_pretrained(tmp_path / "bad" / "generator")
    with torch.no_grad():
        next(generator.parameters()).fill_(3e38)  # finite itself, and nothing it makes is
    generator.save_pretrained(tmp_path / "bad" / "generator")
    runs_flag = {"gan": str(runs / "gan"), "bad": str(tmp_path / "bad")}
    methods = [METHODS[0], {"name": "broken", "model": "bad"}]
    answer = call("--runs", json.dumps(runs_flag), "--methods", json.dumps(methods))
    assert answer.status == 0, answer.err
    assert "broken is left out" in (tmp_path / "out" / "report.html").read_text()
    assert "GAN/kid" in json.loads((tmp_path / "out" / "result.json").read_text())


@pytest.mark.parametrize(
    "damage", [lambda text: "{", lambda text: re.sub(r'"value": -?\d', '"value": 7', text)]
)
def test_a_measurement_that_is_damaged_is_made_again(call, runs, tmp_path, damage):
    argv = (*run_flags(runs, "gan"), "--methods", METHOD)
    first = call(*argv)
    figures = json.loads((tmp_path / "out" / "result.json").read_text())
    for path in (tmp_path / "out" / "measured").iterdir():
        path.unlink() if path.suffix == ".png" else path.write_text(damage(path.read_text()))
    again = call(*argv)
    assert again.status == 0, again.err
    assert again.out.splitlines()[0] == first.out.splitlines()[0]
    figures_again = json.loads((tmp_path / "out" / "result.json").read_text())
    quality = [name for name in figures if "seconds" not in name]
    assert {n: figures_again[n] for n in quality} == {n: figures[n] for n in quality}


def test_a_guide_for_other_steps_is_used_with_a_warning(call, runs, tmp_path):
    answer = call(*everything(runs))
    assert answer.status == 0, answer.err
    page = (tmp_path / "out" / "report.html").read_text()
    assert "trained on samples of heun with 18 steps" in page


def test_a_guide_that_failed_its_validation_is_said_to_and_its_row_is_paired_with_the_unguided(
    script, call, runs, tmp_path, monkeypatch
):
    shutil.copytree(runs / "guide", tmp_path / "guide")
    path = tmp_path / "guide" / "guide.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"significant": False}))
    published, publish = [], publishing.publish
    monkeypatch.setattr(
        publishing, "publish", lambda page, folder: published.append(page) or publish(page, folder)
    )
    flags = {"diffusion": str(runs / "diffusion"), "guide": str(tmp_path / "guide")}
    answer = call("--runs", json.dumps(flags), "--methods", json.dumps(METHODS[2:]))
    assert answer.status == 0, answer.err
    base, guided = published[0].rows
    assert guided.validation_note == "its guide failed validation" and not base.validation_note
    assert "scale 1\u201d (its guide failed validation)" in answer.out
    assert base.noise_shape == guided.noise_shape == (1, 8, 8)
    for row in (base, guided):
        (deviations,) = row.figures["frechet_distance"].deviations
        assert len(deviations) == 8


METHOD = '[{"name": "a", "model": "gan"}]'


def test_a_comparison_does_not_overwrite_what_is_something_else(call, runs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    answer = call(*run_flags(runs, "gan"), "--methods", METHOD)
    assert answer.status == 2
    assert "not empty and not a run" in answer.err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.tex"]
