"""From a setting to a sampler."""

from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal, get_args

from hybridgen.errors import InputError
from hybridgen.maths.noise import karras_sigmas
from hybridgen.protocols import Denoiser, Sampler
from hybridgen.sampling.conversions import SCHEDULERS
from hybridgen.sampling.samplers import Heun
from hybridgen.sampling.schedulers import Scheduled

# Spelled out for type checkers and `--help`: `heun` and the names of `SCHEDULERS`.
SamplerName = Literal[
    "heun",
    "ddpm",
    "ddim",
    "dpmpp",
    "unipc",
    "euler",
    "heun_discrete",
    "edm_euler",
    "edm_dpmpp",
    "flow_euler",
]


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """How noise becomes samples.

    Attributes:
        name: `heun` (EDM's, two calls a step but one for the last) or a scheduler of diffusers:
            `ddpm`, `ddim`, `dpmpp`, `unipc`, `euler`, `heun_discrete` on the usual linear betas
            (noise levels .01 to 157), `edm_euler`, `edm_dpmpp`, or `flow_euler`.
        steps: noise levels visited, 0 not counted.
        low: the lowest of `heun` and `edm_*`; the others have their own.
        high: the highest of `heun` and `edm_*`; the others show the denoiser no higher one.
        rho: how densely `heun` and `edm_*` visit low levels.
    """

    name: SamplerName = "heun"
    steps: int = 18
    low: float = 0.002
    high: float = 80.0
    rho: float = 7.0


def build_sampler(
    settings: SamplerSettings, denoiser: Denoiser, shape: tuple[int, ...], *, progress: bool = False
) -> Sampler:
    """The sampler that `settings` describe, of samples of `shape`.

    DPM-Solver++, UniPC, Euler and HeunDiscrete walk Karras' grid between the ends of their table:
    on even timesteps the last of 18 steps starts at sigma .2 and blurs modes finer than that. No
    scheduler clips estimates: data may have any range.

    Raises:
        InputError: no such sampler, or numbers that it cannot work with.
    """
    if settings.name not in get_args(SamplerName):
        raise InputError(
            f"no sampler {settings.name!r}; there are {', '.join(get_args(SamplerName))}"
        )
    if settings.name == "heun" and settings.steps < 2:
        raise InputError(f"sampler heun takes at least 2 steps, got {settings.steps}")
    try:
        # Checked for every sampler, so that a setting does not turn wrong when the name changes.
        grid = karras_sigmas(max(settings.steps, 2), settings.low, settings.high, settings.rho)
        if settings.name == "heun":
            return Heun(denoiser, shape, grid)
        scheduler, steps = _scheduler(settings), settings.steps
        return Scheduled(
            denoiser, scheduler, shape, steps, highest=settings.high, progress=progress
        )
    except ValueError as error:
        raise InputError(f"sampler {settings.name} cannot be built: {error}") from error


def with_calls(settings: SamplerSettings, calls: int) -> SamplerSettings:
    """The sampler with as many steps as make `calls` denoiser calls.

    Raises:
        InputError: it makes no such number of calls.
    """
    if settings.name not in ("heun", "heun_discrete"):
        return replace(settings, steps=calls)
    if calls % 2 == 0:
        raise InputError(
            f"{settings.name} makes an odd number of calls, so {calls} is not one of its budgets: "
            "give odd budgets or another sampler"
        )
    return replace(settings, steps=(calls + 1) // 2)


def _scheduler(settings: SamplerSettings) -> Any:
    kind, _, options = SCHEDULERS[settings.name]
    if settings.name.startswith("edm_"):
        ends = {"sigma_min": settings.low, "sigma_max": settings.high}
        options = {**options, **ends, "rho": settings.rho}
    # Imported late: diffusers is heavy, and `heun` does without.
    return getattr(import_module("diffusers"), kind)(**options)
