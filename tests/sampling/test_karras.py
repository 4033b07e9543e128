import pytest
import torch
from oracles import exact_denoiser, unit_noise

from hybridgen.maths.noise import karras_sigmas
from hybridgen.sampling.heun import Heun
from hybridgen.sampling.karras import heun_scheduler
from hybridgen.sampling.schedulers import Scheduled


@pytest.mark.parametrize(("low", "high"), [(0.002, 80.0), (0.01, 10.0)])
def test_heun_scheduler_visits_the_karras_levels(low, high):
    scheduler = heun_scheduler(low, high)
    scheduler.set_timesteps(7)
    visited = torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1::2]]).double()
    torch.testing.assert_close(visited, karras_sigmas(7, low, high), rtol=1e-3, atol=0)


def test_heun_scheduler_takes_the_steps_of_our_heun():
    denoiser, noise = exact_denoiser(), unit_noise(200)
    expected = Heun(denoiser, noise.shape[1:], karras_sigmas(18))(noise)
    sampler = Scheduled(denoiser, heun_scheduler(), noise.shape[1:], 18)
    assert sampler.calls == 35
    torch.testing.assert_close(sampler(noise), expected, rtol=0, atol=2e-4)


def test_heun_scheduler_refuses_levels_that_float32_betas_cannot_say():
    with pytest.raises(ValueError, match=r"0\.001 <= low"):
        heun_scheduler(low=1e-5)
