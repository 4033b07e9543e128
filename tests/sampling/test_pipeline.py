"""The pipeline: what it saves is what it loads, and the same seed is the same picture."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import hub_utils
from huggingface_hub.errors import EntryNotFoundError
from oracles import heun_scheduler
from pipelines import ldm as latent_pipeline
from torch import nn

from hybridgen.errors import InputError
from hybridgen.networks.denoisers import ImageDenoiser, PointDenoiser
from hybridgen.networks.mlp import MlpDiscriminator
from hybridgen.networks.residual import ResidualDiscriminator
from hybridgen.sampling.extrapolation import classifier_free_guidance
from hybridgen.sampling.guidance import discriminator_guidance
from hybridgen.sampling.pipeline import GuidedDiffusionPipeline
from hybridgen.sampling.schedulers import Scheduled

TRAINED_FOR = {"sampler": "heun", "steps": 4}


def seeded(network):
    """Fresh networks answer zero in places (zero-initialised layers); these do not."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return network.eval()


def image_pipeline(*, classes=0, guided=True, scheduler=None, **config):
    torch.manual_seed(0)
    denoiser = ImageDenoiser(widths=(8,), layers=1, classes=classes)
    discriminator = ResidualDiscriminator(
        resolution=8, width=16, depth=1, classes=classes, noise_conditional=True
    )
    pipeline = GuidedDiffusionPipeline(
        seeded(denoiser),
        scheduler or heun_scheduler(),
        seeded(discriminator) if guided else None,
        **config,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def point_pipeline(discriminator=None, **config):
    torch.manual_seed(0)
    denoiser = seeded(PointDenoiser(width=8, depth=1, frequencies=2))
    pipeline = GuidedDiffusionPipeline(denoiser, heun_scheduler(), discriminator, **config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def plain_unet(**config):
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        norm_num_groups=4,
        **config,
    ).eval()


def sample(pipeline, seed=0, **arguments):
    arguments = {"batch_size": 2, "num_inference_steps": 4, "output_type": "pt"} | arguments
    generator = torch.Generator().manual_seed(seed)
    return pipeline(generator=generator, **arguments).images


def loaded(folder, **arguments):
    pipeline = GuidedDiffusionPipeline.from_pretrained(folder, **arguments)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_seed_says_which_samples():
    pipeline = image_pipeline()
    assert torch.equal(sample(pipeline), sample(pipeline))
    assert not torch.equal(sample(pipeline), sample(pipeline, seed=1))


def test_a_seed_says_what_a_stochastic_scheduler_draws():
    pipeline = image_pipeline(scheduler=DDPMScheduler(clip_sample=False))
    assert torch.equal(sample(pipeline), sample(pipeline))
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(sample(pipeline, latents=noise), sample(pipeline, 1, latents=noise))
    unseeded = {"latents": noise, "num_inference_steps": 4, "output_type": "pt"}
    assert torch.equal(pipeline(**unseeded).images, pipeline(**unseeded).images)


def test_a_generator_a_sample_makes_each_sample_its_own():
    pipeline = image_pipeline()
    both = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    together = pipeline(
        batch_size=2, generator=both, num_inference_steps=4, output_type="pt"
    ).images
    alone = sample(pipeline, seed=4, batch_size=1)
    torch.testing.assert_close(together[1:], alone)


def test_it_is_guidance_and_scheduled_put_together():
    pipeline = image_pipeline(window=(0.1, 20.0))
    noise = torch.randn(3, 1, 8, 8)
    guided = discriminator_guidance(pipeline.unet, pipeline.discriminator, 2.0, window=(0.1, 20.0))
    expected = Scheduled(guided, pipeline.scheduler, (1, 8, 8), 4, highest=80.0)(noise)
    out = sample(pipeline, latents=noise, guidance_scale=2.0)
    assert torch.equal(out, (expected / 2 + 0.5).clamp(0, 1))
    assert not torch.equal(out, sample(pipeline, latents=noise, guidance_scale=0))


def test_classifier_free_guidance_is_inside_the_discriminators():
    pipeline = image_pipeline(classes=3)
    noise, label = torch.randn(2, 1, 8, 8), torch.tensor([2, 0])
    inner = classifier_free_guidance(pipeline.unet, 1.5)
    guided = discriminator_guidance(inner, pipeline.discriminator, 1.0)
    expected = Scheduled(guided, pipeline.scheduler, (1, 8, 8), 4, highest=80.0)(noise, label)
    out = sample(pipeline, latents=noise, class_labels=[2, 0], classifier_free_scale=1.5)
    assert torch.equal(out, (expected / 2 + 0.5).clamp(0, 1))


def test_one_label_is_for_all_samples():
    pipeline = image_pipeline(classes=3)
    assert torch.equal(sample(pipeline, class_labels=1), sample(pipeline, class_labels=[1, 1]))
    assert not torch.equal(sample(pipeline, class_labels=1), sample(pipeline, class_labels=[1, 2]))


@pytest.mark.parametrize("guided", [True, False])
def test_saved_and_loaded_it_makes_the_same_images_bit_for_bit(tmp_path, guided, caplog):
    pipeline = image_pipeline(guided=guided, trained_for=TRAINED_FOR, window=(0.1, 20.0))
    pipeline.save_pretrained(tmp_path)
    with caplog.at_level("WARNING"):
        again = loaded(tmp_path)
    assert not caplog.records
    assert (again.discriminator is not None) == guided
    assert again.config["trained_for"] == TRAINED_FOR
    assert list(again.config["window"]) == [0.1, 20.0]
    assert torch.equal(sample(again), sample(pipeline))


def test_points_are_saved_and_loaded_bit_for_bit(tmp_path):
    discriminator = seeded(MlpDiscriminator(width=8, depth=1, noise_conditional=True))
    pipeline = point_pipeline(discriminator)
    pipeline.save_pretrained(tmp_path)
    assert torch.equal(sample(loaded(tmp_path)), sample(pipeline))


def test_a_plain_unet_is_saved_and_loaded_with_its_scheduler(tmp_path):
    scheduler = DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
    pipeline = GuidedDiffusionPipeline(plain_unet(), scheduler)
    pipeline.save_pretrained(tmp_path)
    again = loaded(tmp_path)
    assert again.scheduler.config["prediction_type"] == "v_prediction"
    assert torch.equal(sample(again), sample(pipeline))


def test_model_index_is_strict_json_with_an_open_window(tmp_path):
    point_pipeline().save_pretrained(tmp_path)
    text = (tmp_path / "model_index.json").read_text()
    index = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert index["window"] == [0.0447, None]
    assert index["discriminator"] == [None, None]
    assert index["unet"] == ["hybridgen.networks.denoisers", "PointDenoiser"]


def test_a_fresh_process_loads_it_without_network_or_remote_code(tmp_path):
    image_pipeline().save_pretrained(tmp_path)
    code = (
        "from hybridgen.sampling.pipeline import GuidedDiffusionPipeline as P\n"
        f"print(type(P.from_pretrained({str(tmp_path)!r}).discriminator).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"HF_HUB_OFFLINE": "1"}
    )
    assert done.stdout.strip() == "ResidualDiscriminator", done.stderr


def test_it_loads_by_name_from_the_hubs_cache(tmp_path):
    pipeline = image_pipeline()
    repository = tmp_path / "models--me--digits"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    pipeline.save_pretrained(repository / "snapshots" / "abc")
    again = loaded("me/digits", cache_dir=tmp_path, local_files_only=True)
    assert torch.equal(sample(again), sample(pipeline))


def test_an_unknown_name_is_said_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match="'me/nothing' is no folder here, and cannot be had"):
        loaded("me/nothing", cache_dir=tmp_path, local_files_only=True)


@pytest.mark.parametrize(
    "entries",
    [
        {"_class_name": ["code", "GuidedDiffusionPipeline"]},
        {"unet": ["code", "Net"]},
        {"unet": ["diffusers", "AutoencoderKL"]},
        {"discriminator": ["hybridgen.networks.denoisers", "MlpDiscriminator"]},
        {"scheduler": ["code", "Scheduler"]},
    ],
)
def test_a_repository_names_no_code(tmp_path, monkeypatch, entries):
    image_pipeline().save_pretrained(tmp_path)
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | entries))
    with pytest.raises(InputError, match=r"nothing is run|not known here: build it yourself"):
        loaded(tmp_path, trust_remote_code=True, custom_pipeline=str(tmp_path / "code.py"))
    assert not (tmp_path / "ran").exists()


def test_a_component_of_an_unknown_class_can_be_passed(tmp_path):
    pipeline = image_pipeline()
    pipeline.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"discriminator": [None, None]}))
    again = loaded(tmp_path, discriminator=pipeline.discriminator)
    assert torch.equal(sample(again), sample(pipeline))


@pytest.mark.parametrize("part", ["unet", "discriminator"])
def test_weights_and_settings_of_a_repository_are_checked(tmp_path, part):
    image_pipeline().save_pretrained(tmp_path)
    config = tmp_path / part / "config.json"
    config.write_text(config.read_text().replace('"channels": 1', '"channels": 3'))
    with pytest.raises(InputError, match="describe a network of"):
        loaded(tmp_path)


def test_a_scheduler_that_nobody_has_is_not_laid_out(tmp_path):
    image_pipeline().save_pretrained(tmp_path)
    config = tmp_path / "scheduler" / "scheduler_config.json"
    settings = json.loads(config.read_text()) | {"num_train_timesteps": 10**13}
    config.write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"is 1e\+13"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    "change", [{"_class_name": "DiffusionPipeline"}, {"num_train_timesteps": 1e13}]
)
def test_what_a_unet_was_trained_with_is_a_scheduler_of_the_list(change):
    trained_with = json.loads(DDPMScheduler().to_json_string()) | change
    pipeline = GuidedDiffusionPipeline(plain_unet(), DDPMScheduler(), trained_with=trained_with)
    with pytest.raises(ValueError, match=r"no conversion for|is 1e\+13"):
        _ = pipeline.denoiser


SWAPS = ["DDIM", "DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete", "HeunDiscrete"]


@pytest.mark.parametrize("name", SWAPS)
def test_another_scheduler_from_the_config_samples_a_plain_unet(name):
    pipeline = GuidedDiffusionPipeline(plain_unet(), DDPMScheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(
        pipeline.scheduler.config
    )
    assert sample(pipeline).isfinite().all()


@pytest.mark.parametrize(
    "name",
    ["EDMEuler", "EDMDPMSolverMultistep", "FlowMatchEulerDiscrete", "DPMSolverMultistep"],
)
def test_a_plain_unet_means_the_same_whatever_scheduler_samples_it(name, tmp_path):
    pipeline = GuidedDiffusionPipeline(plain_unet(), DDPMScheduler())
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 3.0])
    before = pipeline.denoiser(x, sigma)
    kind = getattr(diffusers, f"{name}Scheduler")
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    assert torch.equal(pipeline.denoiser(x, sigma), before)
    pipeline.save_pretrained(tmp_path)
    loaded = GuidedDiffusionPipeline.from_pretrained(tmp_path)
    assert torch.equal(loaded.denoiser(x, sigma), before)


@pytest.mark.parametrize("name", [*SWAPS, "DDPM", "EDMDPMSolverMultistep", "EDMEuler"])
def test_another_scheduler_from_the_config_samples_a_denoiser_of_ours(name):
    pipeline = point_pipeline()
    pipeline.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(
        pipeline.scheduler.config
    )
    assert sample(pipeline).isfinite().all()


def test_a_plain_unet_gives_the_images_that_diffusers_gives():
    unet, scheduler = plain_unet(), DDIMScheduler(clip_sample=False)
    theirs = DDIMPipeline(unet, scheduler)
    theirs.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(0)
    expected = theirs(batch_size=2, generator=seed, num_inference_steps=4, output_type="np").images
    ours = GuidedDiffusionPipeline(unet, scheduler)
    out = sample(ours, output_type="np", num_inference_steps=4)
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_classes_of_a_plain_unet_have_a_null_label_where_one_is_named(tmp_path):
    unet = seeded(plain_unet(num_class_embeds=4))
    pipeline = GuidedDiffusionPipeline(unet, DDIMScheduler(clip_sample=False), null_label=3)
    pipeline.save_pretrained(tmp_path)
    again = loaded(tmp_path)
    conditional = sample(again, class_labels=2)
    same = sample(again, class_labels=2, classifier_free_scale=1.0)
    torch.testing.assert_close(same, conditional, rtol=0, atol=1e-4)
    assert not torch.equal(conditional, sample(again, class_labels=2, classifier_free_scale=3.0))
    with pytest.raises(ValueError, match=r"lie in 0\.\.2"):
        sample(again, class_labels=3)


def test_a_pipeline_that_decodes_is_refused_and_not_robbed_of_its_decoder():
    with pytest.raises(ValueError, match=r"decodes .* by its vqvae, .* use guide\(pipe"):
        GuidedDiffusionPipeline.from_pipe(latent_pipeline()[0])


def test_from_pipe_puts_a_guide_on_a_diffusers_pipeline():
    theirs = DDIMPipeline(plain_unet(), DDIMScheduler(clip_sample=False))
    discriminator = seeded(
        ResidualDiscriminator(resolution=8, width=16, depth=1, noise_conditional=True)
    )
    ours = GuidedDiffusionPipeline.from_pipe(theirs, discriminator=discriminator)
    assert ours.unet is theirs.unet
    assert not torch.equal(sample(ours), sample(ours, guidance_scale=0))


def test_images_come_as_pictures_arrays_and_tensors():
    pipeline = image_pipeline(guided=False)
    tensor, array = sample(pipeline), sample(pipeline, output_type="np")
    assert tensor.shape == (2, 1, 8, 8)
    np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert array.min() >= 0 and array.max() <= 1
    pictures = sample(pipeline, output_type="pil")
    np.testing.assert_array_equal(np.asarray(pictures[1]), (array[1, ..., 0] * 255).round())


def test_without_return_dict_samples_come_in_a_tuple():
    pipeline = image_pipeline(guided=False)
    seed = torch.Generator().manual_seed(0)
    out = pipeline(2, 1.0, 4, seed, output_type="pt", return_dict=False)
    assert isinstance(out, tuple)
    assert torch.equal(out[0], sample(pipeline))


def test_dropout_sleeps_while_sampling_and_training_mode_comes_back():
    torch.manual_seed(0)
    denoiser = seeded(ImageDenoiser(widths=(8,), layers=1, dropout=0.5))
    pipeline = GuidedDiffusionPipeline(denoiser, heun_scheduler())
    pipeline.set_progress_bar_config(disable=True)
    expected = sample(pipeline)
    denoiser.train()
    denoiser.unet.conv_in.eval()
    assert torch.equal(sample(pipeline), expected)
    assert denoiser.training and not denoiser.unet.conv_in.training


def test_a_guide_used_with_another_sampler_warns_and_names_both():
    pipeline = image_pipeline(trained_for={"sampler": "heun", "steps": 18})
    pipeline.scheduler = DDIMScheduler()
    sentence = "samples of heun, 18 steps, and is used with DDIMScheduler, 4 steps"
    with pytest.warns(UserWarning, match=sentence) as caught:
        sample(pipeline)
    assert caught[0].filename == __file__


def test_heun_on_even_timesteps_is_another_sampler_than_edms():
    pipeline = image_pipeline(trained_for=TRAINED_FOR, scheduler=diffusers.HeunDiscreteScheduler())
    with pytest.warns(UserWarning, match="samples of heun, 4 steps"):
        sample(pipeline)


def test_a_denoiser_of_ours_is_never_asked_above_its_range():
    pipeline = point_pipeline()
    pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    seen = []
    pipeline.unet.register_forward_pre_hook(lambda _, given: seen.append(float(given[1].max())))
    sample(pipeline)
    assert max(seen) == 80.0


def test_a_guide_used_with_another_number_of_steps_warns():
    pipeline = image_pipeline(trained_for=TRAINED_FOR)
    with pytest.warns(UserWarning, match="heun, 4 steps, .* HeunDiscreteScheduler, 5 steps"):
        sample(pipeline, num_inference_steps=5)


def test_a_guide_in_its_own_sampler_is_quiet_and_so_is_scale_zero():
    pipeline = image_pipeline(trained_for=TRAINED_FOR)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        sample(pipeline)
        sample(pipeline, num_inference_steps=5, guidance_scale=0)


@pytest.mark.parametrize(
    ("discriminator", "sentence"),
    [
        (ResidualDiscriminator(resolution=8, width=16, depth=1), "must know the noise level"),
        (
            ResidualDiscriminator(resolution=16, width=16, depth=1, noise_conditional=True),
            r"\(1, 16, 16\) and the denoiser for \(1, 8, 8\)",
        ),
        (
            ResidualDiscriminator(
                resolution=8, channels=3, width=16, depth=1, noise_conditional=True
            ),
            r"\(3, 8, 8\) and the denoiser for \(1, 8, 8\)",
        ),
        (
            ResidualDiscriminator(
                resolution=8, classes=10, width=16, depth=1, noise_conditional=True
            ),
            "classes of 10 and the denoiser for 0",
        ),
    ],
)
@pytest.mark.parametrize("network", ["ours", "diffusers"])
def test_a_discriminator_that_cannot_guide_is_refused_at_once(discriminator, sentence, network):
    unet = ImageDenoiser(widths=(8,), layers=1) if network == "ours" else plain_unet()
    with pytest.raises(ValueError, match=sentence):
        GuidedDiffusionPipeline(unet, DDIMScheduler(), discriminator)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"guidance_scale": float("nan")}, "finite number or a function"),
        ({"guidance_scale": float("inf")}, "finite number or a function"),
        ({"class_labels": 1}, "knows no classes, but class_labels were given"),
        ({"classifier_free_scale": 2.0}, "needs class_labels"),
        ({"output_type": "jpeg"}, "output_type for images is one of .*'jpeg'"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"latents": torch.zeros(2, 1, 4, 4)}, r"expected latents \[b, \*\[1, 8, 8\]\]"),
        ({"generator": [torch.Generator()] * 3}, "3 generators for batch_size 2"),
        ({"num_inference_steps": 0}, "at least one step"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(arguments, sentence):
    arguments = {"batch_size": 2, "num_inference_steps": 4, "output_type": "pt"} | arguments
    with pytest.raises(ValueError, match=sentence):
        image_pipeline()(**arguments)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (3, r"lie in 0\.\.2, got \[3\]"),
        ([0, -1], r"got \[-1, 0\]"),
        ([0, 1, 2], "one class label or 2 of them"),
        ([0.5, 1.0], "class_labels are integers"),
    ],
)
def test_bad_labels_are_refused_in_a_sentence(labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        sample(image_pipeline(classes=3), class_labels=labels)


def test_points_are_not_drawn_as_pictures():
    with pytest.raises(ValueError, match=r"samples of shape \[2\] is one of \['np', 'pt'\]"):
        sample(point_pipeline(), output_type="pil")
    assert isinstance(sample(point_pipeline(), output_type="np"), np.ndarray)


def test_half_precision_weights_are_refused_with_the_cure():
    pipeline = image_pipeline(guided=False).to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"torch\.autocast"):
        sample(pipeline)


@pytest.mark.parametrize(
    "trained_for", [{}, {"sampler": "heun"}, {"sampler": "heun", "steps": 0}, "heun"]
)
def test_a_description_of_training_that_says_nothing_is_refused(trained_for):
    with pytest.raises(ValueError, match="trained_for is"):
        point_pipeline(trained_for=trained_for)


@pytest.mark.parametrize("window", [(2.0, 1.0), (-1.0, None), (0.0, float("nan"))])
def test_an_empty_window_is_refused(window):
    with pytest.raises(ValueError, match="window"):
        point_pipeline(window=window)


class SomebodysDiscriminator(nn.Module):
    def forward(self, x, sigma, label=None):
        return -(x**2).flatten(1).sum(1)


class SomebodysModel(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, start=0.5):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start))

    def forward(self, x, sigma, label=None):
        return -self.weight * (x**2).flatten(1).sum(1)


def test_somebodys_own_discriminator_guides_but_is_not_left_out_of_the_folder_in_silence(tmp_path):
    pipeline = point_pipeline(SomebodysDiscriminator())
    assert not torch.equal(sample(pipeline), sample(pipeline, guidance_scale=0))
    with pytest.raises(
        ValueError, match=r"SomebodysDiscriminator, which has no save_pretrained.*ModelMix"
    ):
        pipeline.save_pretrained(tmp_path)


def test_somebodys_own_model_is_saved_and_loaded_where_its_module_is_imported(tmp_path):
    pipeline = point_pipeline(SomebodysModel())
    pipeline.save_pretrained(tmp_path)
    assert torch.equal(sample(loaded(tmp_path)), sample(pipeline))


def test_a_card_is_written_beside_the_pipeline_and_never_over_another(tmp_path):
    pipeline = image_pipeline(trained_for=TRAINED_FOR)
    pipeline.save_pretrained(tmp_path / "digits")
    card = (tmp_path / "digits" / "README.md").read_text()
    assert "# digits" in card and "ResidualDiscriminator" in card and "heun with 4 steps" in card
    assert str(tmp_path) not in card
    (tmp_path / "digits" / "README.md").write_text("mine")
    pipeline.save_pretrained(tmp_path / "digits")
    assert (tmp_path / "digits" / "README.md").read_text() == "mine"


def test_a_card_of_the_folder_we_are_in_is_called_after_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    point_pipeline().save_pretrained(".")
    assert f"# {tmp_path.name}\n" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("kind", ["image", "point"])
def test_the_code_on_the_card_runs_as_printed(tmp_path, kind, monkeypatch):
    pipeline = image_pipeline(classes=3) if kind == "image" else point_pipeline()
    pipeline.save_pretrained(tmp_path / "model")
    (block,) = re.findall(
        r"```python\n(.*?)```", (tmp_path / "model" / "README.md").read_text(), re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    assert len(names["images" if kind == "image" else "points"]) == 4


def test_a_push_to_the_hub_carries_our_card_and_not_an_empty_one(monkeypatch):
    uploaded = {}

    def missing(*_, **__):
        raise EntryNotFoundError("no card there yet")

    class Created:
        repo_id = "me/digits"

    def keep(repo_id, folder_path, **_):
        uploaded["files"] = sorted(p.name for p in Path(folder_path).iterdir())
        uploaded["card"] = (Path(folder_path) / "README.md").read_text()

    monkeypatch.setattr(hub_utils.ModelCard, "load", missing)
    monkeypatch.setattr(hub_utils, "create_repo", lambda *_, **__: Created)
    monkeypatch.setattr(hub_utils, "upload_folder", keep)  # all three would ask the hub
    image_pipeline().push_to_hub("me/digits")
    assert 'from_pretrained("me/digits")' in uploaded["card"]
    assert "model_index.json" in uploaded["files"] and "discriminator" in uploaded["files"]
