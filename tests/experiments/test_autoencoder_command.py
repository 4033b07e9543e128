"""The command that trains an autoencoder, and models in the space of its latents."""

import json
import os
import re
import shutil
import signal

import pytest
import torch
import yaml
from einops import rearrange
from experiments.conftest import EXPERIMENTS, Answer, load
from PIL import Image
from safetensors.torch import load_file, save_file

from hybridgen import (
    DataSettings,
    Heun,
    Shard,
    build_evaluator,
    digits,
    discriminator_guidance,
    karras_sigmas,
    load_data,
    load_guide,
    load_network,
)
from hybridgen.cli import command, read_settings
from hybridgen.data.images import as_images, split_validation
from hybridgen.errors import InputError
from hybridgen.evaluation.evaluator import Unmeasurable
from hybridgen.evaluation.guide import distance_to
from hybridgen.evaluation.monitor import Reconstructions
from hybridgen.evaluation.runs import SavedRun
from hybridgen.metrics.distances import frechet_distance
from hybridgen.metrics.features import extract, feature_network

TINY = (
    *("--autoencoder.widths", "[8, 8]", "--discriminator.width", "8", "--threads", "1"),
    *("--training.batch", "16", "--training.steps", "6", "--save_every", "2", "--log_every", "2"),
    *("--sample_every", "3", "--adversarial.warm_up", "1", "--adversarial.ramp", "2"),
)
KINDS = {"plain": ("--adversarial.weight", "0"), "adversarial": ()}
BOTH = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def autoencoder():
    return load("autoencoder")


@pytest.fixture
def call(autoencoder, capsys):
    """Run `autoencoder.py` with these arguments after `TINY`."""

    def run(*argv):
        torch.manual_seed(len(argv))  # nothing may depend on what ran in this process before
        status = command(autoencoder.main, autoencoder.Autoencoder, [*TINY, *map(str, argv)])
        return Answer(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def finished(autoencoder, tmp_path_factory):
    """Runs that nothing disturbed; nobody may write into them."""
    folder = tmp_path_factory.mktemp("finished")
    for kind, more in KINDS.items():
        argv = [*TINY, *more, "--out", str(folder / kind)]
        assert command(autoencoder.main, autoencoder.Autoencoder, argv) == 0
    return folder


def weights(folder):
    found = {}
    for file in sorted(folder.glob("*/*.safetensors")):
        found |= {f"{file.parent.name}.{k}": v for k, v in load_file(file).items()}
    return found


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@BOTH
def test_a_run_leaves_settings_log_result_pictures_weights_and_latents(finished, kind):
    folder = finished / kind
    assert {path.name for path in folder.iterdir()} - {".lock"} == {
        *("config.yaml", "log.jsonl", "result.json", "samples", "samples.png", "samples.webp"),
        *("curves.png", "autoencoder", "best", "checkpoints", "latents.safetensors"),
        *(("discriminator",) if kind == "adversarial" else ()),
    }
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 6]
    parts = {"generator", "weight", "discriminator", "adversarial", "r1", "r2"}
    for row in rows[:3]:
        assert {"total", "l1", "kl"} <= row.keys()
        assert parts & row.keys() == (parts if kind == "adversarial" else set())
    for name in ("samples.png", "samples.webp", "curves.png"):
        with Image.open(folder / name) as image:
            image.load()
    run = SavedRun(folder)
    assert run.finished and run.network_name == "autoencoder"
    assert run.facts["autoencoder_parameters"] == run.result["parameters"]


@BOTH
def test_its_figures_are_those_of_held_out_images_and_their_reconstructions(finished, kind):
    result = json.loads((finished / kind / "result.json").read_text())
    network = load_network(finished / kind / "autoencoder")
    x, _ = digits().reference("held_out", 297)
    with torch.no_grad():
        fake = network(x).sample  # of the posterior's mean
        features = [extract(feature_network((1, 8, 8)), x)[0]]
        bytes_ = ((fake + 1) * 127.5).round().clamp(0, 255)
        features.append(extract(feature_network((1, 8, 8)), bytes_ / 127.5 - 1)[0])
    assert result["l1"] == pytest.approx(float((fake - x).abs().mean()), rel=1e-5)
    assert result["frechet_distance"] == pytest.approx(frechet_distance(*features), rel=1e-3)
    assert result["floor_l1"] == result["floor_frechet_distance"] == 0


def test_the_picture_shows_every_image_above_its_reconstruction(finished):
    monitor = Reconstructions(finished / "plain", digits())
    exact = torch.nn.Module()
    exact.encode = lambda x: type("E", (), {"latent_dist": type("D", (), {"mean": x})})
    exact.decode = lambda z: type("O", (), {"sample": z})
    exact.scale = torch.nn.Parameter(torch.ones(1))
    figures = monitor.figures(exact, 50)
    assert figures["l1"] == 0 and figures["frechet_distance"] == pytest.approx(0, abs=1e-3)
    picture = monitor.picture(exact)
    rows = torch.tensor(list(picture.getdata())).view(picture.height, picture.width)
    height = (picture.height - 2) // 10
    pairs = [rows[2 + i * height : 2 + (i + 1) * height] for i in range(10)]
    assert all(torch.equal(pairs[i], pairs[i + 1]) for i in range(0, 10, 2))
    assert not torch.equal(pairs[0], pairs[2])


@BOTH
def test_an_interrupted_run_goes_on_and_ends_bit_equal(call, finished, tmp_path, monkeypatch, kind):
    for name in ("figures", "finish"):  # take longest and move no weight
        monkeypatch.setattr(Reconstructions, name, lambda *_: {})
    stop = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    monkeypatch.setattr(Reconstructions, "preview", stop)
    status, _, err = call(*KINDS[kind], "--out", tmp_path / "run")
    assert status == 128 + signal.SIGTERM
    assert "stopped and saved at step 3" in err.splitlines()[-1]
    monkeypatch.setattr(Reconstructions, "preview", lambda *_: None)
    status, _, err = call(*KINDS[kind], "--out", tmp_path / "run")
    assert status == 0 and "going on from step 3" in err
    assert same(weights(tmp_path / "run"), weights(finished / kind))


def test_a_finished_run_is_answered_with_its_table(call, finished):
    status, out, err = call("--out", finished / "adversarial")
    assert status == 0 and "finished already" in err and "frechet_distance" in out


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--autoencoder.widths", "[]"], "0 widths halve the picture"),
        (["--autoencoder.widths", "[8, 8, 8, 8, 8]"], "5 widths halve .* its 8 rows do not allow"),
        (["--autoencoder.latent_channels", "0"], "latent_channels must be a whole number in"),
        (["--data.path", "ring"], "autoencoder takes square images"),
        (["--adversarial.weight", "nan"], r"adversarial.weight must be a number in \[0"),
        (["--training.kl", "-1"], "training.kl must be a number in"),
        (["--training.batch", "1501"], "batch of 1501 is larger than the training data"),
        (["--autoencoder.widths", "[65536, 65536]"], "AutoencoderKL of .* would take at least"),
        (["--discriminator.architecture", "mlp"], "architecture mlp is for points"),
    ],
)
def test_a_setting_that_cannot_work_is_one_sentence_and_leaves_no_folder(
    call, tmp_path, argv, expected
):
    answer = call(*argv, "--out", tmp_path / "run")
    (line,) = answer.err.splitlines()
    assert answer.status == 2 and re.match(f"error: .*{expected}", line), answer
    assert not (tmp_path / "run").exists()


def test_a_training_shorter_than_the_warm_up_says_so(call, tmp_path, monkeypatch):
    for name in ("figures", "finish", "preview"):
        monkeypatch.setattr(Reconstructions, name, lambda *_: {})
    answer = call("--adversarial.warm_up", "6", "--out", tmp_path / "run")
    assert "no discriminator takes part in it" in answer.err


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_the_configs_are_read_and_the_first_is_the_default(autoencoder, name):
    path = EXPERIMENTS.parent / "configs" / "autoencoder" / f"{name}.yaml"
    settings = read_settings(autoencoder.Autoencoder, ["--config", str(path)])
    if name == "digits":
        assert settings == autoencoder.Autoencoder()


def latents(finished, **options):
    return load_data(DataSettings(path=str(finished / "plain"), **options))


def test_latents_are_the_posterior_means_of_all_examples_in_their_order(finished):
    tensors, images = load_file(finished / "plain" / "latents.safetensors"), digits(labelled=True)
    network = load_network(finished / "plain" / "autoencoder")
    for part, x, label in (
        ("train", images.train, images.train_labels),
        ("held_out", images.held_out, images.held_out_labels),
    ):
        with torch.no_grad():
            exact = network.encode(x / 127.5 - 1).latent_dist.mean
        torch.testing.assert_close(tensors[part], exact, rtol=1e-4, atol=1e-5)
        assert torch.equal(tensors[f"{part}_labels"], label)
    each = rearrange(tensors["train"], "n c h w -> c (n h w)")
    torch.testing.assert_close(tensors["mean"], each.mean(1))
    torch.testing.assert_close(tensors["std"], each.std(1))


def test_latents_are_a_data_set_with_deviation_a_half_that_decodes_to_reconstructions(finished):
    source, network = latents(finished, labels=True), load_network(finished / "plain/autoencoder")
    assert source.shape == (2, 4, 4) and source.classes == 10 and source.size == 1500
    each = rearrange(source.train, "n c h w -> c (n h w)")
    torch.testing.assert_close(each.mean(1), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(each.std(1), torch.full((2,), 0.5), atol=1e-4, rtol=0)
    z, label = next(source.batches(Shard(batch=5, seed=3)))
    x, same_label = next(digits(labelled=True).batches(Shard(batch=5, seed=3)))
    with torch.no_grad():
        torch.testing.assert_close(as_images(z, source), network(x).sample, rtol=1e-3, atol=1e-4)
    assert torch.equal(label, same_label)
    assert latents(finished).classes == 0
    z, label = source.reference("held_out", 7, 4)
    assert torch.equal(label, digits().reference("held_out", 7, 4)[1])


def test_their_identity_is_their_content_wherever_they_lie(finished, tmp_path):
    shutil.copytree(finished / "plain", tmp_path / "moved")
    moved = load_data(DataSettings(path=str(tmp_path / "moved")))
    assert moved.identity == latents(finished).identity
    path = tmp_path / "moved" / "latents.safetensors"
    tensors = load_file(path)
    tensors["train"][0] += 1
    save_file(tensors, path)
    with pytest.raises(InputError, match="not those that were trained on"):
        load_data(DataSettings(path=str(tmp_path / "moved"), identity=moved.identity))


def test_samples_in_latent_space_are_measured_as_the_images_they_stand_for(finished):
    source = latents(finished)
    evaluator = build_evaluator(source, samples=100, intervals=False)
    z = source.reference("train", 100)[0]
    figures = evaluator.values(z)
    images = build_evaluator(digits(), samples=100, intervals=False)
    assert figures == pytest.approx(images.values(as_images(z, source)))
    assert evaluator.floors == images.floors
    with pytest.raises(ValueError, match=r"expected examples \[2, 4, 4\]"):
        evaluator.values(torch.zeros(100, 1, 8, 8))
    name, distance = distance_to(source)
    assert name == "frechet_distance"
    assert distance(z)[0] == pytest.approx(distance_to(digits())[1](as_images(z, source))[0])


def test_a_validation_split_of_latents_is_that_of_their_images(finished):
    part, images = (split_validation(s, 0.2) for s in (latents(finished), digits()))
    assert torch.equal(part.images.held_out, images.held_out)
    network = load_network(finished / "plain" / "autoencoder")
    with torch.no_grad():
        exact = network(images.held_out[:5] / 127.5 - 1).sample
    decoded = as_images(part.held_out[:5], part)
    torch.testing.assert_close(decoded, exact, rtol=1e-3, atol=1e-4)


def test_latents_of_a_shape_that_a_network_knows_are_not_taken_for_images(finished, tmp_path):
    images = digits()
    decode = lambda z: torch.zeros(len(z), 3, 16, 16)  # noqa: E731
    bright = torch.zeros(50, 3, 16, 16, dtype=torch.uint8)
    colour = type(images)(name="colour", train=bright, held_out=bright)
    floats = {"train": torch.randn(50, 1, 8, 8), "held_out": torch.randn(50, 1, 8, 8)}
    source = type(images)(name="latents", decode=decode, images=colour, **floats)
    with pytest.raises(Unmeasurable, match=r"examples \[3, 16, 16\]"):
        build_evaluator(source, samples=40, intervals=False)


SHORT = ("--threads", "1", "--training.steps", "2", "--training.batch", "16", "--log_every", "1")
SHORT += ("--eval_samples", "20", "--data.labels", "true")
MODELS = {
    "diffusion": (
        *("Diffusion", "--denoiser.widths", "[8, 8]", "--sampler.steps", "2"),
        *("--final_samples", "20"),
    ),
    "gan": (
        *("Gan", "--generator.architecture", "residual", "--generator.width", "8"),
        *("--discriminator.architecture", "residual", "--discriminator.width", "8"),
    ),
}


@pytest.mark.parametrize("script", MODELS)
def test_a_model_trains_on_latents_and_its_samples_are_seen_and_measured_as_images(
    finished, tmp_path, script
):
    module, (settings, *argv) = load(script), MODELS[script]
    argv += [*SHORT, "--data.path", str(finished / "adversarial"), "--out", str(tmp_path / "run")]
    assert command(module.main, getattr(module, settings), argv) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert {"frechet_distance", "class_reverse_kl", "floor_frechet_distance"} <= result.keys()
    with Image.open(tmp_path / "run" / "samples.png") as picture:
        assert picture.mode == "L"  # grey digits, not latents of two channels
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    source = load_data(DataSettings(path=str(finished / "adversarial"), labels=True))
    assert config["data"]["identity"] == source.identity
    if script == "diffusion":
        gets_a_guide_that_guides_it(tmp_path / "run", tmp_path / "guide", source)


def gets_a_guide_that_guides_it(run, folder, source):
    """In the space of latents, neither clipped nor in 256 values; measured and drawn as images."""
    module, argv = load("guide"), ["--run", str(run), "--out", str(folder), "--threads", "1"]
    argv += ["--discriminator.architecture", "residual", "--discriminator.width", "8"]
    argv += ["--training.steps", "4", "--training.batch", "8", "--num_samples", "40"]
    argv += ["--scales", "[0.0, 1.0]", "--scale_samples", "8", "--scale_draws", "2"]
    argv += ["--final_samples", "10", "--sampler.steps", "3"]
    assert command(module.main, module.GuideExperiment, argv) == 0
    fakes = load_file(folder / "generated.safetensors")["x"]
    assert fakes.shape[1:] == source.shape and len(fakes.unique()) > 256
    assert "frechet_distance_guided" in json.loads((folder / "result.json").read_text())
    with Image.open(folder / "samples-guided.png") as picture:
        assert picture.mode == "L"
    saved = load_guide(folder)
    denoiser, noise = load_network(saved.run / "denoiser"), torch.randn(4, *source.shape)
    guided, label = discriminator_guidance(denoiser, saved.discriminator), torch.arange(4)
    plain, moved = (
        Heun(each, source.shape, karras_sigmas(3))(noise, label) for each in (denoiser, guided)
    )
    assert moved.isfinite().all() and not torch.equal(moved, plain)
    assert as_images(moved, source).shape == (4, 1, 8, 8)


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished / "plain", tmp_path / "copy")
    return tmp_path / "copy"


def rewritten(change):
    def damage(folder):
        tensors = load_file(folder / "latents.safetensors")
        change(tensors)
        save_file(tensors, folder / "latents.safetensors")

    return damage


def elsewhere(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["path"] = "./nowhere"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def of_itself(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"] = {"path": str(folder)}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


DAMAGES = {
    "no tensors": (lambda f: (f / "latents.safetensors").write_text("x"), "cannot be read"),
    "no mean": (rewritten(lambda t: t.pop("mean")), "cannot be read .*mean"),
    "not finite": (rewritten(lambda t: t["train"].fill_(torch.nan)), "train is not finite"),
    "fewer": (rewritten(lambda t: t.update(train=t["train"][:9].clone())), "not of these images"),
    "no spread": (rewritten(lambda t: t["std"].zero_()), "not normalised"),
    "channels": (
        rewritten(lambda t: t.update(train=t["train"].repeat(1, 2, 1, 1))),
        "its shapes are",
    ),
    "labels": (rewritten(lambda t: t["train_labels"].sub_(100)), "its labels are"),
    "no autoencoder": (lambda f: shutil.rmtree(f / "autoencoder"), "no network in"),
    "no config": (lambda f: (f / "config.yaml").unlink(), "config.yaml is damaged"),
    "no images": (elsewhere, "images of the autoencoder .* are needed .*nowhere"),
    "of itself": (of_itself, "latents of latents are no data"),
    "unfinished": (lambda f: (f / "latents.safetensors").unlink(), "is a run without latents"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_latents_that_are_damaged_or_alone_get_a_sentence(copied, damage):
    change, sentence = DAMAGES[damage]
    change(copied)
    with pytest.raises(InputError, match=sentence) as error:
        load_data(DataSettings(path=str(copied)))
    assert len(str(error.value)) <= 400


def test_latents_are_not_resized_and_no_autoencoder_trains_on_them(call, finished, tmp_path):
    with pytest.raises(InputError, match=r"leave data\.resolution"):
        latents(finished, resolution=8)
    answer = call("--data.path", finished / "plain", "--out", tmp_path / "run")
    assert answer.status == 2 and "holds latents" in answer.err
