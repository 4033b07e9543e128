"""What a network inside a diffusers pipeline is shown, and how it answers."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import diffusers
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from hybridgen.errors import InputError
from hybridgen.maths import predictions
from hybridgen.maths.noise import scalings
from hybridgen.networks.build import check_numbers
from hybridgen.sampling.conversions import CONSISTENCY, PredictionType
from hybridgen.sampling.guidance import configured

_LEAST = 2.0**-24
_IN_TIMESTEPS = {"SD3Transformer2DModel", "CogView4Transformer2DModel", "WanTransformer3DModel"}
_IN_TIMESTEPS |= {"UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel"}
_IN_TIMESTEPS |= {"PipelineNetwork"}
_IN_SHARES = {"FluxTransformer2DModel", "ChromaTransformer2DModel", "QwenImageTransformer2DModel"}
_IN_SHARES |= {"AuraFlowTransformer2DModel"}
"""Networks of flow matching by what they are told: `1000 t`, or the share of noise t itself."""
_REVERSED = {"Lumina2Transformer2DModel", "LuminaNextDiT2DModel", "ZImageTransformer2DModel"}
_REVERSED |= {"HiDreamImageTransformer2DModel", "MochiTransformer3DModel"}

Level = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Parametrisation:
    """How a network was trained to be asked and to answer; its sampler may be any other.

    Attributes:
        level: `timestep [b] -> (alpha, s)`, `[b]` each: it is shown `alpha x0 + s n`.
        prediction: what its answer says.
        variance: whether half of the channels of an answer are a variance.
    """

    level: Level
    prediction: PredictionType
    variance: bool = False

    def answer(self, x0: Tensor, x: Tensor, alpha: Tensor, s: Tensor) -> Tensor:
        """The answer to `x [b ...]` that means the clean estimate `x0 [b ...]`."""
        return self.prediction.from_clean(x0, x, alpha, s)

    def moved(self, push: Tensor, alpha: Tensor, s: Tensor) -> Tensor:
        """What an answer changes by where the clean estimate does by `push [b ...]`: every
        prediction is linear in it.
        """
        return self.answer(push, torch.zeros_like(push), alpha.to(push), s.to(push))


def parametrisation(
    network: Any, scheduler: Any, pure_noise: float | None = None
) -> Parametrisation:
    """Read off the scheduler that a network was trained with, or one made `from_config` of it.

    Args:
        pure_noise: of flow matching, the timestep at which the network is shown noise alone.

    Raises:
        ValueError: what it was trained to be asked or to answer cannot be told.
    """
    if configured(network, "data_std") is not None:
        raise ValueError(
            f"a {type(network).__name__} is asked by no pipeline of diffusers as it is: put "
            "PipelineNetwork(denoiser, scheduler) around it"
        )
    name, config = type(scheduler).__name__, scheduler.config
    prediction = config.get("prediction_type")
    kinds = [kind.__name__ for kind in type(scheduler).__mro__]
    variance = str(config.get("variance_type")).startswith("learned")
    if CONSISTENCY in kinds or any(kind.startswith("EDM") for kind in kinds):
        data_std = float(config["sigma_data"])
        consistent = CONSISTENCY in kinds
        least = config["sigma_min"] if consistent else 0.0
        edm = (data_std, "epsilon" if consistent else prediction, least)
        # Consistency models are told a thousand times what EDM's networks are told.
        level = partial(_scaled, data_std, 1e3 if consistent else 1.0)
        return Parametrisation(level, PredictionType(edm=edm))
    flow = prediction == "flow_prediction" or any(kind.startswith("FlowMatch") for kind in kinds)
    if flow or config.get("use_flow_sigmas"):
        top = _top(network, float(config["num_train_timesteps"]), pure_noise)
        way = PredictionType("flow" if flow else cast(predictions.Prediction, prediction))
        return Parametrisation(partial(_mixed, top), way, variance)
    kept = getattr(scheduler, "alphas_cumprod", None)
    ways = ("epsilon", "v_prediction", "sample")
    if prediction not in ways or kept is None or config.get("timestep_type") == "continuous":
        raise ValueError(
            f"what a network trained with {name} is shown and answers cannot be told (prediction "
            f"type {prediction!r}): give trained_with=, the scheduler of its training, such as "
            "DDPMScheduler(beta_schedule=..., prediction_type=...) of diffusers"
        )
    # Where the table ends in pure noise, its last level is taken as diffusers' solvers do.
    kept = torch.as_tensor(kept).double().cpu().clamp_min(_LEAST)
    log_sigmas = ((1 - kept) / kept).log() / 2
    return Parametrisation(partial(_tabled, log_sigmas), PredictionType(prediction), variance)


def saved_scheduler(settings: Mapping[str, Any]) -> Any:
    """A scheduler of diffusers by the settings that it saves; of another's, nothing is imported.

    Raises:
        ValueError: it is none of diffusers', or has impossible settings.
    """
    name = str(settings.get("_class_name"))
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise InputError(
            f"a {name[:60]} is no scheduler of diffusers, and only one that is can be read back: "
            "give trained_with=, one of the same settings"
        )
    check_numbers(settings)
    return cast(Any, kind).from_config({k: v for k, v in settings.items() if k[:1] != "_"})


def _top(network: Any, timesteps: float, pure_noise: float | None) -> float:
    kinds = {kind.__name__ for kind in type(network).__mro__}
    if kinds & _REVERSED:
        raise ValueError(
            f"the time of a {type(network).__name__} runs from noise to data, or its answer has "
            "the other sign, which a guide does not know: it cannot be guided"
        )
    if pure_noise is not None:
        if not 0 < pure_noise < math.inf:
            raise ValueError(f"pure_noise is a positive timestep, got {pure_noise}")
        return pure_noise
    if kinds & _IN_SHARES:
        return 1.0
    if kinds & _IN_TIMESTEPS:
        return timesteps
    raise ValueError(
        f"which timestep a {type(network).__name__} takes for pure noise is not known here: if its "
        "time runs from 0 at the data, and it answers noise minus data, give pure_noise=, as a "
        f"rule {timesteps:g} or 1"
    )


def _mixed(top: float, t: Tensor) -> tuple[Tensor, Tensor]:
    return (1 - t / top).clamp_min(0), t / top


def _scaled(data_std: float, turns: float, t: Tensor) -> tuple[Tensor, Tensor]:
    sigma = (4 * t / turns).exp()
    inner = scalings(sigma, data_std).inner
    return inner, inner * sigma


def _tabled(log_sigmas: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Between two entries `log sigma` is interpolated, as diffusers' solvers do."""
    t = t.clamp(0, len(log_sigmas) - 1)
    below = t.floor().long()
    above = t.ceil().long()
    sigma = torch.lerp(log_sigmas[below], log_sigmas[above], t - below).exp()
    alpha = torch.rsqrt(1 + sigma.square())
    return alpha, alpha * sigma
