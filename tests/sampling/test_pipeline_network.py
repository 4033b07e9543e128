"""Denoisers in pipelines of diffusers: the samples of `Scheduled`, saved, loaded and guided."""

import json

import diffusers
import pytest
import torch
from diffusers import (
    ConsistencyModelPipeline,
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    EDMDPMSolverMultistepScheduler,
)
from pipelines import Loop, discriminator, sample, seeded, unet
from torch import nn

from hybridgen.networks.denoisers import ImageDenoiser, PointDenoiser
from hybridgen.sampling.build import build_scheduler
from hybridgen.sampling.guidance import discriminator_guidance
from hybridgen.sampling.guide import guide, unguide
from hybridgen.sampling.pipeline_network import PipelineNetwork
from hybridgen.sampling.pretrained import DiffusersDenoiser
from hybridgen.sampling.schedulers import Scheduled
from hybridgen.sampling.settings import SamplerSettings

CALL = {"batch_size": 2, "output_type": "np"}


def denoiser(**settings):
    torch.manual_seed(0)
    return seeded(ImageDenoiser(widths=(8,), layers=1, **settings))


def piped(network=None, scheduler=None, kind=ConsistencyModelPipeline):
    scheduler = scheduler or EDMDPMSolverMultistepScheduler()
    return kind(PipelineNetwork(network or denoiser(), scheduler), scheduler)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("DDPM", {"clip_sample": False}),
        ("DDIM", {"clip_sample": False, "prediction_type": "v_prediction"}),
        ("DDIM", {"clip_sample": False, "prediction_type": "sample"}),
        ("EulerDiscrete", {}),
        ("EDMEuler", {}),
        ("EDMDPMSolverMultistep", {"prediction_type": "v_prediction"}),
        ("FlowMatchEulerDiscrete", {}),
        ("CMStochasticIterative", {"clip_denoised": False}),
    ],
)
@pytest.mark.parametrize("guided", [False, True])
def test_in_a_pipeline_it_makes_the_samples_of_scheduled(name, settings, guided):
    scheduler, network = getattr(diffusers, f"{name}Scheduler")(**settings), denoiser()
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pipe, guiding = piped(network, scheduler, Loop), discriminator()
    if guided:
        guide(pipe, guiding, 0.7, (0.01, 79.0))
        network = discriminator_guidance(network, guiding, 0.7, window=(0.01, 79.0))
    sampler = Scheduled(network, scheduler, (1, 8, 8), 4, highest=80.0)
    expected = sampler(noise, generator=torch.Generator().manual_seed(0))
    pipe.set_progress_bar_config(disable=True)
    got = pipe(noise, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=2e-3)


def test_a_student_is_sampled_as_by_its_sampler_also_at_fewer_calls():
    settings = SamplerSettings(name="consistency", steps=4, low=0.02, high=100.0)
    scheduler, network = build_scheduler(settings), denoiser(classes=3)
    pipe, label = piped(network, scheduler), torch.tensor([2, 0])
    for steps in (1, 2, 4):
        seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
        noise = torch.randn(2, 1, 8, 8, generator=seeds[0])
        sampler = Scheduled(network, scheduler, (1, 8, 8), steps, highest=100.0)
        expected = sampler(noise, label, generator=seeds[0])
        call = {"batch_size": 2, "class_labels": [2, 0], "output_type": "pt"}
        pipe.set_progress_bar_config(disable=True)
        images = pipe(generator=seeds[1], num_inference_steps=steps, **call).images
        torch.testing.assert_close(images, (expected / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("of", ["ours", "diffusers"])
def test_saved_and_loaded_it_makes_the_same_images_bit_for_bit(of, guided, tmp_path):
    network = denoiser(classes=3)
    if of == "diffusers":
        trained_with = DDPMScheduler(prediction_type="v_prediction")
        network = DiffusersDenoiser(unet(num_class_embeds=3), trained_with).eval()
    pipe = piped(network)
    call = {**CALL, "class_labels": [1, 2]}
    before = sample(pipe, call)
    if guided:
        guide(pipe, discriminator(classes=3), 0.7, (0.1, 50.0))
    expected = sample(pipe, call)
    assert torch.equal(expected, before) != guided
    pipe.save_pretrained(tmp_path)
    loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded, ConsistencyModelPipeline)
    assert torch.equal(sample(loaded, call), expected)
    if guided:
        assert torch.equal(sample(unguide(loaded), call), before)


def test_a_denoiser_is_not_asked_above_its_range():
    seen = []

    class Noted(nn.Module):
        shape, classes = (1, 8, 8), 0

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x, sigma, label=None):
            seen.append(float(sigma.max()))
            return x * self.weight

    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = piped(Noted(), flow, Loop)
    pipe.set_progress_bar_config(disable=True)
    assert pipe(torch.randn(1, 1, 8, 8)).abs().max() < 1e-5  # where the clean estimate is 0
    assert max(seen) == 80.0
    seen.clear()
    Noted.levels = (1e-3, 1e7)
    settings = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    pipe = piped(Noted(), DDIMScheduler(**settings), DDIMPipeline)
    sample(pipe, CALL)
    assert max(seen) == pytest.approx(4096, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: piped(PointDenoiser(width=8, depth=1)), r"shape \(2,\): sample it by Scheduled"),
        (lambda: piped(discriminator_guidance(denoiser(), discriminator())), "this Guided is for"),
        (lambda: piped(scheduler=DDPMScheduler(variance_type="learned")), "tells no variance"),
        (lambda: piped(scheduler=diffusers.IPNDMScheduler()), "cannot be told"),
        (lambda: sample(piped().to(torch.bfloat16), CALL), r"torch\.autocast"),
        (lambda: guide(Loop(denoiser(), DDIMScheduler()), discriminator()), "put PipelineNetwork"),
        (lambda: guide(piped(), discriminator(3)), r"\(3, 8, 8\) and the denoiser for \(1, 8, 8\)"),
        (lambda: guide(piped(denoiser(classes=5)), discriminator(classes=3)), "of 3 and the"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


class Own(DDIMScheduler):
    """Somebody's scheduler."""


def test_what_could_not_be_read_back_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="Own is no scheduler of diffusers"):
        piped(scheduler=Own(), kind=DDIMPipeline).unet.save_pretrained(tmp_path / "a")
    module = nn.Linear(1, 1)
    module.shape = (1, 8, 8)
    with pytest.raises(ValueError, match="a Linear cannot be saved"):
        piped(module).unet.save_pretrained(tmp_path / "b")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("config.json", {"scheduler": {"_class_name": "DDPMPipeline"}}, "no scheduler of"),
        ("config.json", {"scheduler": 3}, "its scheduler is 3"),
        (
            "config.json",
            {"scheduler": {"_class_name": "DDPMScheduler", "num_train_timesteps": 10**13}},
            r"is 1e\+13",
        ),
        ("denoiser/config.json", {"_class_name": "Linear"}, "describes a 'Linear'"),
        ("denoiser/config.json", {"channels": 3}, "describe a network of"),
    ],
)
def test_a_damaged_or_foreign_folder_is_refused(file, change, sentence, tmp_path):
    piped().unet.save_pretrained(tmp_path)
    path = tmp_path / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=sentence):
        PipelineNetwork.from_pretrained(tmp_path)
