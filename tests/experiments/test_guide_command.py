"""The command that trains a guide: what it leaves, what it says, and what it refuses."""

import json
import math
import shutil

import pytest
import torch
import yaml
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    HeunDiscreteScheduler,
    IPNDMScheduler,
)
from experiments.conftest import Answer, load
from PIL import Image
from pipelines import ddpm, dit, ldm
from pipelines import discriminator as guiding
from safetensors.torch import load_file

from hybridgen import guide
from hybridgen.cli import command
from hybridgen.data.settings import DataSettings
from hybridgen.errors import InputError
from hybridgen.evaluation.runs import load_guide
from hybridgen.evaluation.teacher import weights_digest
from hybridgen.maths.rng import rng_from
from hybridgen.networks.build import (
    DenoiserSettings,
    DiscriminatorSettings,
    GeneratorSettings,
    build_denoiser,
    build_discriminator,
    build_generator,
    load_network,
)
from hybridgen.sampling.guidance import Push
from hybridgen.sampling.pipeline_sampler import PipelineSampler

TINY = (
    *(
        "--discriminator.width",
        "8",
        "--discriminator.depth",
        "1",
        "--sampler.steps",
        "3",
        "--threads",
        "1",
    ),
    *("--training.steps", "6", "--training.batch", "8", "--training.check_every", "2"),
    *("--training.levels", "3", "--num_samples", "40", "--scales", "[0.0, 1.0]"),
    *("--scale_samples", "8", "--scale_draws", "2", "--final_samples", "10"),
    *("--log_every", "2", "--save_every", "4"),
)


@pytest.fixture(scope="module")
def discriminator():
    return load("guide")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders as experiments/diffusion.py leaves them, of models that were never trained."""
    made = {}
    for name, shape, classes in (
        ("digits", (1, 8, 8), 0),
        ("labels", (1, 8, 8), 10),
        ("ring", (2,), 0),
    ):
        folder = made[name] = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        settings = DenoiserSettings(widths=(8, 8), width=8, depth=1)
        build_denoiser(settings, shape, classes).save_pretrained(folder / "denoiser")
        data = {"path": "ring" if name == "ring" else "digits", "labels": classes > 0}
        (folder / "config.yaml").write_text(yaml.safe_dump({"data": data, "seed": 0}))
        (folder / "result.json").write_text("{}")
    for name, shape, classes in (("gan", (1, 8, 8), 0), ("gan-labels", (1, 8, 8), 10)):
        folder = made[name] = tmp_path_factory.mktemp(name)
        settings = GeneratorSettings(width=8, latent=4)
        build_generator(settings, shape, classes).save_pretrained(folder / "generator")
        build_discriminator(DiscriminatorSettings(width=8), shape, classes).save_pretrained(
            folder / "discriminator"
        )
        data = {"path": "digits", "labels": classes > 0}
        (folder / "config.yaml").write_text(yaml.safe_dump({"data": data, "seed": 0}))
        (folder / "result.json").write_text("{}")
    return made


@pytest.fixture
def call(discriminator, capsys):
    def run(*argv):
        torch.manual_seed(len(argv))  # nothing may depend on what ran in this process before
        status = command(
            discriminator.main, discriminator.GuideExperiment, [*TINY, *map(str, argv)]
        )
        return Answer(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def trained(discriminator, models, tmp_path_factory):
    """A guide that nothing disturbed; nobody may write into it."""
    folder = tmp_path_factory.mktemp("guide") / "run"
    given = [*TINY, "--run", str(models["digits"]), "--out", str(folder)]
    assert command(discriminator.main, discriminator.GuideExperiment, given) == 0
    return folder


def test_a_guide_leaves_its_weights_what_it_is_for_and_pictures(trained):
    names = {path.name for path in trained.iterdir()} - {".lock"}
    assert names == {
        *("config.yaml", "log.jsonl", "result.json", "guide.json", "discriminator", "checkpoints"),
        *("generated.safetensors", "calibration.png", "scale.png", "curves.png"),
        *("samples-guided.png", "samples-unguided.png"),
    }
    for path in trained.glob("*.png"):
        with Image.open(path) as image:
            image.load()
    guide = json.loads((trained / "guide.json").read_text())
    assert guide.keys() == {
        *(
            "sampler",
            "steps",
            "objective",
            "scale",
            "significant",
            "validation_fraction",
            "model",
            "window",
        ),
        "log_ratio",
    }
    assert (guide["sampler"], guide["steps"]) == ("heun", 3)
    result = json.loads((trained / "result.json").read_text())
    assert result["chance"] == pytest.approx(2 * math.log(2))
    assert {"held_out_bce", "significant", "scale", "seconds", "calibration_error"} <= result.keys()
    assert {"frechet_distance_at_0", "frechet_distance_at_1"} <= result.keys()
    assert {"frechet_distance_unguided", "frechet_distance_guided"} <= result.keys()
    assert (
        result["significant"] == float(guide["significant"]) and result["scale"] == guide["scale"]
    )
    rows = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "held_out" in row] == [2, 4, 6]
    network = load_network(trained / "discriminator")
    assert network(torch.zeros(3, 1, 8, 8), torch.ones(3), None).shape == (3,)


def test_generated_images_have_the_256_values_of_the_data(trained):
    fakes = load_file(trained / "generated.safetensors")["x"]
    assert fakes.dtype == torch.uint8 and fakes.shape == (40, 1, 8, 8)


def test_a_finished_guide_is_answered_with_its_table(call, models, trained):
    before = {path: path.stat().st_mtime_ns for path in trained.iterdir() if path.name != ".lock"}
    status, out, err = call("--run", models["digits"], "--out", trained)
    assert status == 0 and "finished already" in err and "held_out_bce" in out
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


def test_a_finished_guide_of_an_earlier_model_is_refused(call, models, trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "g")
    guide = json.loads((folder / "guide.json").read_text())
    (folder / "guide.json").write_text(json.dumps(guide | {"model": "earlier"}))
    status, _, err = call("--run", models["digits"], "--out", folder)
    assert status == 2
    assert "is a guide for another model than" in err and "with another --out" in err


@pytest.mark.parametrize("objective", ["cross_entropy", "score_matching"])
@pytest.mark.parametrize("name", ["ring", "labels"])
def test_points_and_labelled_images_can_be_guided_by_either_objective(
    call, models, tmp_path, name, objective
):
    architecture = "mlp" if name == "ring" else "residual"
    status, out, err = call(
        *("--run", models[name], "--out", tmp_path / "g", "--training.objective", objective),
        *("--discriminator.architecture", architecture, "--discriminator.activation", "silu"),
    )
    assert status == 0, err
    what = "mode_distance" if name == "ring" else "frechet_distance"
    assert f"{what}_unguided" in out


def test_a_guide_that_learns_nothing_is_not_significant_and_not_applied(call, models, tmp_path):
    status, out, _ = call(
        *("--run", models["digits"], "--out", tmp_path / "g"),
        *("--training.learning_rate.start", "0", "--training.learning_rate.end", "0"),
    )
    assert status == 0
    assert "the guide's gain is not significant" in out and "scale 0 is chosen" in out
    guide = json.loads((tmp_path / "g" / "guide.json").read_text())
    assert (guide["significant"], guide["scale"]) == (False, 0.0)


def test_a_training_whose_patience_is_over_ends_early(call, models, tmp_path):
    status, *_ = call(
        *("--run", models["digits"], "--out", tmp_path / "g", "--training.steps", "40"),
        *("--training.learning_rate.start", "0", "--training.learning_rate.end", "0"),
        *("--training.check_every", "1", "--training.patience", "2"),
    )
    assert status == 0
    result = json.loads((tmp_path / "g" / "result.json").read_text())
    # The average of weights that do not move is those weights: no look is better than the first.
    assert (result["best_step"], result["steps"]) == (1, 3)


def test_a_stopped_training_goes_on_with_the_samples_it_began_with(
    call, discriminator, models, tmp_path, trained, monkeypatch
):
    concluded = discriminator.conclude

    def unplugged(*_):
        raise KeyboardInterrupt

    given = ("--run", models["digits"], "--out", tmp_path / "g")
    monkeypatch.setattr(discriminator, "conclude", unplugged)
    assert call(*given).status == 130
    drawn = (tmp_path / "g" / "generated.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(discriminator, "conclude", concluded)
    status, _, err = call(*given)
    assert status == 0 and "going on from step 6" in err
    assert (tmp_path / "g" / "generated.safetensors").stat().st_mtime_ns == drawn
    for part in ("discriminator/diffusion_pytorch_model.safetensors", "generated.safetensors"):
        mine, theirs = load_file(tmp_path / "g" / part), load_file(trained / part)
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_guide_can_start_as_the_discriminator_of_a_gan(call, models, tmp_path):
    torch.manual_seed(0)
    gan = build_discriminator(DiscriminatorSettings(width=8), (1, 8, 8))
    gan.save_pretrained(tmp_path / "gan" / "discriminator")
    status, _, err = call(
        *("--run", models["digits"], "--out", tmp_path / "g", "--start", tmp_path / "gan"),
        *("--training.learning_rate.start", "0", "--training.learning_rate.end", "0"),
    )
    assert status == 0, err
    x = torch.randn(3, 1, 8, 8)
    guide = load_network(tmp_path / "g" / "discriminator")
    torch.testing.assert_close(guide(x, torch.zeros(3), None), gan(x, None, None))


@pytest.mark.parametrize(("name", "start"), [("gan", True), ("gan-labels", False)])
def test_a_gan_gets_a_discriminator_that_refines_it(call, models, tmp_path, name, start):
    begun = ("--start", models[name]) if start else ()
    status, out, err = call("--run", models[name], "--out", tmp_path / "g", *begun)
    assert status == 0, err
    names = {path.name for path in (tmp_path / "g").iterdir()} - {".lock"}
    assert names == {
        *("config.yaml", "log.jsonl", "result.json", "guide.json", "discriminator", "checkpoints"),
        *("generated.safetensors", "calibration.png", "curves.png"),
        *("samples-unrefined.png", "samples-refined.png"),
    }
    guide = json.loads((tmp_path / "g" / "guide.json").read_text())
    assert (guide["sampler"], guide["steps"], guide["scale"]) == ("single_pass", 1, 0.0)
    assert ("its result on them will be too kind" in err) == start
    assert "frechet_distance_refined" in out and "scale" not in out
    result = json.loads((tmp_path / "g" / "result.json").read_text())
    assert result["log_ratio_slope"] == guide["log_ratio"]["slope"] >= 0
    found = load_guide(tmp_path / "g")
    generator = load_network(models[name] / "generator")
    label = torch.arange(20) % 10 if name == "gan-labels" else None
    x = generator(torch.randn(20, 4), label)
    assert found.log_ratio(x, label).shape == (20,)
    assert found.run == models[name] and 0 < found.log_ratio.calibration.acceptance <= 1


def test_guides_of_a_gan_and_of_a_diffusion_model_have_folders_of_their_own(
    call, models, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert call("--run", models["gan"]).status == 0
    assert [path.name for path in (tmp_path / "runs" / "guide").iterdir()] == [
        "gan-digits-cross_entropy-seed0"
    ]


def test_a_gan_has_no_score_to_match(call, models, tmp_path):
    argv = ("--training.objective", "score_matching", "--discriminator.activation", "silu")
    status, _, err = call("--run", models["gan"], "--out", tmp_path / "g", *argv)
    assert status == 2
    assert "a GAN has none, so set training.objective cross_entropy" in err
    assert not (tmp_path / "g").exists()


def test_a_discriminator_of_other_samples_is_no_start(call, models, tmp_path):
    build_discriminator(DiscriminatorSettings(architecture="mlp"), (2,)).save_pretrained(
        tmp_path / "c/discriminator"
    )
    argv = ("--run", models["gan"], "--start", tmp_path / "c", "--out", tmp_path / "g")
    status, _, err = call(*argv)
    assert status == 2
    assert "is for samples of shape (2,) and the data has (1, 8, 8)" in err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--run", "nowhere"], "nowhere is not a finished run of experiments/diffusion.py or gan"),
        (["--discriminator.noise_conditional", "false"], "build it with noise_conditional=True"),
        (["--training.objective", "score_matching"], "set discriminator.activation silu"),
        (["--scales", "[0.5, 1.0]"], "have 0 among them, got [0.5, 1.0]"),
        (["--validation_fraction", "1"], "validation_fraction must be a number in (0, 1), got 1.0"),
        (["--scale_draws", "1"], "scale_draws must be a whole number in [2, 1000], got 1"),
        (["--augment.adaptive", "true"], "nobody plays against a guide"),
        (["--discriminator.architecture", "mlp"], "architecture mlp is for points"),
        (["--discriminator.architecture", "patch"], "patch answers one logit a patch"),
        (["--training.batch", "33"], "batch of 33 is larger than the training data of 32"),
        (["--start", "nowhere"], "no network in nowhere"),
        (["--sampler.steps", "1"], "at least 2 steps, got 1"),
        (["--scale_draws", "1000", "--scale_samples", "10000"], "would take 2e+07 samples"),
        (["--num_samples", "2000000"], "num_samples must be a whole number in [1, 1e+06] or null"),
        (["--discriminator.width", "65536"], "weights would take at least"),
        (["--final_samples", "1"], "final_samples must be a whole number in [2, 1e+06], got 1"),
    ],
)
def test_bad_input_gets_one_sentence(call, models, tmp_path, argv, expected):
    status, out, err = call("--run", models["digits"], "--out", tmp_path / "g", *argv)
    assert status == 2
    sentences = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1 and expected in sentences[0]
    assert out == "" and not (tmp_path / "g").exists()


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """Folders of pipelines of diffusers, of pixels and of latents."""
    made = {}
    for make in (ddpm, ldm):
        folder = made[make.__name__] = tmp_path_factory.mktemp(make.__name__)
        make()[0].save_pretrained(folder)
    return made


def test_a_pipeline_of_diffusers_gets_a_guide_that_guides_it(call, pipelines, tmp_path):
    """Drawn by its own scheduler, in the space of its network: latents as they are."""
    folder = tmp_path / "g"
    source = ("--run", pipelines["ldm"], "--data.path", "digits", "--pipeline_steps", "4")
    status, out, err = call(*source, "--out", folder)
    assert status == 0, err
    record = json.loads((folder / "guide.json").read_text())
    assert (record["sampler"], record["steps"]) == ("DDIMScheduler", 4)
    fakes = load_file(folder / "generated.safetensors")["x"]
    assert fakes.dtype == torch.float32 and fakes.shape == (40, 4, 8, 8)
    assert fakes.abs().max() > 1
    assert "frechet_distance_guided" in out and load_guide(folder).steps == 4
    pipe = DiffusionPipeline.from_pretrained(pipelines["ldm"])
    arguments = {"batch_size": 2, "num_inference_steps": 4, "output_type": "np"}
    pipe.set_progress_bar_config(disable=True)
    before = pipe(generator=torch.Generator().manual_seed(0), **arguments).images
    guide(pipe, folder, 50.0, (0.01, 100.0))
    after = pipe(generator=torch.Generator().manual_seed(0), **arguments).images
    assert (before != after).any()
    status, _, err = call(*source, "--out", folder)
    assert status == 0 and "finished already" in err


def test_a_pipeline_is_sampled_as_its_users_sample_it(pipelines):
    pipe = DiffusionPipeline.from_pretrained(pipelines["ddpm"])
    pipe.set_progress_bar_config(disable=True)
    sampler, noise = PipelineSampler(pipe, (1, 8, 8), 4), torch.randn(3, 1, 8, 8)
    x = sampler(noise)
    call = {"batch_size": 3, "num_inference_steps": 4, "output_type": "pt"}
    theirs = pipe(generator=rng_from(noise), **call).images
    torch.testing.assert_close((x / 2 + 0.5).clamp(0, 1), theirs)
    assert torch.equal(sampler(noise), x) and not torch.equal(sampler(noise + 1), x)
    assert "step" not in vars(pipe.scheduler)  # as it was


@pytest.mark.parametrize(
    ("name", "argv", "expected"),
    [
        ("ddpm", [], "is a pipeline, which keeps no data: give --data.path"),
        ("ddpm", ["--data.path", "ring"], "of shape (1, 8, 8) and the data has shape (2,)"),
        ("ldm", ["--data.path", "ring"], "ring is streamed or drawn"),
        ("digits", ["--data.labels", "true"], "has its own data settings"),
        ("digits", ["--pure_noise", "1"], "are of a pipeline, and"),
        ("ddpm", ["--data.path", "digits", "--data.labels", "true"], "set data.labels false"),
        ("ddpm", ["--data.path", "digits", "--trained_with", "nowhere.json"], "nowhere.json"),
        (
            "ddpm",
            ["--data.path", "digits", "--training.objective", "score_matching"],
            "compares with a denoiser and got none",
        ),
    ],
)
def test_a_pipeline_without_fitting_data_is_refused(
    call, models, pipelines, tmp_path, name, argv, expected
):
    run = {**models, **pipelines}[name]
    smooth = ("--discriminator.activation", "silu")
    status, _, err = call("--run", run, "--out", tmp_path / "g", *smooth, *argv)
    assert status == 2 and expected in err
    assert not (tmp_path / "g").exists()


def test_a_pipeline_that_diffusers_alone_trains_is_written_into_a_new_folder_only(tmp_path, capsys):
    script, folder = load("diffusers_ddpm"), tmp_path / "ddpm"
    argv = ["--steps", "2", "--batch", "8", "--out", str(folder)]
    assert command(script.main, script.DiffusersDdpm, argv) == 0
    images = DiffusionPipeline.from_pretrained(folder)(2, num_inference_steps=2, output_type="np")
    assert images.images.shape == (2, 8, 8, 1)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert command(script.main, script.DiffusersDdpm, argv) == 2
    assert "is not empty: name a new folder by --out" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_network_that_no_guide_understands_is_refused_before_anything_is_drawn(
    call, pipelines, tmp_path
):
    shutil.copytree(pipelines["ddpm"], tmp_path / "pipe")
    IPNDMScheduler().save_pretrained(tmp_path / "pipe" / "scheduler")
    index = tmp_path / "pipe" / "model_index.json"
    index.write_text(index.read_text().replace("DDPMScheduler", "IPNDMScheduler"))
    argv = ("--run", tmp_path / "pipe", "--data.path", "digits", "--out", tmp_path / "run")
    status, _, err = call(*argv)
    assert status == 2 and "cannot get a guide: what a network trained with IPNDM" in err
    assert not (tmp_path / "run").exists()


def test_classes_of_a_pipeline_are_those_of_its_data_before_anything_is_drawn():
    pipe = dit()[0]
    for classes in (0, 10):
        with pytest.raises(InputError, match=f"1000 classes and the data has {classes}: .* true"):
            PipelineSampler(pipe, (4, 8, 8), 4, classes=classes)
    cost = PipelineSampler(pipe, (4, 8, 8), 4, classes=1000).cost
    assert math.isnan(cost.denoiser)  # classifier-free guidance asks twice, if it is on


@pytest.mark.parametrize("scheduler", [HeunDiscreteScheduler, DDIMScheduler])
def test_the_cost_of_a_pipeline_is_what_it_asks(scheduler):
    pipe, guide_of_it, _ = ldm()
    pipe.scheduler, asked = scheduler(), {"network": 0, "discriminator": 0}

    def count(name):
        def hook(*_):
            asked[name] += 1

        return hook

    pipe.unet.register_forward_hook(count("network"))
    guide_of_it.register_forward_hook(count("discriminator"))
    pipe.set_progress_bar_config(disable=True)
    sampler = PipelineSampler(pipe, (4, 8, 8), 5).guided(Push(guide_of_it, 1.0, (0.3, 50.0)))
    sampler(torch.randn(2, 4, 8, 8))
    cost = sampler.cost
    assert (cost.denoiser, cost.discriminator_forward) == tuple(asked.values())
    assert 0 < cost.discriminator_backward == asked["discriminator"] < cost.denoiser


def test_what_a_pipelines_scheduler_does_not_tell_is_told_beside_it(pipelines, discriminator):
    settings = discriminator.GuideExperiment(
        run=str(pipelines["ldm"]),
        data=DataSettings(path="digits"),
        trained_with=str(pipelines["ldm"] / "scheduler" / "scheduler_config.json"),
    )
    model, _ = discriminator.model_of(settings)
    assert model.sampled_by["trained_with"]["_class_name"] == "DDIMScheduler"
    pipe, noise = model.network.pipeline, torch.randn(2, 4, 8, 8)
    options = {"steps": 4, "trained_with": pipe.scheduler}
    push = Push(guiding(4), 1.0, (0.01, math.inf))
    pipe.scheduler = IPNDMScheduler()
    sampler = PipelineSampler(pipe, (4, 8, 8), **options)
    x, guided = sampler(noise), sampler.guided(push)(noise)
    assert not torch.equal(x, guided) and guided.isfinite().all()


def test_a_pipelines_scheduler_is_part_of_what_its_samples_are_known_by(pipelines):
    network, digests = DiffusionPipeline.from_pretrained(pipelines["ddpm"]).unet, set()
    for settings in ("", DDPMScheduler().to_json_string(), IPNDMScheduler().to_json_string()):
        digests.add(weights_digest(network, settings))
    assert len(digests) == 3 and weights_digest(network) in digests


def test_a_folder_of_no_pipeline_and_one_of_text_are_refused(call, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "model_index.json").write_text("{}")
    source = ("--run", tmp_path / "p", "--data.path", "digits")
    status, _, err = call(*source, "--out", tmp_path / "g")
    assert status == 2 and "no pipeline can be read from" in err

    class OfText:
        def __call__(self, prompt, batch_size=1):
            pass

    with pytest.raises(InputError, match=r"OfText cannot be sampled .*train_guide"):
        PipelineSampler(OfText(), (1, 8, 8), 4)


def test_a_model_of_data_that_changed_gets_no_guide(call, models, tmp_path):
    shutil.copytree(models["digits"], tmp_path / "model")
    data = {"path": "digits", "labels": False, "identity": "0" * 32}
    (tmp_path / "model" / "config.yaml").write_text(yaml.safe_dump({"data": data, "seed": 0}))
    status, _, err = call("--run", tmp_path / "model", "--out", tmp_path / "guide")
    assert status == 2 and "'digits' are not those that were trained on" in err
    assert not (tmp_path / "guide").exists()
