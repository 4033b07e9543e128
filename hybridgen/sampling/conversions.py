"""diffusers' schedulers: the scale and noise level of their samples, and what they predict.

Schedulers are recognised by class name and configuration, so nothing here imports diffusers.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from hybridgen.maths import predictions


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

    def from_clean(self, x0: Tensor, x: Tensor, level: NoiseLevel) -> Tensor:
        """The clean estimate `x0 [b ...]` of `x [b ...]` at `level`, in this way."""
        alpha, s = x.new_full((len(x),), level.alpha), x.new_full((len(x),), level.s)
        if self.edm is not None:
            return predictions.edm_from_clean(x0, x, s, *self.edm)
        return predictions.from_clean(self.kind, x0, x, alpha, s)

    def to_clean(self, answer: Tensor, x: Tensor, alpha: Tensor, s: Tensor) -> Tensor:
        """The clean estimate in `answer [b ...]`; `alpha`, `s` are `[b]`."""
        if self.edm is not None:
            return predictions.edm_to_clean(answer, x, s, *self.edm)
        return predictions.to_clean(self.kind, answer, x, alpha, s)


def scheduler_name(scheduler: Any) -> str:
    """The class in the table that `scheduler` is or derives from.

    Raises:
        ValueError: no such class; the message names those that there are.
    """
    for kind in type(scheduler).__mro__:
        if kind.__name__ in _LEVELS:
            return kind.__name__
    raise ValueError(
        f"no conversion for a {type(scheduler).__name__}; there are {', '.join(_LEVELS)}: build "
        "one of those with .from_config(scheduler.config)"
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
    return PredictionType(cast(predictions.Prediction, prediction))


def check_variance(scheduler: Any) -> None:
    """Refuse a scheduler that wants the network's own idea of the variance beside the mean.

    Raises:
        ValueError: `variance_type` is `learned` or `learned_range`.
    """
    name, kind = scheduler_name(scheduler), scheduler.config.get("variance_type")
    if str(kind).startswith("learned"):
        raise ValueError(
            f"{name} expects a learned variance (variance_type={kind!r}), which a clean estimate "
            f'does not tell: build it with {name}.from_config(scheduler.config, variance_type="'
            'fixed_small")'
        )


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
            "0: take fewer steps, or another spacing (timestep_spacing, use_flow_sigmas, "
            "invert_sigmas and the like)"
        )
    return visited


def in_flow_scale(scheduler: Any) -> bool:
    """Whether its sample is `(1 - t) x0 + t n`."""
    flow = scheduler_name(scheduler) == "FlowMatchEulerDiscreteScheduler"
    return flow or bool(scheduler.config.get("use_flow_sigmas"))


def _cumulative(scheduler: Any) -> list[NoiseLevel]:
    table = scheduler.alphas_cumprod.double()[scheduler.timesteps.long().cpu()]
    return [NoiseLevel(math.sqrt(a), math.sqrt(1 - a)) for a in table.tolist()]


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


def _shortened(sigmas: list[float]) -> str:
    texts = [f"{sigma:.4g}" for sigma in sigmas]
    return ", ".join(texts if len(texts) <= 8 else [*texts[:4], "...", *texts[-3:]])
