"""Runs that take part in a comparison: where they are, what would train them, what is refused."""

import json
import signal
import time

import pytest
import yaml
from experiments.conftest import EXPERIMENTS, load

from hybridgen.errors import InputError, Interrupted, RunError
from hybridgen.evaluation.runs import SavedRun
from hybridgen.evaluation.settings import Method


@pytest.fixture(scope="module")
def script():
    return load("compare_models")


@pytest.fixture(scope="module")
def models(script):
    return (
        script.Model(name="gan", script="gan", config="gan/digits", arguments={"seeds": 3}),
        script.Model(name="discriminator", script="guide", config="guide/digits", of="gan"),
    )


def finished(folder, network="generator", weights=None, **config):
    (folder / network).mkdir(parents=True)
    (folder / network / "model.safetensors").write_text(weights or folder.name)
    (folder / "result.json").write_text("{}")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_a_folder_that_was_given_replaces_the_one_of_its_name(script, models, tmp_path):
    elsewhere = finished(tmp_path / "elsewhere")
    runs = script.find_runs(models, {"gan": str(elsewhere)}, tmp_path / "home")
    assert runs == {
        "gan": [SavedRun(elsewhere)],
        "discriminator": [SavedRun(tmp_path / "home" / "discriminator")],
    }


def test_a_pattern_gives_all_its_folders_and_each_must_be_finished(script, models, tmp_path):
    seeds = [finished(tmp_path / f"seed{seed}", seed=seed) for seed in range(3)]
    (tmp_path / "seed0.log").write_text("")
    pattern = {"gan": f"{tmp_path}/seed*"}
    runs = script.find_runs(models, pattern, tmp_path)
    assert runs["gan"] == [SavedRun(folder) for folder in seeds]
    (seeds[1] / "result.json").unlink()
    with pytest.raises(InputError, match=r"seed1, given for .gan., is not a finished run"):
        script.find_runs(models, pattern, tmp_path)
    with pytest.raises(InputError, match=r"none\*, given for .gan., is not a finished run"):
        script.find_runs(models, {"gan": f"{tmp_path}/none*"}, tmp_path)


def test_trainings_of_a_pattern_may_differ_in_what_changes_no_model(script, models, tmp_path):
    student = {"run": "b", "identity": "of its teacher", "eval_samples": 9}
    for seed, more in enumerate(({"log_every": 5, "threads": 1}, student)):
        finished(tmp_path / f"seed{seed}", seed=seed, training={"steps": 7}, **more)
    assert len(script.find_runs(models, {"gan": f"{tmp_path}/seed*"}, tmp_path)["gan"]) == 2


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"training": {"steps": 8}}, "differ in training.steps: expected trainings of one model"),
        ({"network": "denoiser"}, "differ in kind"),
        ({"network": "discriminator"}, "differ in kind"),
        ({"seed": 0}, "have the same seed: expected trainings with different seeds"),
        ({"weights": "seed0"}, "have the same weights"),
    ],
)
def test_a_pattern_of_what_is_not_one_model_with_several_seeds_is_refused(
    script, models, tmp_path, other, reason
):
    recipe = {"seed": 1, "training": {"steps": 7}}
    finished(tmp_path / "seed0", **recipe | {"seed": 0})
    finished(tmp_path / "seed1", **recipe | other)
    with pytest.raises(InputError, match=f"seed0 and .*seed1, both given for 'gan', {reason}"):
        script.find_runs(models, {"gan": f"{tmp_path}/seed*"}, tmp_path)


def test_one_discriminator_is_not_trained_for_several_models(script, models, tmp_path):
    for seed in range(2):
        finished(tmp_path / f"seed{seed}", seed=seed)
    runs = script.find_runs(models, {"gan": f"{tmp_path}/seed*"}, tmp_path)
    with pytest.raises(InputError, match=r"of one training and .gan. has 2"):
        _ = script.Training(model=models[1], runs=runs, seed=0, data=None).arguments


def test_the_command_names_settings_data_seed_and_folder(script, models, tmp_path):
    runs = script.find_runs(models, {}, tmp_path)
    gan, discriminator = (
        script.Training(model=model, runs=runs, seed=3, data="my/photos") for model in models
    )
    assert gan.arguments[2:] == [
        *("--seeds", "3", "--data.path", "my/photos", "--seed", "3"),
        *("--out", str(tmp_path / "gan")),
    ]
    assert gan.command.startswith("python experiments/gan.py --config ")
    assert discriminator.arguments[2:] == [
        *("--run", str(tmp_path / "gan"), "--seed", "3", "--out", str(tmp_path / "discriminator")),
    ]


def test_a_folder_that_is_no_finished_run_is_refused(script, models, tmp_path):
    with pytest.raises(InputError, match=r"given for .gan., is not a finished run"):
        script.find_runs(models, {"gan": str(tmp_path)}, tmp_path)


def test_models_that_cannot_be_are_refused(script, models, tmp_path):
    with pytest.raises(InputError, match="different names"):
        script.find_runs((models[0], models[0]), {}, tmp_path)
    with pytest.raises(InputError, match="discriminator is of a model 'gan', which nobody named"):
        script.find_runs((models[1],), {}, tmp_path)
    with pytest.raises(InputError, match="no settings 'gan/nowhere'"):
        script.Model(name="gan", script="gan", config="gan/nowhere")
    with pytest.raises(InputError, match="guide, distill, finetune alone are `of` a model"):
        script.Model(name="gan", script="gan", config="gan/digits", of="gan")


NAMES = ["../gan", "/tmp/gan", "..", ".", "", "a/b", "a\0b", "a\\b", ".lock"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_to_another_folder_is_refused(script, name):
    with pytest.raises(InputError, match=r"name (is that of its folder|must be text)"):
        script.Model(name=name, script="gan", config="gan/digits")


def test_the_log_of_a_training_is_not_written_through_a_link(training, tmp_path):
    (tmp_path / "outside").write_text("somebody's")
    (tmp_path / "models").mkdir()
    for name in ("gan.log", "gan.recipe.json"):
        (tmp_path / "models" / name).symlink_to(tmp_path / "outside")
    training("print('a table')").to_the_end()
    assert (tmp_path / "outside").read_text() == "somebody's"
    assert (tmp_path / "models" / "gan.log").read_text() == "a table\n"


@pytest.mark.parametrize("content", ["", "[]", "{", "\xff"])
def test_a_damaged_recipe_is_a_sentence(training, content):
    first = training()
    first.to_the_end()
    finished(first.run.folder)
    record = first.run.folder.with_name("gan.recipe.json")
    record.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"gan.recipe.json is damaged"):
        first.check()


@pytest.fixture
def training(script, tmp_path, monkeypatch):
    """Of a GAN, by a script and settings that a test writes."""
    monkeypatch.setattr(script, "HERE", tmp_path)
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    (tmp_path / "settings.yaml").write_text("training: {steps: 5}")

    def training(code="", **settings):
        (tmp_path / "gan.py").write_text(code)
        model = script.Model(name="gan", script="gan", config=str(tmp_path / "settings.yaml"))
        runs = script.find_runs([model], {}, tmp_path / "models")
        return script.Training(
            **{"model": model, "runs": runs, "seed": 0, "data": None, **settings}
        )

    return training


def test_a_training_is_shown_and_logged(training, tmp_path, capsys):
    training("import sys; print('a table', sys.argv[3:5])").to_the_end()
    assert "training gan: python experiments/gan.py --config" in capsys.readouterr().err
    assert (tmp_path / "models" / "gan.log").read_text() == "a table ['--seed', '0']\n"


def test_a_training_that_fails_is_told(training):
    with pytest.raises(RunError, match=r"gan could not be trained .exit status 3"):
        training("raise SystemExit(3)").to_the_end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_training_that_is_stopped_ends_its_script_first(training, tmp_path, number):
    code = f"import os, time; os.kill(os.getppid(), {int(number)}); time.sleep(60)"
    before, begun = signal.getsignal(number), time.monotonic()
    with pytest.raises(Interrupted, match="the same command goes on from there"):
        training(code).to_the_end()
    assert time.monotonic() - begun < 30
    assert signal.getsignal(number) is before


def test_a_run_of_another_recipe_is_refused_wherever_its_settings_changed(training, tmp_path):
    first = training()
    first.to_the_end()
    training(seed=1).check()
    finished(first.run.folder)
    first.check()
    for other in ({"seed": 1}, {"data": "photos"}):
        with pytest.raises(InputError, match="was trained by other settings than gan has now"):
            training(**other).check()
    (tmp_path / "settings.yaml").write_text("training: {steps: 5000}")
    with pytest.raises(InputError, match="was trained by other settings"):
        first.check()


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("training: {stepz: 5}", "no setting 'training.stepz'; did you mean"),
        ("training: {steps: -5}", "training.steps"),
    ],
)
def test_settings_with_which_nothing_can_be_trained_are_refused_before(
    training, tmp_path, written, sentence
):
    one = training()
    (tmp_path / "settings.yaml").write_text(written)
    with pytest.raises(InputError, match=f"gan cannot be trained: .*{sentence}"):
        one.check()


def test_a_finished_run_that_nobody_remembers_is_refused(training):
    finished(training().run.folder)
    with pytest.raises(InputError, match="take it as it is with --runs"):
        training().check()


@pytest.mark.parametrize("name", ["digits", "ring", "grid", "mnist"])
def test_every_configuration_can_be_read_and_is_consistent(script, name, tmp_path):
    config = yaml.safe_load(
        (EXPERIMENTS.parent / "configs" / "compare" / f"{name}.yaml").read_text()
    )
    models = tuple(script.Model(**model) for model in config["models"])
    runs = script.find_runs(models, {}, tmp_path)
    for settings in config["methods"]:
        tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        method = Method(**tuples)
        method.check_names(runs)
        for budget in method.budgets(0.0):
            if budget.calls:
                method.sampler_settings(budget.calls)
    json.dumps(config)
