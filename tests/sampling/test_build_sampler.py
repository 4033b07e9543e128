"""Every sampler that a setting can name, with the exact denoiser of fixture A."""

from typing import get_args

import numpy as np
import pytest
import torch
from oracles import Counted, P, cumulative, denoise, exact_denoiser
from scipy.stats import wasserstein_distance

from hybridgen.errors import InputError
from hybridgen.maths.mixtures import ring
from hybridgen.sampling.build import build_sampler
from hybridgen.sampling.conversions import SCHEDULERS
from hybridgen.sampling.settings import SamplerName, SamplerSettings

NAMES = get_args(SamplerName)


def off(name, steps, count=2_000):
    levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    noise = torch.special.ndtri(levels)[:, None]
    grid = torch.linspace(-5, 5, 20_001, dtype=torch.float64)
    exact = np.interp(levels.numpy(), cumulative(P, grid).numpy(), grid.numpy())
    run = build_sampler(SamplerSettings(name=name, steps=steps), exact_denoiser(P), (1,))
    return wasserstein_distance(run(noise)[:, 0], exact)


def test_the_names_that_settings_take_are_those_of_the_table():
    assert ("heun", *SCHEDULERS) == NAMES


# Consistency sampling is for students, which answer with samples and not with their mean.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "consistency"])
def test_every_sampler_nears_the_data_as_steps_grow(name):
    few, many = off(name, 18), off(name, 72)
    # DDPM draws noise of its own, so 2 000 samples of it cannot come nearer than this.
    assert many < few < 0.15 and many < (0.1 if name == "ddpm" else 0.04)


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_shows_the_denoiser_nothing_above_the_highest_level(name):
    sigmas = []

    def denoiser(x, sigma, label=None):
        sigmas.append(float(sigma[0]))
        return denoise(P, x, sigma)

    counted = Counted(denoiser)
    settings = SamplerSettings(name=name, steps=6, high=30.0)
    run = build_sampler(settings, counted, (1,))
    run(torch.zeros(2, 1))
    assert max(sigmas) == pytest.approx(30) and len(sigmas) == run.cost.calls == counted.calls
    assert run.noise_shape == (1,)


def test_the_ends_of_the_grid_are_those_of_the_settings():
    for name in ("heun", "edm_euler", "edm_dpmpp"):
        sigmas = []

        def denoiser(x, sigma, label=None, sigmas=sigmas):
            sigmas.append(float(sigma[0]))
            return x

        settings = SamplerSettings(name=name, steps=5, low=0.1, high=10.0, rho=3.0)
        build_sampler(settings, denoiser, (1,))(torch.zeros(1, 1, dtype=torch.float64))
        middle = (10 ** (1 / 3) + 0.5 * (0.1 ** (1 / 3) - 10 ** (1 / 3))) ** 3
        assert sigmas[0] == pytest.approx(10, rel=1e-5) and sigmas[-1] == pytest.approx(
            0.1, rel=1e-5
        )
        assert min(abs(s - middle) for s in sigmas) < 1e-4


@pytest.mark.parametrize("name", ["dpmpp", "unipc", "heun_discrete", "edm_dpmpp", "heun"])
def test_fine_modes_are_sharp_after_eighteen_steps(name):
    data = ring().standardised()
    run = build_sampler(
        SamplerSettings(name=name), lambda x, s, label=None: denoise(data, x, s), (2,)
    )
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distance = torch.cdist(run(noise), data.means).min(1).values
    assert float((distance < 3 * data.stds[0]).double().mean()) > 0.98


def test_settings_that_cannot_work_are_refused_in_one_sentence():
    def refused(**settings):
        with pytest.raises(InputError) as error:
            build_sampler(SamplerSettings(**settings), exact_denoiser(P), (1,))
        return str(error.value)

    assert "name must be one of heun, ddpm, ddim" in refused(name="plms")
    assert "sampler heun takes at least 2 steps, got 1" in refused(steps=1)
    assert "steps must be a whole number in [1, 1000], got 0" in refused(name="ddim", steps=0)
    assert "low must be below high, got 90.0 and 80.0" in refused(name="edm_euler", low=90.0)
    assert "high must be a number in" in refused(name="ddim", high=0.0)
    assert "steps must be a whole number in [1, 1000], got 2000" in refused(name="ddpm", steps=2000)
