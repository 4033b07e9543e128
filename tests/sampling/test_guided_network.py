"""Guidance inside pipelines of diffusers: theirs in everything else, and exact."""

import copy
import json
import math
import warnings
from functools import cache

import accelerate
import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from oracles import P, Q, denoise, exact_discriminator, ks, unit_noise, w1
from pipelines import (
    PIPELINES,
    Loop,
    OfTokens,
    conditional_unet,
    ddpm,
    discriminator,
    dit,
    flux_network,
    ldm,
    sample,
    sd3_network,
    stable_diffusion,
    unet,
)
from safetensors.torch import load_file, save_file
from torch import nn

from hybridgen.errors import InputError
from hybridgen.networks.mlp import MlpDiscriminator
from hybridgen.sampling.guidance import discriminator_guidance
from hybridgen.sampling.guide import guide, unguide
from hybridgen.sampling.guided_network import GuidedNetwork
from hybridgen.sampling.pretrained import DiffusersDenoiser
from hybridgen.sampling.schedulers import Scheduled

EVERYWHERE = (0.0, math.inf)
NOWHERE = (1e-9, 1e-8)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_guide_that_says_nothing_changes_no_bit_and_one_that_does_all(name):
    pipe, guiding, call = PIPELINES[name]()
    before = sample(pipe, call)
    assert guide(pipe, guiding, 0.0) is pipe
    assert torch.equal(sample(pipe, call), before)
    assert torch.equal(sample(guide(unguide(pipe), guiding, 1.0, NOWHERE), call), before)
    guided = sample(guide(unguide(pipe), guiding), call)
    assert not torch.equal(guided, before) and guided.isfinite().all()
    assert torch.equal(sample(unguide(pipe), call), before)


VARIANCE_PRESERVING = (
    *("DDPM", "DDPMParallel", "DDIM", "DDIMParallel", "PNDM", "LMSDiscrete", "EulerDiscrete"),
    *("EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete"),
    *("DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "SASolver"),
    *("LCM", "TCD", "UnCLIP"),
)


IMAGES, TEXT, GUIDING = cache(lambda: unet(4)), cache(conditional_unet), cache(discriminator)


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
@pytest.mark.parametrize("kind", ["images", "text"])
def test_under_every_scheduler_a_guide_that_says_nothing_changes_no_bit(name, kind):
    settings = {"skip_prk_steps": True} if name == "PNDM" else {}
    scheduler = getattr(diffusers, f"{name}Scheduler")(**settings)
    network = IMAGES() if kind == "images" else TEXT()
    pipe, ask = Loop(network, scheduler), ask_with_text if kind == "text" else None
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def run():
        torch.manual_seed(0)
        how = {"ask": ask, "scale": 5.0} if kind == "text" else {}
        return pipe(noise, generator=torch.Generator().manual_seed(0), **how)

    pipe.set_progress_bar_config(disable=True)
    before, guiding = run(), GUIDING(4)
    assert torch.equal((guide(pipe, guiding, 0.0), run())[1], before)
    assert torch.equal((guide(unguide(pipe), guiding, 1.0, NOWHERE), run())[1], before)
    assert not torch.equal((guide(unguide(pipe), guiding), run())[1], before)


def ask_with_text(network, x, t):
    text = torch.randn(len(x), 3, 16, generator=torch.Generator().manual_seed(1))
    return network(x, t, encoder_hidden_states=text).sample


def ask_sd3(network, x, t):
    text = torch.randn(len(x), 3, 16, generator=torch.Generator().manual_seed(1))
    options = {"encoder_hidden_states": text, "pooled_projections": text[:, 0]}
    return network(hidden_states=x, timestep=t.expand(len(x)), **options).sample


def ask_flux(network, x, t):
    text = torch.randn(len(x), 3, 16, generator=torch.Generator().manual_seed(1))
    options = {"encoder_hidden_states": text, "pooled_projections": text[:, 0]}
    options |= {"txt_ids": torch.zeros(3, 3), "img_ids": torch.zeros(4, 3)}
    share = t.expand(len(x)) / 1000
    return network(hidden_states=x, timestep=share, return_dict=False, **options)[0]


@pytest.mark.parametrize(
    ("network", "shape", "ask"),
    [(sd3_network, (4, 8, 8), ask_sd3), (flux_network, (4, 16), ask_flux)],
)
def test_transformers_of_flow_matching_are_asked_in_their_own_time(network, shape, ask):
    """The discriminator is shown the level of the scheduler, whatever the network is told."""
    seen = []

    def guiding(x, sigma, label=None):
        seen.append(float(sigma[0]))
        return -x.flatten(1).square().sum(1)

    pipe = Loop(network(), FlowMatchEulerDiscreteScheduler())
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    before = pipe(noise, ask=ask)
    guided = guide(pipe, guiding, 0.1, EVERYWHERE)(noise, ask=ask)
    assert not torch.equal(guided, before)
    times = pipe.scheduler.sigmas[:-1]
    levels = (times / (1 - times)).clamp_max(80)
    torch.testing.assert_close(torch.tensor(seen), levels, rtol=1e-5, atol=1e-5)


class Exact(nn.Module):
    """The exact network of a mixture in one dimension, `(x, t) -> prediction`."""

    def __init__(self, kind, mixture, scheduler):
        super().__init__()
        self.kind, self.mixture = kind, mixture
        self.kept = getattr(scheduler, "alphas_cumprod", torch.ones(1)).double()

    def forward(self, x, t):
        if self.kind == "flow":
            alpha, s = 1 - t.double() / 1000, t.double() / 1000
        else:
            alpha, s = self.kept[int(t)].sqrt(), (1 - self.kept[int(t)]).sqrt()
        alpha = alpha.clamp_min(1e-6)
        x0 = denoise(self.mixture, x / alpha, s / alpha)
        noise = (x - alpha * x0) / s
        return {
            "epsilon": noise,
            "v_prediction": alpha * noise - s * x0,
            "sample": x0,
            "flow": noise - x0,
        }[self.kind]


def ask_plainly(network, x, t):
    return network(x, t)


def exact_pipe(kind, mixture):
    if kind == "flow":
        scheduler = FlowMatchEulerDiscreteScheduler()
    else:
        scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False)
    pipe = Loop(Exact(kind, mixture, scheduler), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_an_exact_discriminator_leads_a_wrong_network_to_the_data(kind):
    """Gates of fixture A; and path by path it is the pipeline of the data's own network."""
    how = {"pure_noise": 1000 if kind == "flow" else None}
    guided = guide(exact_pipe(kind, Q), exact_discriminator(P, Q), 1.0, EVERYWHERE, **how)
    x = guided(unit_noise(), 80, ask=ask_plainly)
    assert w1(x) < 0.05 and ks(x) < 0.02  # .042, .011
    # Above sigma 80 the discriminator is asked at 80: 3e-5 where the data differ by 4.
    right = exact_pipe(kind, P)(unit_noise(2_000), 80, ask=ask_plainly)
    few = guided(unit_noise(2_000), 80, ask=ask_plainly)
    torch.testing.assert_close(few, right, rtol=0, atol=3e-3)
    wrong = unguide(guided)(unit_noise(2_000), 80, ask=ask_plainly)
    assert w1(wrong) > 0.8


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("DDPM", {"clip_sample": False}),
        ("DDIM", {"clip_sample": False, "prediction_type": "v_prediction"}),
        ("DDIM", {"clip_sample": False, "prediction_type": "sample"}),
        ("EulerDiscrete", {}),
        ("HeunDiscrete", {"use_karras_sigmas": True}),
        ("EDMEuler", {}),
        ("EDMDPMSolverMultistep", {"prediction_type": "v_prediction"}),
        ("FlowMatchEulerDiscrete", {}),
        ("CMStochasticIterative", {"clip_denoised": False}),
    ],
)
def test_it_is_guidance_of_the_denoiser_that_the_network_is(name, settings):
    """The other way to the same samples: the network as a denoiser, guided, and scheduled."""
    scheduler = getattr(diffusers, f"{name}Scheduler")(**settings)
    network, guiding = unet(), discriminator()
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    window = (0.01, 79.0)
    denoiser = DiffusersDenoiser(network, scheduler)
    denoiser = discriminator_guidance(denoiser, guiding, 0.7, window=window, clip=3.0)
    sampler = Scheduled(denoiser, scheduler, (1, 8, 8), 4, highest=1e6)
    expected = sampler(noise, generator=torch.Generator().manual_seed(0))
    pipe = guide(Loop(network, scheduler), guiding, 0.7, window, clip=3.0)
    pipe.set_progress_bar_config(disable=True)
    got = pipe(noise, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=2e-3)


def test_both_halves_of_classifier_free_guidance_get_the_same_push_and_one_call():
    sizes = []

    def guiding(x, sigma, label=None):
        sizes.append(len(x))
        return -x.flatten(1).square().sum(1)

    pipe = guide(Loop(conditional_unet(), DDIMScheduler()), guiding, 1.0)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor(500)
    twice = torch.cat([x, x])
    with torch.no_grad():
        push = ask_with_text(pipe.unet, twice, t) - ask_with_text(pipe.unet.network, twice, t)
        alone = ask_with_text(pipe.unet, x, t) - ask_with_text(pipe.unet.network, x, t)
    torch.testing.assert_close(push[:2], push[2:])
    torch.testing.assert_close(push[:2], alone, rtol=1e-4, atol=1e-4)
    assert sizes == [2, 2]


def test_a_discriminator_with_classes_is_told_those_of_the_labelled_half():
    pipe, _, call = dit()
    seen = []

    class Labelled(nn.Module):
        classes = 1000

        def forward(self, x, sigma, label=None):
            seen.append(label.tolist())
            return x.flatten(1).sum(1) * label

    guided = sample(guide(pipe, Labelled()), call)
    assert seen == [[1, 2]] * 2  # the third step is below the window
    seen.clear()
    call = {**call, "guidance_scale": 1.0}
    assert not torch.equal(sample(pipe, call), guided)
    assert seen == [[1, 2]] * 2
    with pytest.raises(ValueError, match="knows 1000 classes and this call names none"):
        sample(pipe, {**call, "class_labels": [1, 1000]})


def test_conditions_and_variances_in_channels_are_left_alone():
    x, t = torch.randn(2, 6, 8, 8), torch.tensor(500)
    network = unet(6, 4)  # two channels of a condition come after four of the samples
    pipe = guide(Loop(network, DDIMScheduler()), discriminator(4), 1.0)
    assert not torch.equal(pipe.unet(x, t).sample, network(x, t).sample)
    network = unet(4, 8)  # four channels of a mean, four of a variance
    pipe = guide(Loop(network, DDIMScheduler()), discriminator(4), 1.0)
    guided, plain = pipe.unet(x[:, :4], t).sample, network(x[:, :4], t).sample
    assert not torch.equal(guided[:, :4], plain[:, :4])
    assert torch.equal(guided[:, 4:], plain[:, 4:])
    # Six in and six out, of which three are a variance (super-resolution).
    network, scheduler = unet(6), DDPMScheduler(variance_type="learned_range")
    pipe = guide(Loop(network, scheduler), discriminator(3), 1.0)
    assert torch.equal(pipe.unet(x, t).sample[:, 3:], network(x, t).sample[:, 3:])


def test_answers_come_in_the_form_that_was_asked_for():
    network, x, t = unet(), torch.randn(2, 1, 8, 8), torch.tensor(500)
    guided = guide(Loop(network, DDIMScheduler()), discriminator(), 1.0).unet
    expected = guided(x, t).sample
    assert torch.equal(guided(x, t, return_dict=False)[0], expected)
    assert torch.equal(guided(sample=x, timestep=500).sample, expected)
    each = guided(x, torch.tensor([500, 300])).sample
    torch.testing.assert_close(each[:1], expected[:1])
    assert not torch.allclose(each[1:], expected[1:])


@pytest.mark.parametrize("make", [ddpm, ldm, dit])
def test_saved_and_loaded_it_makes_the_same_samples_bit_for_bit(make, tmp_path):
    pipe, guiding, call = make()
    guide(pipe, guiding, 0.7, (0.1, 50.0), clip=2.0)
    expected = sample(pipe, call)
    pipe.save_pretrained(tmp_path)
    loaded = type(pipe).from_pretrained(tmp_path)
    assert torch.equal(sample(loaded, call), expected)
    name = "transformer" if make is dit else "unet"
    push = getattr(loaded, name).push
    assert (push.scale, push.window, push.clip) == (0.7, (0.1, 50.0), 2.0)
    before = sample(unguide(pipe), call)
    assert torch.equal(sample(unguide(loaded), call), before)
    # The guide alone, for another copy of the pipeline.
    guide(pipe, tmp_path / name / "guide", clip=2.0)
    assert torch.equal(sample(pipe, call), expected)


def test_saved_with_another_scheduler_the_network_is_read_as_it_was_trained(tmp_path):
    pipe, guiding, _ = ddpm()
    guide(pipe, guiding)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()  # no word of its training
    pipe.save_pretrained(tmp_path)
    text = (tmp_path / "unet" / "guide" / "guide.json").read_text()
    saved = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert saved["window"] == [0.0447, None] and saved["scale"] == 1.0
    loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded, DDPMPipeline) and isinstance(loaded.unet, GuidedNetwork)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor(500)
    assert torch.equal(loaded.unet(x, t).sample, pipe.unet(x, t).sample)


class SomebodysModel(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, start=0.5):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start))

    def forward(self, x, sigma, label=None):
        return -self.weight * (x**2).flatten(1).sum(1)


class SomebodysScheduler(DDPMScheduler):
    """Of a class that is not diffusers'."""


class SomebodysUnet(diffusers.UNet2DModel):
    """The same of a network."""


def test_what_could_not_be_read_back_is_not_saved(tmp_path):
    network = unet()
    network.__class__ = SomebodysUnet
    for pipe, what in (
        (DDPMPipeline(unet(), SomebodysScheduler()), "SomebodysScheduler is no scheduler of"),
        (DDPMPipeline(network, DDPMScheduler()), "this SomebodysUnet is none of diffusers'"),
    ):
        with pytest.raises(ValueError, match=what):
            guide(pipe, discriminator()).unet.save_pretrained(tmp_path / "unet")
        assert not (tmp_path / "unet").exists()
    pipe = DDPMPipeline(unet(), SomebodysScheduler())
    guide(pipe, discriminator(), trained_with=DDPMScheduler()).unet.save_pretrained(tmp_path)
    assert GuidedNetwork.from_pretrained(tmp_path).push.scale == 1


def test_somebodys_own_discriminator_is_saved_if_it_can_be(tmp_path):
    pipe, _, call = ddpm()
    expected = sample(guide(pipe, SomebodysModel()), call)
    pipe.save_pretrained(tmp_path)
    assert torch.equal(sample(DDPMPipeline.from_pretrained(tmp_path), call), expected)
    for guiding, scale, what in (
        (OfTokens(), 1.0, "OfTokens cannot be saved"),
        (SomebodysModel(), lambda sigma: sigma, "scale that is a function cannot be saved"),
    ):
        guide(unguide(pipe), guiding, scale)
        with pytest.raises(ValueError, match=what):
            pipe.save_pretrained(tmp_path / "other")
        assert not (tmp_path / "other" / "unet").exists()


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("guide.json", {"window": [3, 1]}, "damaged"),
        ("guide.json", {"scale": "much"}, "scale"),
        (
            "guide.json",
            {"trained_with": {"_class_name": "DDPMPipeline"}},
            "no scheduler of diffusers",
        ),
        ("guide.json", {"discriminator": ["torch.nn", "Linear"]}, "nothing is run"),
        ("../config.json", {"_class_name": "DDPMPipeline"}, "none of diffusers'"),
    ],
)
def test_a_damaged_or_foreign_folder_is_refused(file, change, sentence, tmp_path):
    pipe, guiding, _ = ddpm()
    guide(pipe, guiding).save_pretrained(tmp_path)
    path = tmp_path / "unet" / "guide" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=sentence):
        GuidedNetwork.from_pretrained(tmp_path / "unet")


def test_a_network_whose_weights_are_no_safetensors_or_not_all_there_is_refused(tmp_path):
    for name, options in (("pickled", {"safe_serialization": False}), ("cut", {})):
        pipe, guiding, _ = ddpm()
        guide(pipe, guiding).unet.save_pretrained(tmp_path / name, **options)
    path = tmp_path / "cut" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["conv_out.weight"]
    save_file(weights, path)
    for name in ("pickled", "cut"):
        with pytest.raises(InputError, match=r"save (again|both again)"):
            GuidedNetwork.from_pretrained(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "arguments", "sentence"),
    [
        ({"scale": 0.0}, {}, "no scale helped"),
        ({"significant": False}, {}, "was not significant"),
        ({"significant": False}, {"scale": 2.0}, None),
        ({"sampler": "DDIMScheduler", "steps": 5}, {}, "errors of DDIMScheduler with 5 steps"),
        ({"sampler": "DDPMScheduler", "steps": 5, "significant": True}, {}, None),
        ({"sampler": "ddpm", "steps": 5}, {}, None),
        ({"sampler": "heun", "steps": 5}, {}, "errors of heun with 5 steps"),
    ],
)
def test_a_guide_that_is_none_or_for_other_samples_warns(change, arguments, sentence, tmp_path):
    pipe, guiding, _ = ddpm()
    guide(pipe, guiding).unet.save_pretrained(tmp_path)
    path = tmp_path / "guide" / "guide.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        guide(unguide(pipe), tmp_path / "guide", **arguments)
    told = [str(each.message) for each in said if issubclass(each.category, UserWarning)]
    assert not told if sentence is None else any(sentence in each for each in told), told


def test_what_refines_a_gan_guides_nothing(tmp_path):
    pipe, guiding, _ = ddpm()
    guide(pipe, guiding).unet.save_pretrained(tmp_path)
    path = tmp_path / "guide" / "guide.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sampler": "single_pass"}))
    with pytest.raises(ValueError, match="a GAN's finished samples"):
        guide(unguide(pipe), tmp_path / "guide")


class Elsewhere(nn.Module):
    """A discriminator on another device, that notes how it is moved."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), device="meta"))

    def to(self, device):
        self.moved = device, torch.is_inference_mode_enabled()
        self.weight = nn.Parameter(torch.ones((), device=device))
        return self

    def forward(self, x, sigma, label=None):
        return -self.weight * (x**2).flatten(1).sum(1)


def test_a_discriminator_that_is_moved_in_inference_mode_can_still_have_gradients():
    guiding = Elsewhere()
    pipe = guide(Loop(Small(), DDPMScheduler()), guiding)
    pipe.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        first = pipe(torch.ones(1, 1, 8, 8), 3, ask=ask_plainly)
    assert guiding.moved == (torch.device("cpu"), False)
    assert not guiding.weight.is_inference() and bool(first.isfinite().all())


def test_half_precision_is_the_networks_own_and_the_push_is_in_float32(monkeypatch):
    def rounded(shape, generator, device, dtype):  # some processors draw others in half precision
        return torch.randn(shape, generator=generator).to(dtype)

    for module in ("pipelines.ddpm.pipeline_ddpm", "schedulers.scheduling_ddpm"):
        monkeypatch.setattr(f"diffusers.{module}.randn_tensor", rounded)
    pipe, guiding, call = ddpm()
    seen = []
    guiding.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    expected = sample(guide(pipe, guiding), call)
    pipe.to(torch.bfloat16)
    assert pipe.unet.dtype == torch.bfloat16 and pipe.unet(torch.randn(1, 1, 8, 8).bfloat16(), 500)
    try:
        got = sample(pipe, call)
    except TypeError as error:  # of numpy: diffusers 0.38 makes no images of bfloat16
        pytest.skip(str(error))
    assert set(seen) == {torch.float32}
    torch.testing.assert_close(got, expected, rtol=0, atol=0.1)
    assert not torch.equal(got, sample(unguide(pipe), call))


def test_attributes_methods_and_moves_are_the_networks():
    pipe, guiding, _ = ddpm()
    network = pipe.unet
    guided = guide(pipe, guiding).unet
    assert guided.config is network.config and guided.conv_in is network.conv_in
    assert guided.device == network.device and guided.dtype == network.dtype
    assert list(guided.parameters()) == list(network.parameters())
    pipe.to(torch.float64)
    assert network.dtype == torch.float64 and next(guiding.parameters()).dtype == torch.float32
    with pytest.raises(AttributeError):
        _ = guided.nothing_of_that_name
    assert not hasattr(guided, "_hf_hook")
    pipe.to("meta")
    assert network.device.type == "meta" and next(guiding.parameters()).device.type == "cpu"


@pytest.mark.parametrize("when", ["before", "after"])
def test_offloading_and_its_removal_change_nothing(when):
    pipe, guiding, call = ddpm()
    expected = sample(guide(pipe, guiding), call)
    if when == "before":  # hooks stand on the network, then the guide
        unguide(pipe)
    accelerate.cpu_offload(pipe.unet, execution_device=torch.device("cpu"))
    if when == "before":
        guide(pipe, guiding)
    assert torch.equal(sample(pipe, call), expected)
    accelerate.hooks.remove_hook_from_submodules(pipe.unet)
    _, hook = accelerate.cpu_offload_with_hook(pipe.unet, torch.device("cpu"))
    assert torch.equal(sample(pipe, call), expected)
    hook.offload()
    hook.remove()
    assert torch.equal(sample(pipe, call), expected)


class Small(nn.Module):
    """Quick to compile."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))

    def forward(self, x, t):
        return self.weight * x.tanh()


def test_it_works_in_inference_mode_and_compiled():
    pipe = guide(Loop(Small(), DDPMScheduler()), discriminator())
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 1, 8, 8)

    def run():
        return pipe(noise, generator=torch.Generator().manual_seed(0), ask=ask_plainly)

    expected = run()
    with torch.inference_mode():
        assert torch.equal(run(), expected)
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    assert torch.equal(run(), expected)
    assert isinstance(unguide(pipe).unet, Small)
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    assert not torch.equal(run(), expected)
    guide(pipe, discriminator())
    assert torch.equal(run(), expected)


def test_a_list_of_generators_makes_each_sample_its_own_and_callbacks_are_called():
    pipe, guiding, call = ddpm()
    guide(pipe, guiding)
    both = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    together = pipe(generator=both, num_inference_steps=3, **call).images
    alone = sample(pipe, {**call, "batch_size": 1}, seed=4)
    torch.testing.assert_close(torch.as_tensor(together[1:]), alone)
    pipe, guiding, call = stable_diffusion()
    steps = []

    def callback(pipe, step, t, tensors):
        steps.append(step)
        return tensors

    sample(guide(pipe, guiding), {**call, "callback_on_step_end": callback})
    assert len(steps) >= 3


def test_samples_with_the_same_noise_and_other_labels_are_no_halves():
    network = unet(num_class_embeds=4)
    seen = []

    class Labelled(nn.Module):
        classes = 3

        def forward(self, x, sigma, label=None):
            seen.append(label.tolist())
            return x.flatten(1).sum(1) * label

    guided = guide(Loop(network, DDIMScheduler()), Labelled()).unet
    x = torch.randn(1, 1, 8, 8).repeat(2, 1, 1, 1)
    guided(x, 500, class_labels=torch.tensor([0, 2]))
    guided(x, 500, class_labels=torch.tensor([3, 2]))
    assert seen == [[0, 2], [2]]


@pytest.mark.parametrize(
    ("pipe", "arguments", "sentence"),
    [
        (lambda: Loop(unet(), diffusers.IPNDMScheduler()), {}, "cannot be told .*trained_with="),
        (lambda: Loop(unet(), diffusers.SCMScheduler()), {}, "trained_with="),
        (
            lambda: Loop(unet(), diffusers.EulerDiscreteScheduler(timestep_type="continuous")),
            {},
            "cannot be told",
        ),
        (
            lambda: Loop(flux_network(guidance_embeds=True), FlowMatchEulerDiscreteScheduler()),
            {},
            "told a guidance scale .*not distilled",
        ),
        (
            lambda: Loop(conditional_unet(time_cond_proj_dim=4), DDIMScheduler()),
            {},
            "told a guidance scale",
        ),
        (
            lambda: Loop(
                diffusers.PriorTransformer(1, 4, 1, 4, 3), FlowMatchEulerDiscreteScheduler()
            ),
            {},
            "give pure_noise=, as a rule 1000 or 1",
        ),
        (lambda: Loop(Small(), FlowMatchEulerDiscreteScheduler()), {}, "give pure_noise="),
        (
            lambda: Loop(
                type("ZImageTransformer2DModel", (Small,), {})(), FlowMatchEulerDiscreteScheduler()
            ),
            {"pure_noise": 1.0},
            "ZImageTransformer2DModel runs from noise to data",
        ),
        (lambda: Loop(unet(3), DDIMScheduler()), {}, r"\(1, 8, 8\) and this UNet2DModel .* 3"),
        (
            lambda: Loop(unet(), DDIMScheduler()),
            {"discriminator": discriminator(classes=3)},
            "knows 3 classes and this UNet2DModel 0",
        ),
        (
            lambda: Loop(unet(), DDIMScheduler()),
            {"discriminator": MlpDiscriminator(width=8, depth=1)},
            "must know the noise level",
        ),
        (lambda: guide(ddpm()[0], discriminator()), {}, r"guided already: call unguide\(pipe\)"),
        (lambda: nn.Module(), {}, "Module has 0 of unet, transformer"),
        (lambda: ddpm()[0], {"scale": math.nan}, "guidance scale is a finite number"),
        (lambda: ddpm()[0], {"window": (2.0, 1.0)}, "a window is"),
        (lambda: ddpm()[0], {"clip": -1.0}, "clip must be positive"),
        (
            lambda: Loop(flux_network(), FlowMatchEulerDiscreteScheduler()),
            {"pure_noise": -1.0, "discriminator": OfTokens()},
            "pure_noise is a positive timestep",
        ),
    ],
)
def test_what_cannot_be_told_is_refused_in_a_sentence(pipe, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        guide(pipe(), **({"discriminator": discriminator()} | arguments))


def test_what_the_scheduler_does_not_tell_can_be_given(tmp_path):
    scheduler = diffusers.IPNDMScheduler()
    told = guide(Loop(unet(), scheduler), discriminator(), trained_with=DDPMScheduler())
    told.unet.save_pretrained(tmp_path)
    again = guide(Loop(unet(), scheduler), tmp_path / "guide")  # its folder remembers
    same = guide(Loop(unet(), DDPMScheduler()), discriminator())
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(told.unet(x, 500).sample, same.unet(x, 500).sample)
    assert torch.equal(again.unet(x, 500).sample, same.unet(x, 500).sample)
    with pytest.raises(ValueError, match="not guided"):
        unguide(ddpm()[0])


def test_an_answer_that_fits_no_layout_is_refused():
    network = unet(2, 3)
    guided = guide(Loop(network, DDIMScheduler()), discriminator(2)).unet
    with pytest.raises(ValueError, match=r"answered \[1, 3, 8, 8\] to \[1, 2, 8, 8\]"):
        guided(torch.randn(1, 2, 8, 8), 500)
    with pytest.raises(ValueError, match="images of a condition among the samples"):
        guided._moved(
            torch.zeros(1, 2, 8, 8),
            {"sample": torch.randn(1, 2, 8, 8), "timestep": 5, "img_shapes": [[(1, 4, 4)] * 2]},
        )
    with pytest.raises(ValueError, match="one timestep a sample, got 3 for 2"):
        guided_ = guide(Loop(conditional_unet(), DDIMScheduler()), discriminator(4)).unet
        guided_._moved(
            torch.zeros(2, 4, 8, 8),
            {"sample": torch.randn(2, 4, 8, 8), "timestep": torch.arange(3)},
        )


def test_the_discriminator_is_asked_in_eval_mode_and_stays_in_its_own():
    pipe, guiding, call = ddpm()
    expected = sample(guide(pipe, guiding), call)
    other = copy.deepcopy(guiding).train()
    modes = []
    other.register_forward_hook(lambda module, *_: modes.append(module.training))
    assert torch.equal(sample(guide(unguide(pipe), other), call), expected)
    assert other.training and not any(modes)
