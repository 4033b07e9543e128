"""diffusers' schedulers: the scale and noise level of their samples, and what they predict.

Schedulers are recognised by class name and configuration, so nothing here imports diffusers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from hybridgen.maths import predictions
from hybridgen.maths.noise import like


@dataclass(frozen=True)
class NoiseLevel:
    """A noisy sample `alpha x0 + s n`."""

    alpha: float
    s: float

    @property
    def sigma(self) -> float:
        """The level in the variance-exploding scale, `s / alpha`; infinite for pure noise."""
        return self.s / self.alpha if self.alpha > 0 else math.inf


@dataclass(frozen=True)
class PredictionType:
    """How a network that goes with a scheduler says its clean estimate.

    Attributes:
        kind: of prediction; ignored by EDM's.
        edm: `(sigma_data, sign, least)` where the answer is EDM's raw F, or a consistency model's.
    """

    kind: predictions.Prediction = "sample"
    edm: tuple[float, predictions.EdmSign, float] | None = None

    def from_clean(self, x0: Tensor, x: Tensor, alpha: Tensor, s: Tensor) -> Tensor:
        """The clean estimate `x0 [b ...]` of `x [b ...]` in this way; `alpha`, `s` are `[b]`."""
        if self.edm is not None:
            return predictions.edm_from_clean(x0, x / like(alpha, x), s / alpha, *self.edm)
        return predictions.from_clean(self.kind, x0, x, alpha, s)

    def to_clean(self, answer: Tensor, x: Tensor, alpha: Tensor, s: Tensor) -> Tensor:
        """The clean estimate in `answer [b ...]`; `alpha`, `s` are `[b]`."""
        if self.edm is not None:
            return predictions.edm_to_clean(answer, x, s, *self.edm)
        return predictions.to_clean(self.kind, answer, x, alpha, s)


def scheduler_name(scheduler: Any) -> str:
    """The class in the table that `scheduler` is or derives from.

    Raises:
        ValueError: no such class; the message names one of the same family, if there is one.
    """
    for kind in type(scheduler).__mro__:
        if kind.__name__ in _LEVELS:
            return kind.__name__
    name, config = type(scheduler).__name__, getattr(scheduler, "config", {})
    if "Flow" in name:
        relatives = ["FlowMatchEulerDiscreteScheduler"]
    elif "sigma_data" in config:
        relatives = ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"]
    elif config.get("use_flow_sigmas"):
        relatives = ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler"]
    elif hasattr(scheduler, "alphas_cumprod"):
        relatives = ["DPMSolverMultistepScheduler", "DDIMScheduler", "EulerDiscreteScheduler"]
    else:
        raise ValueError(
            f"no conversion for a {name}, nor for a scheduler of its family; those that are known "
            f"are {', '.join(_LEVELS)}"
        )
    raise ValueError(
        f"no conversion for a {name}; of its family there is {', '.join(relatives)}: build it with "
        f"{relatives[0]}.from_config(scheduler.config)"
    )


def prediction_type(scheduler: Any) -> PredictionType:
    """What `scheduler.step` expects to be given.

    Raises:
        ValueError: an unknown scheduler, prediction type or combination.
    """
    name, config = scheduler_name(scheduler), scheduler.config
    if name == "FlowMatchEulerDiscreteScheduler":
        return PredictionType("flow")
    prediction = config.get("prediction_type")
    if name == CONSISTENCY:
        return PredictionType(edm=(config["sigma_data"], "epsilon", config["sigma_min"]))
    if name.startswith("EDM"):
        _among(name, prediction, "epsilon", "v_prediction")
        return PredictionType(edm=(float(config["sigma_data"]), prediction, 0.0))
    if in_flow_scale(scheduler):
        _among(name + " with use_flow_sigmas", prediction, "flow_prediction", "epsilon", "sample")
        return PredictionType("flow" if prediction == "flow_prediction" else prediction)
    if prediction == "flow_prediction":
        raise ValueError(f"{name} needs use_flow_sigmas=True for prediction_type={prediction!r}")
    _among(name, prediction, "epsilon", "v_prediction", "sample")
    if prediction == "epsilon" and ends_in_noise(scheduler):
        raise ValueError(
            f"the betas of this {name} end in pure noise, where prediction_type='epsilon' says "
            "nothing of the data: give the prediction_type that its network was trained for, "
            "'v_prediction' or 'sample', or betas without rescale_betas_zero_snr"
        )
    return PredictionType(cast(predictions.Prediction, prediction))


def ends_in_noise(scheduler: Any) -> bool:
    """Whether the last of its betas leaves nothing of the data (zero terminal signal-to-noise)."""
    kept = getattr(scheduler, "alphas_cumprod", None)
    if kept is None:
        return False
    # Most solvers write 2^-24 for the 0 that `rescale_betas_zero_snr` leaves.
    least = 2.0**-24 if scheduler.config.get("rescale_betas_zero_snr") else 0.0
    return float(kept[-1]) <= least


def needs_variance(scheduler: Any) -> bool:
    """Whether a step takes the network's own variance beside its prediction.

    Of those that are known DDPM does; the others ignore it, whatever their configuration says.
    """
    learned = str(scheduler.config.get("variance_type")).startswith("learned")
    return learned and scheduler_name(scheduler) == "DDPMScheduler"


def levels(scheduler: Any) -> list[NoiseLevel]:
    """The level before each step, once `set_timesteps` has been called, highest first.

    Raises:
        ValueError: an unknown scheduler, or a schedule that does not fall from noise to data.
    """
    name = scheduler_name(scheduler)
    visited = _LEVELS[name](scheduler)
    # HeunDiscrete visits every level but the first twice: after one step and before the next.
    distinct = visited[::2] if name == "HeunDiscreteScheduler" else visited
    sigmas = [level.sigma for level in distinct]
    proper = all(level.s > 0 and 0 <= level.alpha <= 1 for level in visited)
    if not proper or any(not after < now for now, after in pairwise(sigmas)):
        raise ValueError(
            f"{name} visits noise levels {_shortened(sigmas)}, which do not fall strictly towards "
            f"0: take fewer steps, or another {_spacing(scheduler)}"
        )
    return visited


def set_levels(scheduler: Any, sigmas: Sequence[float]) -> None:
    """Have `scheduler` visit these noise levels, `s / alpha`, instead of those of its own spacing.

    DDPM and DDIM know the entries of their table alone, and visit the nearest in `log sigma`, each
    once.

    Raises:
        ValueError: an unknown scheduler, levels that are not positive and finite, or more than it
            can lay out.
    """
    if not len(sigmas) or not all(0 < sigma < math.inf for sigma in sigmas):
        raise ValueError(f"noise levels are positive and finite, got {_shortened(sigmas)}")
    name = scheduler_name(scheduler)
    shifting = {"mu": 0.0} if scheduler.config.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(len(sigmas), **shifting)  # which forgets what it has seen
    if _LEVELS[name] is _cumulative:
        kept = scheduler.alphas_cumprod.double().cpu()
        table = ((1 - kept) / kept).log() / 2
        log_sigmas = torch.tensor(sigmas, dtype=torch.float64).log()
        nearest = (table - log_sigmas[:, None]).abs().argmin(1)
        scheduler.timesteps = nearest.unique_consecutive()
        return
    grid = [s / (1 + s) if in_flow_scale(scheduler) else s for s in sigmas]
    grid = torch.tensor([*grid, float(scheduler.sigmas[-1])], dtype=torch.float32)
    if not bool((grid.diff() < 0).all()):
        raise ValueError(f"noise levels fall strictly to {grid[-1]:.4g}, got {_shortened(sigmas)}")
    if name == "HeunDiscreteScheduler":
        grid = torch.cat([grid[:1], grid[1:-1].repeat_interleave(2), grid[-1:]])
    scheduler.sigmas = grid
    # Names of the steps alone: at which level the denoiser is called is read from `sigmas`.
    scheduler.timesteps = torch.arange(len(grid) - 1, 0, -1, dtype=torch.float32)


def in_flow_scale(scheduler: Any) -> bool:
    """Whether its sample is `(1 - t) x0 + t n`."""
    flow = scheduler_name(scheduler) == "FlowMatchEulerDiscreteScheduler"
    return flow or bool(scheduler.config.get("use_flow_sigmas"))


def _cumulative(scheduler: Any) -> list[NoiseLevel]:
    table, timesteps = scheduler.alphas_cumprod.double(), scheduler.timesteps.long().cpu()
    if int(timesteps.max()) >= len(table):
        raise ValueError(
            f"{scheduler_name(scheduler)} starts at timestep {int(timesteps.max())} of a table "
            f"that ends with {len(table) - 1}: take fewer steps, or steps_offset=0"
        )
    return [NoiseLevel(math.sqrt(a), math.sqrt(1 - a)) for a in table[timesteps].tolist()]


def _preserving(scheduler: Any) -> list[NoiseLevel]:
    if in_flow_scale(scheduler):
        return _flow(scheduler)
    return [NoiseLevel(1 / math.hypot(1, s), s / math.hypot(1, s)) for s in _sigmas(scheduler)]


def _exploding(scheduler: Any) -> list[NoiseLevel]:
    return [NoiseLevel(1.0, s) for s in _sigmas(scheduler)]


def _flow(scheduler: Any) -> list[NoiseLevel]:
    return [NoiseLevel(1 - t, t) for t in _sigmas(scheduler)]


def _sigmas(scheduler: Any) -> list[float]:
    """Exact, where timesteps are rounded to the nearest one the network was trained on."""
    sigmas = torch.as_tensor(scheduler.sigmas).double().tolist()
    return sigmas[: len(scheduler.timesteps)]


class KnownScheduler(NamedTuple):
    """A scheduler of diffusers that samplers can be named after.

    Attributes:
        kind: its class in diffusers.
        levels: the noise levels of one that has laid out its steps.
        settings: what it is built with, where diffusers' defaults do not suit.
    """

    kind: str
    levels: Callable[[Any], list[NoiseLevel]]
    settings: Mapping[str, Any] = {}


CONSISTENCY = "CMStochasticIterativeScheduler"
"""Multistep consistency sampling: estimate, add the noise of the next level, estimate."""
_BETAS = {"beta_start": 1e-4, "beta_end": 0.02}
_KARRAS = {**_BETAS, "use_karras_sigmas": True}

SCHEDULERS: dict[str, KnownScheduler] = {
    "ddpm": KnownScheduler("DDPMScheduler", _cumulative, {**_BETAS, "clip_sample": False}),
    "ddim": KnownScheduler("DDIMScheduler", _cumulative, {**_BETAS, "clip_sample": False}),
    "dpmpp": KnownScheduler("DPMSolverMultistepScheduler", _preserving, _KARRAS),
    "unipc": KnownScheduler("UniPCMultistepScheduler", _preserving, _KARRAS),
    "euler": KnownScheduler("EulerDiscreteScheduler", _exploding, _KARRAS),
    "heun_discrete": KnownScheduler("HeunDiscreteScheduler", _exploding, _KARRAS),
    "edm_euler": KnownScheduler("EDMEulerScheduler", _exploding),
    "edm_dpmpp": KnownScheduler("EDMDPMSolverMultistepScheduler", _exploding),
    "flow_euler": KnownScheduler("FlowMatchEulerDiscreteScheduler", _flow),
    "consistency": KnownScheduler(CONSISTENCY, _exploding, {"clip_denoised": False}),
}
"""By the names that settings give them."""
_LEVELS = {scheduler.kind: scheduler.levels for scheduler in SCHEDULERS.values()}


def _among(name: str, prediction: Any, *expected: str) -> None:
    if prediction not in expected:
        raise ValueError(
            f"{name} has prediction_type={prediction!r}, expected one of {', '.join(expected)}"
        )


def _spacing(scheduler: Any) -> str:
    """The settings of its family that space noise levels."""
    name = scheduler_name(scheduler)
    if in_flow_scale(scheduler):
        return "shift, or leave out invert_sigmas and use_karras_sigmas"
    if name.startswith("EDM") or name == CONSISTENCY:
        return "sigma_min, sigma_max or rho"
    return "timestep_spacing, steps_offset or use_karras_sigmas"


def _shortened(sigmas: Sequence[float]) -> str:
    texts = [f"{sigma:.4g}" for sigma in sigmas]
    return ", ".join(texts if len(texts) <= 8 else [*texts[:4], "...", *texts[-3:]])
