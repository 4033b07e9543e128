"""From a setting to a sampler."""

from importlib import import_module
from typing import Any

from hybridgen.errors import InputError
from hybridgen.maths.noise import karras_sigmas
from hybridgen.protocols import Denoiser, Sampler
from hybridgen.sampling.conversions import SCHEDULERS
from hybridgen.sampling.samplers import Heun
from hybridgen.sampling.schedulers import Scheduled
from hybridgen.sampling.settings import SamplerSettings


def build_sampler(settings: SamplerSettings, denoiser: Denoiser, shape: tuple[int, ...]) -> Sampler:
    """The sampler that `settings` describe, of samples of `shape`.

    DPM-Solver++, UniPC, Euler and HeunDiscrete walk Karras' grid between the ends of their table:
    on even timesteps the last of 18 steps starts at sigma .2 and blurs modes finer than that. No
    scheduler clips estimates: data may have any range.

    Raises:
        InputError: no such sampler, or numbers that it cannot work with.
    """
    try:
        if settings.name == "heun":
            grid = karras_sigmas(settings.steps, settings.low, settings.high, settings.rho)
            return Heun(denoiser, shape, grid)
        scheduler, steps = build_scheduler(settings), settings.steps
        return Scheduled(denoiser, scheduler, shape, steps, highest=settings.high)
    except ValueError as error:
        raise InputError(f"sampler {settings.name} cannot be built: {error}") from error


def build_scheduler(settings: SamplerSettings) -> Any:
    """The scheduler of diffusers that `settings` name."""
    kind, _, options = SCHEDULERS[settings.name]
    if settings.name == "consistency" or settings.name.startswith("edm_"):
        ends = {"sigma_min": settings.low, "sigma_max": settings.high}
        options = {**options, **ends, "rho": settings.rho}
    if settings.name == "consistency":
        # A grid of one level more, the lowest, on which no estimate is made.
        options = {**options, "num_train_timesteps": settings.steps + 1}
    # Imported late: diffusers is heavy, and `heun` does without.
    return getattr(import_module("diffusers"), kind)(**options)
