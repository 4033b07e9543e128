"""Networks of diffusers as denoisers: the same images as diffusers itself makes of them."""

import diffusers
import pytest
import torch
from oracles import P, denoise
from torch import nn

from hybridgen.errors import InputError
from hybridgen.maths.predictions import edm_from_clean, from_clean
from hybridgen.sampling.extrapolation import classifier_free_guidance
from hybridgen.sampling.load import load_denoiser
from hybridgen.sampling.pretrained import DiffusersDenoiser
from hybridgen.sampling.schedulers import Scheduled


def unet(**config):
    torch.manual_seed(0)
    settings = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "add_attention": False,
    }
    return diffusers.UNet2DModel(**{**settings, **config}).eval()


def dit(out_channels=8):
    torch.manual_seed(0)
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=out_channels,
        num_layers=1,
        sample_size=4,
        norm_num_groups=4,
        num_embeds_ada_norm=10,
    )
    # A new DiT answers zero; noise in its weights makes it answer something.
    for p in network.parameters():
        nn.init.normal_(p, std=0.2)
    return network.eval()


class Speaking(nn.Module):
    """The exact denoiser of a mixture, dressed as a network that a scheduler was trained with.

    It knows only what a network knows: its scaled input and the timestep.
    """

    def __init__(self, levels, answer):
        super().__init__()
        self.levels, self.answer = levels, answer

    def forward(self, x, t):
        alpha, s = self.levels(t)
        noisy = x / alpha[:, None]
        x0 = denoise(P, noisy, s / alpha)
        return self.answer(x0, x, alpha, s)


def random_levels(low, high, count=64):
    g = torch.Generator().manual_seed(0)
    sigma = low * (high / low) ** torch.rand(count, generator=g, dtype=torch.float64)
    return 3 * torch.randn(count, 1, generator=g, dtype=torch.float64) * (1 + sigma[:, None]), sigma


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["DDPM", "DDIM", "EulerDiscrete", "UniPCMultistep"])
def test_a_table_of_levels_is_read_back_at_its_entries(name, kind):
    scheduler = getattr(diffusers, f"{name}Scheduler")(prediction_type=kind)
    kept = scheduler.alphas_cumprod.double()
    timesteps = []

    def levels(t):
        timesteps.append(t)
        at = kept[t.long()]
        return at.sqrt(), (1 - at).sqrt()

    network = Speaking(levels, lambda *args: from_clean(kind, *args))
    denoiser = DiffusersDenoiser(network, scheduler)
    entries = torch.arange(1000)
    sigma = ((1 - kept) / kept).sqrt()
    x = torch.linspace(-3, 3, 1000, dtype=torch.float64)[:, None] * (1 + sigma[:, None])
    torch.testing.assert_close(denoiser(x, sigma), denoise(P, x, sigma), rtol=0, atol=1e-5)
    assert torch.equal(timesteps[0].double(), entries.double())
    denoiser(x.float(), sigma.float())
    assert torch.equal(timesteps[1].double(), entries.double())


def test_between_entries_the_timestep_is_interpolated_in_log_sigma():
    scheduler = diffusers.DDPMScheduler()
    timesteps = []
    network = Speaking(
        lambda t: (timesteps.append(t), torch.ones_like(t))[1:] * 2, lambda x0, *_: x0
    )
    kept = scheduler.alphas_cumprod.double()
    log_sigma = ((1 - kept) / kept).log() / 2
    sigma = (0.25 * log_sigma[:-1] + 0.75 * log_sigma[1:]).exp()
    DiffusersDenoiser(network, scheduler)(torch.zeros(999, 1), sigma)
    torch.testing.assert_close(
        timesteps[0].double(), torch.arange(999).double() + 0.75, rtol=0, atol=2e-3
    )


def test_levels_beyond_the_table_are_shown_as_its_last_and_those_below_as_its_first():
    scheduler = diffusers.DDPMScheduler()
    kept = scheduler.alphas_cumprod.double()
    timesteps = []

    def levels(t):
        timesteps.append(t)
        at = kept[t.long()]
        return at.sqrt(), (1 - at).sqrt()

    network = Speaking(levels, lambda *args: from_clean("epsilon", *args))
    denoiser = DiffusersDenoiser(network, scheduler)
    last = float(((1 - kept[-1]) / kept[-1]).sqrt())
    x = torch.tensor([[300.0], [-1e5]], dtype=torch.float64)
    sigma = torch.tensor([1e3, 1e6], dtype=torch.float64)
    clamped = x * last / sigma[:, None]
    expected = denoise(P, clamped, last)
    torch.testing.assert_close(denoiser(x, sigma), expected, rtol=0, atol=1e-5)
    assert timesteps[0].tolist() == [999, 999]
    clean = torch.tensor([[1.7]], dtype=torch.float64)
    torch.testing.assert_close(denoiser(clean, torch.zeros(1, dtype=torch.float64)), clean)
    assert timesteps[1].tolist() == [0]


@pytest.mark.parametrize("sign", ["epsilon", "v_prediction"])
def test_edm_networks_are_asked_as_the_edm_scheduler_asks_them(sign):
    scheduler = diffusers.EDMEulerScheduler(sigma_data=0.7, prediction_type=sign)

    def answer(scaled, t):
        sigma = (4 * t.double()).exp()
        x = scaled * (sigma**2 + 0.49).sqrt()[:, None]
        return edm_from_clean(denoise(P, x, sigma), x, sigma, 0.7, sign)

    class Network(nn.Module):
        def forward(self, x, t):
            return answer(x, t)

    x, sigma = random_levels(0.002, 80)
    denoiser = DiffusersDenoiser(Network(), scheduler)
    torch.testing.assert_close(denoiser(x, sigma), denoise(P, x, sigma), rtol=1e-4, atol=1e-4)
    assert torch.isfinite(denoiser(x[:1], torch.zeros(1, dtype=torch.float64))).all()


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
    ],
    ids=["flow match", "unipc"],
)
def test_flow_networks_are_asked_at_a_thousand_times_t(scheduler):
    def levels(t):
        t = t.double() / 1000
        return 1 - t, t

    network = Speaking(levels, lambda *args: from_clean("flow", *args))
    x, sigma = random_levels(0.002, 80)
    denoiser = DiffusersDenoiser(network, scheduler)
    torch.testing.assert_close(denoiser(x, sigma), denoise(P, x, sigma), rtol=1e-3, atol=1e-3)


def images(pipeline, **arguments):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(output_type="pt", batch_size=3, **arguments).images


def present(samples):
    return (samples / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_ddpm_pipeline_gives_the_images_that_diffusers_gives(tmp_path, kind):
    pipeline = diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler(prediction_type=kind))
    pipeline.save_pretrained(tmp_path)
    theirs = images(pipeline, generator=torch.Generator().manual_seed(0), num_inference_steps=20)
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 1, 8, 8, generator=g)
    denoiser = load_denoiser(tmp_path)
    assert (denoiser.shape, denoiser.classes, denoiser.training) == ((1, 8, 8), 0, False)
    run = Scheduled(denoiser, pipeline.scheduler, denoiser.shape, 20)
    torch.testing.assert_close(present(run(noise, generator=g)), theirs, rtol=0, atol=1e-4)
    assert 0.05 < theirs.std() < 0.6  # there is something to compare


@pytest.mark.parametrize("zero_snr", [False, True])
def test_a_ddim_pipeline_gives_the_images_that_diffusers_gives(tmp_path, zero_snr):
    config = {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=zero_snr, **config)
    pipeline = diffusers.DDIMPipeline(unet(), scheduler)
    pipeline.save_pretrained(tmp_path)
    theirs = images(pipeline, generator=torch.Generator().manual_seed(0), num_inference_steps=10)
    noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    run = Scheduled(load_denoiser(tmp_path), pipeline.scheduler, (1, 8, 8), 10)
    torch.testing.assert_close(present(run(noise)), theirs, rtol=0, atol=1e-4)


@torch.no_grad()
def by_their_own_loop(network, scheduler, noise, steps, **options):
    """What diffusers makes of noise, and the timesteps that it shows the network."""
    scheduler.set_timesteps(steps)
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(scaled, t).sample, t, x, return_dict=False, **options)[0]
    return x, scheduler.timesteps.tolist()


def images_noise(count=2):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Around:
    """A denoiser around another, as guidance is."""

    def __init__(self, denoiser):
        self.denoiser = denoiser

    def __call__(self, x, sigma, label=None):
        return self.denoiser(x, sigma, label)


TRAILING = {"timestep_spacing": "trailing"}
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", **TRAILING}
COSINE = {"beta_schedule": "squaredcos_cap_v2", **TRAILING}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("DDIM", {}),
        ("DPMSolverMultistep", {}),
        ("UniPCMultistep", {}),
        ("EulerDiscrete", {}),
        ("DDIM", ZERO_SNR),
        ("DPMSolverMultistep", ZERO_SNR),
        ("UniPCMultistep", ZERO_SNR),
        ("EulerDiscrete", ZERO_SNR),
        ("DDIM", COSINE),
        ("FlowMatchEulerDiscrete", {}),
        ("FlowMatchEulerDiscrete", {"shift": 3.0}),
    ],
)
def test_a_network_is_shown_the_levels_of_its_training_up_to_the_highest(name, config):
    """Beyond a fixed level of 1000 flow matching was off by .002 of the range of samples, and a
    zero-SNR network saw t = 984.5 first. In double precision: under zero SNR the first step divides
    by next to nothing, and in single some processors' rounding is 1e-4 of that range.
    """
    if name == "DDIM":
        config = {**config, "clip_sample": False}
    network, scheduler = unet().double(), getattr(diffusers, f"{name}Scheduler")(**config)
    noise, seen = images_noise().double(), []
    theirs, timesteps = by_their_own_loop(network, scheduler, noise, 8)
    network.register_forward_pre_hook(lambda module, args: seen.append(float(args[1].flatten()[0])))
    run = Scheduled(Around(DiffusersDenoiser(network, scheduler)), scheduler, (1, 8, 8), 8)
    gap = (run(noise) - theirs).abs().max() / (theirs.max() - theirs.min())
    assert float(gap) < 1e-6
    assert seen == pytest.approx(timesteps, abs=1e-2)


def test_levels_end_where_training_ended():
    def top(name, **config):
        scheduler = getattr(diffusers, f"{name}Scheduler")(**config)
        return DiffusersDenoiser(nn.Identity(), scheduler).levels[1]

    assert top("DDPM") == pytest.approx(157.4, abs=0.1)
    assert top("DDPM", **COSINE) == pytest.approx(20_291, rel=1e-3)
    assert top("DDPM", **ZERO_SNR) == top("FlowMatchEulerDiscrete") == 1e7
    assert top("EDMEuler", sigma_max=70.0) == 70.0


LEARNED = {"variance_type": "learned_range", "clip_sample": False}


@pytest.mark.parametrize("kind", ["learned_range", "learned"])
def test_a_learned_variance_is_carried_to_ddpm(kind):
    network = unet(out_channels=2)
    if kind == "learned":  # a variance, which is not negative
        network.register_forward_hook(
            lambda module, args, out: (setattr(out, "sample", out.sample.abs()), out)[1]
        )
    scheduler = diffusers.DDPMScheduler(**{**LEARNED, "variance_type": kind})
    noise, g = images_noise(), torch.Generator().manual_seed(1)
    theirs, _ = by_their_own_loop(network, scheduler, noise, 8, generator=g)
    run = Scheduled(DiffusersDenoiser(network, scheduler), scheduler, (1, 8, 8), 8)
    ours = run(noise, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    fixed = diffusers.DDPMScheduler(clip_sample=False)
    run = Scheduled(DiffusersDenoiser(network, fixed), fixed, (1, 8, 8), 8)
    assert float((run(noise, generator=torch.Generator().manual_seed(1)) - theirs).std()) > 1e-3


def test_with_labels_the_learned_variance_is_theirs():
    network = unet(out_channels=2, num_class_embeds=4)
    nn.init.normal_(network.class_embedding.weight, std=3.0)
    scheduler = diffusers.DDPMScheduler(**LEARNED)
    denoiser, label = DiffusersDenoiser(network, scheduler, null=3), torch.tensor([0, 1])
    guided = classifier_free_guidance(denoiser, 1.0)
    plain, both = (Scheduled(d, scheduler, (1, 8, 8), 8) for d in (denoiser, guided))
    torch.testing.assert_close(
        both(images_noise(), label), plain(images_noise(), label), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("name", ["DDIM", "DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete"])
def test_a_learned_variance_is_dropped_where_the_solver_does_not_use_it(name):
    network, trained = unet(out_channels=2), diffusers.DDPMScheduler(**LEARNED)
    kind = getattr(diffusers, f"{name}Scheduler")
    scheduler = kind.from_config(trained.config)
    plain = kind.from_config(trained.config, variance_type=None)
    denoiser = DiffusersDenoiser(network, trained)
    run = Scheduled(denoiser, scheduler, (1, 8, 8), 8)
    expected = Scheduled(denoiser, plain, (1, 8, 8), 8)(images_noise())
    torch.testing.assert_close(run(images_noise()), expected, rtol=0, atol=0)
    # Four channels, of which DPM-Solver++ would keep three.
    four = Scheduled(lambda x, s, y=None: x / 2, scheduler, (4, 8, 8), 3)
    assert four(torch.randn(2, 4, 8, 8)).shape == (2, 4, 8, 8)


def test_a_denoiser_without_a_variance_is_refused_by_the_scheduler_that_needs_one():
    for denoiser in (lambda x, s, y=None: x, DiffusersDenoiser(unet(), diffusers.DDPMScheduler())):
        with pytest.raises(ValueError, match="which this denoiser does not tell: build it with"):
            Scheduled(denoiser, diffusers.DDPMScheduler(**LEARNED), (1, 8, 8), 8)


@pytest.mark.parametrize("out_channels", [4, 8])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_dit_gives_the_latents_that_its_pipeline_gives(tmp_path, out_channels, scale):
    vae = diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(4,), norm_num_groups=2
    )
    network, scheduler = dit(out_channels), diffusers.DDIMScheduler(clip_sample=False)
    pipeline = diffusers.DiTPipeline(network, vae, scheduler)
    pipeline.save_pretrained(tmp_path)
    seen = []
    pipeline.vae.decode = lambda z: (
        seen.append(z) or diffusers.models.autoencoders.vae.DecoderOutput(sample=z[:, :3])
    )
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    # The pipeline's own null id is ImageNet's 1000; with ten classes it is 10.
    denoiser = load_denoiser(tmp_path)
    assert (denoiser.shape, denoiser.classes, denoiser.null) == ((4, 4, 4), 10, 10)
    label = torch.tensor([3, 7])
    if scale == 1.0:
        pipeline.set_progress_bar_config(disable=True)
        g = torch.Generator().manual_seed(0)
        pipeline([3, 7], guidance_scale=1.0, generator=g, num_inference_steps=6, output_type="pt")
        theirs = seen[0] * vae.config.scaling_factor
        guided = denoiser
    else:
        theirs = classifier_free_latents(network, scheduler, noise, label, scale)
        guided = classifier_free_guidance(denoiser, scale)
    ours = Scheduled(guided, scheduler, (4, 4, 4), 6)(noise, label)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def classifier_free_latents(network, scheduler, x, label, scale):
    scheduler.set_timesteps(6)
    for t in scheduler.timesteps:
        at = t.expand(len(x))
        with_label = network(x, at, label).sample[:, :4]
        without = network(x, at, torch.full_like(label, 10)).sample[:, :4]
        x = scheduler.step(without + scale * (with_label - without), t, x).prev_sample
    return x


def test_a_network_in_half_precision_and_one_in_double_are_asked_in_their_own():
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 3.0])
    scheduler = diffusers.DDPMScheduler()
    expected = DiffusersDenoiser(unet(), scheduler)(x, sigma)
    double = DiffusersDenoiser(unet(), scheduler).double()(x, sigma)
    half = DiffusersDenoiser(unet(), scheduler).to(torch.bfloat16)(x, sigma)
    assert expected.dtype == double.dtype == half.dtype == torch.float32
    torch.testing.assert_close(double, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(half, expected, rtol=0, atol=0.2)


def test_gradients_pass_through_to_the_sample():
    denoiser = DiffusersDenoiser(unet(), diffusers.DDPMScheduler())
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    denoiser(x, torch.ones(2)).sum().backward()
    assert x.grad is not None and float(x.grad.abs().sum()) > 0


def test_a_network_with_learned_time_embeddings_is_asked_at_whole_timesteps():
    network = unet(time_embedding_type="learned", num_train_timesteps=1000)
    denoiser = DiffusersDenoiser(network, diffusers.DDPMScheduler())
    assert torch.isfinite(denoiser(torch.randn(2, 1, 8, 8), torch.tensor([0.5, 3.3]))).all()


def test_label_none_is_the_null_id_where_a_u_net_has_one():
    network = unet(num_class_embeds=4)
    x, sigma = torch.randn(2, 1, 8, 8), torch.ones(2)
    denoiser = DiffusersDenoiser(network, diffusers.DDPMScheduler(), null=3)
    assert denoiser.classes == 3
    torch.testing.assert_close(denoiser(x, sigma), denoiser(x, sigma, torch.tensor([3, 3])))
    assert not torch.equal(denoiser(x, sigma), denoiser(x, sigma, torch.tensor([0, 1])))


def test_labels_that_a_network_does_not_have_or_needs_are_refused():
    x, sigma = torch.randn(2, 1, 8, 8), torch.ones(2)
    needy = DiffusersDenoiser(unet(num_class_embeds=4), diffusers.DDPMScheduler())
    assert needy.classes == 4
    with pytest.raises(ValueError, match="has 4 classes and no id for 'none': pass labels"):
        needy(x, sigma)
    with pytest.raises(ValueError, match="classes=0 but got labels"):
        DiffusersDenoiser(unet(), diffusers.DDPMScheduler())(x, sigma, torch.tensor([0, 1]))
    with pytest.raises(InputError, match="null=4 is not among the 4 label ids"):
        DiffusersDenoiser(unet(num_class_embeds=4), diffusers.DDPMScheduler(), null=4)


def test_what_cannot_be_a_denoiser_is_refused_in_one_sentence():
    class Text(nn.Module):
        def forward(self, sample, timestep, encoder_hidden_states):
            return sample

    with pytest.raises(InputError, match="Text needs encoder_hidden_states beside noise"):
        DiffusersDenoiser(Text(), diffusers.DDPMScheduler())
    with pytest.raises(ValueError, match="no conversion for a PNDMScheduler"):
        DiffusersDenoiser(unet(), diffusers.PNDMScheduler())
    with pytest.raises(InputError, match="timestep_type='continuous', which is not known"):
        continuous = diffusers.EulerDiscreteScheduler(
            timestep_type="continuous", prediction_type="v_prediction"
        )
        DiffusersDenoiser(unet(), continuous)
    denoiser = DiffusersDenoiser(unet(), diffusers.DDPMScheduler())
    with pytest.raises(ValueError, match=r"x has shape \[2, 3, 8, 8\], but this network expects"):
        denoiser(torch.randn(2, 3, 8, 8), torch.ones(2))
    three = DiffusersDenoiser(unet(out_channels=3), diffusers.DDPMScheduler())
    with pytest.raises(ValueError, match=r"the network answered \[2, 3, 8, 8\] to samples"):
        three(torch.randn(2, 1, 8, 8), torch.ones(2))
