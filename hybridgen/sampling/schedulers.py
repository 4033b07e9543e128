"""Any denoiser under any diffusers scheduler that `conversions` knows: one loop."""

import copy
import inspect
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from hybridgen.maths.rng import rng_from
from hybridgen.protocols import Cost, Denoiser
from hybridgen.sampling import conversions
from hybridgen.sampling.guidance import at_level, cost_of
from hybridgen.sampling.samplers import check_noise, check_samples


@dataclass(frozen=True, eq=False)
class Scheduled:
    """A denoiser, guided or not, sampled by a scheduler of diffusers.

    At each step the denoiser is called with the scheduler's sample `alpha x0 + s n` in the
    variance-exploding scale, `D(x / alpha, s / alpha)`, and the clean estimate is converted to the
    scheduler's `prediction_type`.

    Attributes:
        denoiser: see `hybridgen.protocols.Denoiser`.
        scheduler: DDPM, DDIM, DPMSolverMultistep, UniPCMultistep, EulerDiscrete, HeunDiscrete,
            EDMEuler, EDMDPMSolverMultistep, FlowMatchEulerDiscrete or CMStochasticIterative, as
            configured. It is copied: a sampler can be used again, and by several threads at once.
        noise_shape: of one sample.
        steps: of the scheduler; HeunDiscrete calls the denoiser `2 steps - 1` times.
        highest: for noise levels above this one, pure noise included, the denoiser is called at
            this one, `D(highest x / s, highest)`: so far up the estimate hardly depends on sigma,
            and networks have not been trained there.
        progress: whether to show a bar.
    """

    denoiser: Denoiser
    scheduler: Any
    noise_shape: tuple[int, ...]
    steps: int
    highest: float = field(default=1e3, kw_only=True)
    progress: bool = field(default=False, kw_only=True)
    _prepared: Any = field(init=False, repr=False)
    _levels: list[conversions.NoiseLevel] = field(init=False, repr=False)
    _prediction_type: conversions.PredictionType = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.highest < math.inf:
            raise ValueError(f"highest must be positive and finite, got {self.highest}")
        prepared = _with_timesteps(self.scheduler, self.steps)
        conversions.check_variance(prepared)
        visited, prediction = conversions.levels(prepared), conversions.prediction_type(prepared)
        if visited[0].alpha == 0 and prediction.kind == "epsilon":
            raise ValueError(
                f"{conversions.scheduler_name(prepared)} starts at pure noise, where "
                "prediction_type='epsilon' says nothing of the data: build it with "
                "prediction_type='v_prediction'"
            )
        object.__setattr__(self, "_prepared", prepared)
        object.__setattr__(self, "_levels", visited)
        object.__setattr__(self, "_prediction_type", prediction)

    @property
    def sigmas(self) -> list[float]:
        """The noise levels at which the denoiser is called, highest first."""
        return [self._sigma(level) for level in self._levels]

    @property
    def cost(self) -> Cost:
        """Network calls of one sample, those of every discriminator that guides included."""
        return sum((cost_of(self.denoiser, sigma) for sigma in self.sigmas), Cost())

    @torch.no_grad()
    def __call__(
        self,
        noise: Tensor,
        label: Tensor | None = None,
        *,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> Tensor:
        """`noise [b *noise_shape]`, standard normal; `label [b]` -> samples `[b *noise_shape]`.

        A scheduler that draws noise on the way (DDPM, CMStochasticIterative, `sde-dpmsolver++`,
        flow matching with `stochastic_sampling`) takes it from `generator`, or from a list of one
        for each sample. Without any it is seeded by `noise`: the same batch of noise gives the same
        samples.

        Raises:
            ValueError: noise of another shape, or a denoiser that returns another.
            RunError: the samples stopped being finite; the message names the step.
        """
        check_noise(noise, self.noise_shape)
        scheduler = copy.deepcopy(self._prepared)
        randomness = {}
        if "generator" in inspect.signature(scheduler.step).parameters:
            randomness["generator"] = generator if generator is not None else rng_from(noise)
        # Half precision would lose the difference between neighbouring levels.
        x = noise.to(torch.promote_types(noise.dtype, torch.float32))
        # Flow matching, at t = 1, has no name for what unit noise is multiplied by.
        x = x * float(getattr(scheduler, "init_noise_sigma", 1.0))
        if hasattr(scheduler, "scale_model_input"):
            # The scaling is ours; schedulers that ask for this call warn if it never came.
            scheduler.scale_model_input(x, scheduler.timesteps[0])
        path = zip(scheduler.timesteps, self._levels, strict=True)
        bar = tqdm(path, total=len(self._levels), disable=not self.progress, unit="step")
        finite = []
        for t, level in bar:
            x0 = self._clean(x, level, label)
            prediction = self._prediction_type.from_clean(x0, x, level)
            x = scheduler.step(prediction, t, x, return_dict=False, **randomness)[0]
            finite.append(torch.isfinite(x).all())
        check_samples(finite, [level.sigma for level in self._levels])
        return x

    def _sigma(self, level: conversions.NoiseLevel) -> float:
        return min(level.sigma, self.highest)

    def _clean(self, x: Tensor, level: conversions.NoiseLevel, label: Tensor | None) -> Tensor:
        sigma = self._sigma(level)
        # Below `highest` sigma is s / alpha, and this is x / alpha; above, alpha may be 0.
        rescaled = x * (sigma / level.s)
        denoiser = at_level(self.denoiser, sigma)
        x0 = denoiser(rescaled, x.new_full((len(x),), sigma), label)
        if x0.shape != x.shape:
            raise ValueError(f"the denoiser returned {list(x0.shape)} for samples {list(x.shape)}")
        return x0


def _with_timesteps(scheduler: Any, steps: int) -> Any:
    """A copy of `scheduler` that has laid out its steps."""
    name = conversions.scheduler_name(scheduler)
    if steps < 1:
        raise ValueError(f"a sampler takes at least one step, got steps={steps}")
    prepared = copy.deepcopy(scheduler)
    try:
        prepared.set_timesteps(steps)
    except ValueError as error:
        raise ValueError(f"{name} cannot lay out {steps} steps: {error}") from error
    if hasattr(prepared, "set_begin_index"):
        # Else it looks for its first timestep and, where rounding made two alike, skips one.
        prepared.set_begin_index(0)
    return prepared
