"""Multistep consistency sampling: estimate, add the noise of the next level, estimate."""

from itertools import pairwise

import diffusers
import pytest
import torch
from oracles import Counted, P, denoise, exact_denoiser, unit_noise, w1

from hybridgen.errors import InputError
from hybridgen.maths.noise import karras_sigmas
from hybridgen.maths.predictions import edm_from_clean
from hybridgen.maths.rng import rng_from
from hybridgen.sampling.build import build_sampler
from hybridgen.sampling.pretrained import DiffusersDenoiser
from hybridgen.sampling.settings import StudentSettings


def sampler(calls, denoiser=None, **levels):
    settings = StudentSettings(calls=calls, **levels).sampler
    return build_sampler(settings, denoiser or exact_denoiser(P), (1,))


def posterior_sampler(x, sigma, label=None):
    """A draw of clean data given noisy data: what a student of a perfect game has learnt."""
    rng = torch.Generator().manual_seed(int(1e3 * float(sigma[0])))
    level = sigma[:, None].double()
    variances = P.stds.double() ** 2
    total = variances + level**2
    logits = P.weights.log() - (x - P.means[:, 0]).square() / (2 * total) - total.log() / 2
    mode = torch.multinomial(logits.softmax(1), 1, generator=rng)
    variance = variances[mode]
    mean = (x * variance + P.means[mode, 0] * level**2) / (variance + level**2)
    deviation = (variance * level**2 / (variance + level**2)).sqrt()
    return mean + deviation * torch.randn(x.shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_with_draws_of_the_posterior_it_ends_in_the_data_at_any_number_of_calls(calls):
    samples = sampler(calls, posterior_sampler)(unit_noise().double())
    assert w1(samples) < 0.05


def test_with_the_posterior_mean_it_misses_the_more_the_fewer_the_calls():
    missed = [w1(sampler(calls)(unit_noise())) for calls in (1, 2, 8, 64)]
    assert missed[0] > 1.9  # all samples are the mean of the data, and modes are at +-2
    assert all(fewer > more for fewer, more in pairwise(missed))


def test_levels_lie_on_the_grid_that_would_end_in_the_lowest_and_fewer_calls_visit_some_of_them():
    four = sampler(4, low=0.01, high=20.0, rho=5.0).sigmas
    assert four == pytest.approx(karras_sigmas(5, 0.01, 20.0, 5.0)[:4].tolist(), rel=1e-6)
    assert sampler(2, low=0.01, high=20.0, rho=5.0).sigmas == four[::2]
    assert sampler(1, low=0.01, high=20.0, rho=5.0).sigmas == four[:1]


def test_a_sample_costs_its_calls_and_is_decided_by_its_noise():
    noise = unit_noise(16)
    assert sampler(3, Counted(exact_denoiser(P))).cost.denoiser == 3
    torch.testing.assert_close(sampler(3)(noise), sampler(3)(noise), rtol=0, atol=0)


def test_budgets_are_divisors_and_others_are_refused():
    student = StudentSettings(calls=6)
    assert student.budgets == [1, 2, 3, 6]
    with pytest.raises(InputError, match=r"6 calls samples in 1, 2, 3, 6, and not in 4"):
        student.with_calls(4)


def plain_loop(scheduler, noise, answer):
    """As a person would write it with diffusers alone."""
    x = noise * scheduler.init_noise_sigma
    rng = rng_from(noise)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        x = scheduler.step(answer(scaled, x, t), t, x, generator=rng).prev_sample
    return x


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_diffusers_scheduler_alone_gives_the_same_samples_bit_for_bit(calls):
    scheduler = diffusers.CMStochasticIterativeScheduler(5, clip_denoised=False)
    scheduler.set_timesteps(calls)
    noise = unit_noise(32).float()

    def answer(scaled, x, t):
        sigma = scheduler.sigmas[scheduler.step_index or 0].double().float().expand(len(x))
        x0 = denoise(P, x, sigma)
        return edm_from_clean(x0, x, sigma, 0.5, least=0.002)

    expected = plain_loop(scheduler, noise, answer)
    torch.testing.assert_close(sampler(calls)(noise), expected, rtol=0, atol=0)


def test_a_consistency_pipeline_of_diffusers_gives_the_same_images():
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        add_attention=False,
    ).eval()
    scheduler = diffusers.CMStochasticIterativeScheduler(4, sigma_data=0.7, clip_denoised=False)
    pipeline = diffusers.ConsistencyModelPipeline(network, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    latents = noise * scheduler.init_noise_sigma
    images = pipeline(
        batch_size=2,
        num_inference_steps=3,
        latents=latents / scheduler.init_noise_sigma,
        generator=rng_from(noise),
        output_type="pt",
    ).images
    denoiser = DiffusersDenoiser(network, scheduler)
    student = StudentSettings(calls=3)
    made = build_sampler(student.sampler, denoiser, (3, 8, 8))(noise)
    torch.testing.assert_close((made / 2 + 0.5).clamp(0, 1), images, rtol=1e-4, atol=1e-4)
    assert denoiser.levels == (0.002, 80.0)
