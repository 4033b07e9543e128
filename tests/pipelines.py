"""Tiny pipelines of diffusers with random weights, each a function of a seed to samples."""

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from hybridgen.networks.residual import ResidualDiscriminator


def seeded(network, seed=0):
    """Fresh networks answer zero in places (zero-initialised layers); these do not."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return network.eval()


def unet(channels=1, out=None, **config):
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    sizes = {"block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 4}
    return seeded(UNet2DModel(8, channels, out or channels, **blocks, **sizes, **config))


def discriminator(channels=1, classes=0):
    torch.manual_seed(1)
    options = {"resolution": 8, "width": 16, "depth": 1, "noise_conditional": True}
    return seeded(ResidualDiscriminator(channels=channels, classes=classes, **options), 1)


class OfTokens(torch.nn.Module):
    """A discriminator of whatever shape there is."""

    def forward(self, x, sigma, label=None):
        return (x.flatten(1).square().mean(1) - 1) * 3 / (1 + sigma)


def vae():
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8,), "norm_num_groups": 4, "latent_channels": 4}
    return AutoencoderKL(sample_size=8, **sizes).eval()


def of_images(kind, scheduler):
    pipe = kind(unet(), scheduler)
    return pipe, discriminator(), {"batch_size": 2, "output_type": "pt"}


def ddpm():
    from diffusers import DDPMPipeline

    return of_images(DDPMPipeline, DDPMScheduler())


def ddim():
    from diffusers import DDIMPipeline

    return of_images(DDIMPipeline, DDIMScheduler(prediction_type="v_prediction"))


def consistency():
    from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline

    pipe, guiding, call = of_images(ConsistencyModelPipeline, CMStochasticIterativeScheduler())
    return pipe, guiding, {**call, "class_labels": None}


def ldm():
    from diffusers import LDMPipeline, VQModel

    torch.manual_seed(0)
    sizes = {"block_out_channels": (8,), "norm_num_groups": 4, "latent_channels": 4}
    sizes |= {"in_channels": 1, "out_channels": 1}
    pipe = LDMPipeline(
        VQModel(sample_size=8, **sizes).eval(), unet(4), DDIMScheduler(clip_sample=False)
    )
    return pipe, discriminator(4), {"batch_size": 2, "output_type": "np"}


def dit():
    from diffusers import DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "sample_size": 8}
    # Its pipeline takes class 1000 for "none".
    network = DiTTransformer2DModel(
        in_channels=4, out_channels=8, num_embeds_ada_norm=1000, norm_num_groups=4, **sizes
    )
    pipe = DiTPipeline(seeded(network), vae(), DDIMScheduler())
    call = {"class_labels": [1, 2], "guidance_scale": 4.0, "output_type": "np"}
    return pipe, discriminator(4), call


def _text(batch=1):
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(batch, *size, generator=generator) for size in ((3, 16), (3, 16))]


def conditional_unet(**config):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return seeded(
        UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8,),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=16,
            attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            mid_block_type="UNetMidBlock2DCrossAttn",
            **config,
        )
    )


_SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def stable_diffusion():
    pytest.importorskip("transformers")
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline(
        vae(),
        None,
        None,
        conditional_unet(),
        PNDMScheduler(skip_prk_steps=True, **_SCALED),
        None,
        None,
        requires_safety_checker=False,
    )
    some, other = _text()
    call = {"prompt_embeds": some, "negative_prompt_embeds": other, "guidance_scale": 5.0}
    return pipe, discriminator(4), {**call, "output_type": "latent", "num_images_per_prompt": 2}


def stable_diffusion_xl():
    pytest.importorskip("transformers")
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    network = conditional_unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 16,
    )
    scheduler = EulerDiscreteScheduler(**_SCALED)
    parts = (vae(), None, None, None, None, network, scheduler)
    pipe = StableDiffusionXLPipeline(*parts, add_watermarker=False)
    some, other = _text()
    call = {"prompt_embeds": some, "negative_prompt_embeds": other, "guidance_scale": 5.0}
    call |= {"pooled_prompt_embeds": some[:, 0], "negative_pooled_prompt_embeds": other[:, 0]}
    return pipe, discriminator(4), {**call, "output_type": "latent", "height": 8, "width": 8}


def sd3_network():
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    return seeded(
        SD3Transformer2DModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=8,
            caption_projection_dim=16,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            pos_embed_max_size=8,
        )
    )


def stable_diffusion_3():
    pytest.importorskip("transformers")
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    parts = (sd3_network(), scheduler, vae(), None, None, None, None, None, None)
    some, other = _text()
    call = {"prompt_embeds": some, "negative_prompt_embeds": other, "guidance_scale": 5.0}
    call |= {"pooled_prompt_embeds": some[:, 0], "negative_pooled_prompt_embeds": other[:, 0]}
    call |= {"output_type": "latent", "height": 8, "width": 8}
    return StableDiffusion3Pipeline(*parts), discriminator(4), call


def flux_network(**config):
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    return seeded(
        FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            num_attention_heads=2,
            attention_head_dim=16,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            axes_dims_rope=(4, 4, 8),
            **config,
        )
    )


def flux():
    pytest.importorskip("transformers")
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    pipe = FluxPipeline(scheduler, vae(), None, None, None, None, flux_network())
    some, other = _text()
    call = {"prompt_embeds": some, "negative_prompt_embeds": other, "true_cfg_scale": 3.0}
    call |= {"pooled_prompt_embeds": some[:, 0], "negative_pooled_prompt_embeds": other[:, 0]}
    return pipe, OfTokens(), {**call, "output_type": "latent", "height": 8, "width": 8}


class Loop(DiffusionPipeline):
    """What all of them do: scale the input, ask (twice, for a text), step; samples as they are."""

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self, latents, num_inference_steps=3, generator=None, ask=None, scale=1.0, **steps
    ):
        self.scheduler.set_timesteps(num_inference_steps, **steps)
        x = latents * getattr(self.scheduler, "init_noise_sigma", 1.0)
        ask = ask or (lambda network, x, t: network(x, t).sample)
        if "generator" in self.scheduler.step.__code__.co_varnames:
            steps = {"generator": generator}
        for t in self.scheduler.timesteps:
            scaled = x
            if hasattr(self.scheduler, "scale_model_input"):
                scaled = self.scheduler.scale_model_input(x, t)
            if scale != 1:
                without, with_ = ask(self.unet, torch.cat([scaled] * 2), t).chunk(2)
                answer = without + scale * (with_ - without)
            else:
                answer = ask(self.unet, scaled, t)
            x = self.scheduler.step(answer, t, x, return_dict=False, **steps)[0]
        return x


_OF_TEXT = (stable_diffusion, stable_diffusion_xl, stable_diffusion_3, flux)
PIPELINES = {kind.__name__: kind for kind in (ddpm, ddim, consistency, ldm, dit, *_OF_TEXT)}


def sample(pipe, call, seed=0, steps=3):
    """Samples or latents, a tensor."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    out = pipe(generator=generator, num_inference_steps=steps, **call)
    return torch.as_tensor(out if isinstance(out, torch.Tensor) else out[0]).float()
