"""Runs that take part in a comparison: where they are, what would train them, what is refused."""

import json
import sys

import pytest
import yaml
from experiments.conftest import EXPERIMENTS, load

from hybridgen.errors import InputError, RunError


@pytest.fixture(scope="module")
def own():
    return load("compare_models")


@pytest.fixture(scope="module")
def models(own):
    return (
        own.Model(name="gan", script="gan", config="gan/digits", arguments={"seeds": 3}),
        own.Model(name="discriminator", script="guide", config="guide/digits", of="gan"),
    )


def finished(folder):
    (folder / "generator").mkdir(parents=True)
    for name in ("result.json", "config.yaml"):
        (folder / name).write_text("{}")
    return folder


def test_a_folder_that_was_given_replaces_the_one_of_its_name(own, models, tmp_path):
    elsewhere = finished(tmp_path / "elsewhere")
    given = {"gan": str(elsewhere)}
    places = own.folders(models, given, tmp_path / "home")
    assert places == {"gan": elsewhere, "discriminator": tmp_path / "home" / "discriminator"}
    assert [m.name for m in own.missing(models, given, places)] == ["discriminator"]


def test_models_are_missing_in_the_order_in_which_they_can_be_trained(own, models, tmp_path):
    places = own.folders(models, {}, tmp_path)
    assert [m.name for m in own.missing(models, {}, places)] == ["gan", "discriminator"]
    finished(tmp_path / "gan")
    assert [m.name for m in own.missing(models, {}, places)] == ["discriminator"]


def test_only_what_methods_use_is_trained_and_what_their_discriminators_judge(own, models):
    other = own.Model(name="other", script="gan", config="gan/ring")
    asked = own.needed((*models, other), {"discriminator"})
    assert [model.name for model in asked] == ["gan", "discriminator"]


def test_the_command_names_settings_data_seed_and_folder(own, models, tmp_path):
    places = own.folders(models, {}, tmp_path)
    gan, discriminator = (own.command_of(m, places, seed=3, data="my/photos") for m in models)
    assert gan[0] == "gan.py"
    assert gan[3:] == [
        *("--seeds", "3", "--data.path", "my/photos", "--seed", "3"),
        *("--out", str(tmp_path / "gan")),
    ]
    assert discriminator[3:] == [
        *("--run", str(tmp_path / "gan"), "--seed", "3", "--out", str(tmp_path / "discriminator")),
    ]


def test_a_folder_that_is_no_finished_run_is_refused(own, models, tmp_path):
    given = {"gan": str(tmp_path)}
    places = own.folders(models, given, tmp_path)
    with pytest.raises(InputError, match=r"given for .gan., is not a finished run"):
        own.missing(models, given, places)


def test_models_that_cannot_be_are_refused(own, models, tmp_path):
    with pytest.raises(InputError, match="different names"):
        own.folders((models[0], models[0]), {}, tmp_path)
    with pytest.raises(InputError, match="discriminator of 'gan', which nobody named"):
        own.folders((models[1],), {}, tmp_path)
    with pytest.raises(InputError, match="no settings 'gan/nowhere'"):
        own.Model(name="gan", script="gan", config="gan/nowhere")
    with pytest.raises(InputError, match="a discriminator, and nothing else, is `of` a model"):
        own.Model(name="gan", script="gan", config="gan/digits", of="gan")


def test_a_training_is_shown_and_logged(own, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(own, "HERE", tmp_path)
    (tmp_path / "gan.py").write_text("import sys; print('a table', sys.argv[1:])")
    own.train("gan", ["gan.py", "--seed", "0"], tmp_path / "models" / "gan", {})
    assert "training gan: python experiments/gan.py --seed 0" in capsys.readouterr().err
    assert (tmp_path / "models" / "gan.log").read_text() == "a table ['--seed', '0']\n"


def test_a_training_that_fails_is_told(own, tmp_path, monkeypatch):
    monkeypatch.setattr(own, "HERE", tmp_path)
    (tmp_path / "gan.py").write_text("raise SystemExit(3)")
    with pytest.raises(RunError, match=r"gan could not be trained .exit status 3"):
        own.train("gan", ["gan.py"], tmp_path / "models" / "gan", {})


def test_a_run_of_another_recipe_is_refused_wherever_its_settings_changed(
    own, tmp_path, monkeypatch
):
    monkeypatch.setattr(own, "HERE", tmp_path)
    (tmp_path / "gan.py").write_text("")
    (tmp_path / "own.yaml").write_text("training: {steps: 5}")
    model = own.Model(name="gan", script="gan", config=str(tmp_path / "own.yaml"))
    folder, asked = tmp_path / "models" / "gan", {"seed": 0, "data": None}
    own.train("gan", ["gan.py"], folder, own.recipe(model, **asked))
    own.check_recipe(model, folder, seed=1, data=None)
    finished(folder)
    own.check_recipe(model, folder, **asked)
    for other in ({"seed": 1, "data": None}, {"seed": 0, "data": "photos"}):
        with pytest.raises(InputError, match="was trained by other settings than gan has now"):
            own.check_recipe(model, folder, **other)
    (tmp_path / "own.yaml").write_text("training: {steps: 5000}")
    with pytest.raises(InputError, match="was trained by other settings"):
        own.check_recipe(model, folder, **asked)


def test_a_finished_run_that_nobody_remembers_is_refused(own, models, tmp_path):
    with pytest.raises(InputError, match="take it as it is with --runs"):
        own.check_recipe(models[0], finished(tmp_path / "gan"), seed=0, data=None)


@pytest.mark.parametrize("name", ["digits", "ring", "grid", "mnist"])
def test_every_configuration_can_be_read_and_is_consistent(own, name, tmp_path):
    said = yaml.safe_load((EXPERIMENTS.parent / "configs" / "compare" / f"{name}.yaml").read_text())
    models = tuple(own.Model(**model) for model in said["models"])
    places = own.folders(models, {}, tmp_path)
    sys.path.insert(0, str(EXPERIMENTS))
    from hybridgen.evaluation.methods import Method

    for settings in said["methods"]:
        tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        method = Method(**tuples)
        method.check_names(places)
        for budget in method.budgets(0.0):
            if budget.calls:
                method.sampler_settings(budget.calls)
    json.dumps(said)
