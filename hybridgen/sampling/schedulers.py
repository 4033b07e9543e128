"""Any denoiser under any diffusers scheduler that `conversions` knows: one loop."""

import copy
import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from hybridgen.maths.rng import rng_from
from hybridgen.protocols import Cost, Denoiser
from hybridgen.sampling import conversions
from hybridgen.sampling.guidance import at_level, cost_of
from hybridgen.sampling.pretrained import learned_variances
from hybridgen.sampling.samplers import check_noise, check_samples


class Visit(NamedTuple):
    """One call of the denoiser on the way.

    Attributes:
        sigma: the noise level at which it was called.
        clean: its estimate, `[b ...]`.
        x: the samples after the step, `[b ...]`, in the scheduler's scale. What is written into
            them is what the next step starts from, but not under UniPC and in the middle of
            HeunDiscrete's steps, which go on from samples of their own.
    """

    sigma: float
    clean: Tensor
    x: Tensor


@dataclass(frozen=True, eq=False)
class Scheduled:
    """A denoiser, guided or not, sampled by a scheduler of diffusers.

    At each step the denoiser is called with the scheduler's sample `alpha x0 + s n` in the
    variance-exploding scale, `D(x / alpha, s / alpha)`, and the clean estimate is converted to the
    scheduler's `prediction_type`. DDIM steps to the level that is visited next, also where
    diffusers' own goes elsewhere: with `linspace`, and with `trailing` if the steps do not divide
    the timesteps of training.

    Attributes:
        denoiser: see `hybridgen.protocols.Denoiser`.
        scheduler: DDPM, DDIM, DPMSolverMultistep, UniPCMultistep, EulerDiscrete, HeunDiscrete,
            EDMEuler, EDMDPMSolverMultistep, FlowMatchEulerDiscrete or CMStochasticIterative, as
            configured. It is copied: a sampler can be used again, and by several threads at once.
            DDPM with a learned variance takes that of a network of diffusers that predicts one.
        noise_shape: of one sample.
        steps: their number, spaced as the scheduler is configured; or the noise levels `s / alpha`
            to visit, falling, such as `hybridgen.maths.noise.karras_sigmas(n)`, of which DDPM and
            DDIM visit the nearest of their table, each once. HeunDiscrete calls the denoiser
            `2 steps - 1` times.
        highest: for noise levels above this one, pure noise included, the denoiser is called at
            this one, `D(highest x / s, highest)`. If not given, the top of the levels that the
            network was trained at, as it says (`levels`), else 1000. A guide is asked there too,
            unless its window ends below.
        eta: how much fresh noise a step of DDIM adds, from 0 (none) to 1 (as much as DDPM). Source:
            Song et al. 2021, arXiv:2010.02502, equation 16.
        progress: whether to show a bar.

    Raises:
        ValueError: a scheduler that is not known, or settings that it cannot follow.
    """

    denoiser: Denoiser
    scheduler: Any
    noise_shape: tuple[int, ...]
    steps: int | Sequence[float] | Tensor
    highest: float | None = field(default=None, kw_only=True)
    eta: float = field(default=0.0, kw_only=True)
    progress: bool = field(default=False, kw_only=True)
    _prepared: Any = field(init=False, repr=False)
    _levels: list[conversions.NoiseLevel] = field(init=False, repr=False)
    _prediction_type: conversions.PredictionType = field(init=False, repr=False)
    _highest: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        network = _innermost(self.denoiser)
        highest = self.highest
        if highest is None:
            _, highest = getattr(network, "levels", None) or (0.0, 1e3)
        if not 0 < highest < math.inf:
            raise ValueError(f"highest must be positive and finite, got {highest}")
        prepared = _laid_out(self.scheduler, self.steps)
        if conversions.needs_variance(prepared):
            if not getattr(network, "learned_variance", False):
                name = conversions.scheduler_name(prepared)
                raise ValueError(
                    f"{name} expects a learned variance "
                    f"(variance_type={prepared.config['variance_type']!r}), which this denoiser "
                    f"does not tell: build it with {name}.from_config(scheduler.config, "
                    'variance_type="fixed_small")'
                )
        elif "variance_type" in prepared.config:
            # DPMSolverMultistep would cut three channels out of a prediction of any number.
            prepared.register_to_config(variance_type=None)
        takes_eta = "eta" in inspect.signature(prepared.step).parameters
        if not 0 <= self.eta <= 1 or (self.eta and not takes_eta):
            raise ValueError(
                f"eta lies in [0, 1] for DDIM and is 0 for every other scheduler, got {self.eta} "
                f"for {conversions.scheduler_name(prepared)}"
            )
        prediction = conversions.prediction_type(prepared)
        object.__setattr__(self, "_prepared", prepared)
        object.__setattr__(self, "_levels", conversions.levels(prepared))
        object.__setattr__(self, "_prediction_type", prediction)
        object.__setattr__(self, "_highest", highest)

    @property
    def sigmas(self) -> list[float]:
        """The noise levels at which the denoiser is called, highest first."""
        return [self._sigma(level) for level in self._levels]

    @property
    def cost(self) -> Cost:
        """Network calls of one sample, those of every discriminator that guides included."""
        return sum((cost_of(self.denoiser, sigma) for sigma in self.sigmas), Cost())

    def __call__(
        self,
        noise: Tensor,
        label: Tensor | None = None,
        *,
        image: Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> Tensor:
        """`noise [b *noise_shape]`, standard normal; `label [b]` -> samples `[b *noise_shape]`.

        A scheduler that draws noise on the way (DDPM, CMStochasticIterative, `sde-dpmsolver++`,
        DDIM with `eta`, flow matching with `stochastic_sampling`) takes it from `generator`, or
        from a list of one for each sample. Without any it is seeded by `noise`: the same batch of
        noise gives the same samples.

        Args:
            image: `[b *noise_shape]`, clean; sampling then starts from it with `noise` added at the
                first level, for which `steps` are best given as levels. Source: SDEdit, Meng et al.
                2022, arXiv:2108.01073.

        Raises:
            ValueError: noise or an image of another shape, or a denoiser that returns another.
            RunError: the samples stopped being finite; the message names the step.
        """
        x = noise
        for visit in self.walk(noise, label, image=image, generator=generator):
            x = visit.x
        return x

    @torch.no_grad()
    def walk(
        self,
        noise: Tensor,
        label: Tensor | None = None,
        *,
        image: Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> Iterator[Visit]:
        """As the call, one `Visit` at a time: the last one's `x` are the samples."""
        check_noise(noise, self.noise_shape)
        scheduler = copy.deepcopy(self._prepared)
        options: dict[str, Any] = {"eta": self.eta} if self.eta else {}
        if "generator" in inspect.signature(scheduler.step).parameters:
            options["generator"] = generator if generator is not None else rng_from(noise)
        # Half precision would lose the difference between neighbouring levels.
        x = self._start(noise.to(torch.promote_types(noise.dtype, torch.float32)), image)
        if hasattr(scheduler, "scale_model_input"):
            # The scaling is ours; schedulers that ask for this call warn if it never came.
            scheduler.scale_model_input(x, scheduler.timesteps[0])
        needs_variance = conversions.needs_variance(scheduler)
        jumps = _jumps(scheduler)
        path = zip(scheduler.timesteps, self._levels, strict=True)
        bar = tqdm(path, total=len(self._levels), disable=not self.progress, unit="step")
        finite = []
        for number, (t, level) in enumerate(bar):
            with learned_variances() as variances:
                x0 = self._clean(x, level, label)
            alpha, s = (x.new_full((len(x),), each) for each in (level.alpha, level.s))
            prediction = self._prediction_type.from_clean(x0, x, alpha, s)
            if needs_variance:
                # Of classifier-free guidance's two calls the last has the labels.
                prediction = torch.cat([prediction, variances[-1].to(prediction.dtype)], dim=1)
            if jumps:
                scheduler.num_inference_steps = jumps[number]
            x = scheduler.step(prediction, t, x, return_dict=False, **options)[0]
            finite.append(torch.isfinite(x).all())
            yield Visit(self._sigma(level), x0, x)
        check_samples(finite, [level.sigma for level in self._levels])

    def _start(self, noise: Tensor, image: Tensor | None) -> Tensor:
        first = self._levels[0]
        if image is not None:
            if image.shape != noise.shape:
                raise ValueError(
                    f"expected an image for each of {len(noise)} noises, {list(noise.shape)}, got "
                    f"{list(image.shape)}"
                )
            return first.alpha * image.to(noise) + first.s * noise
        if isinstance(self.steps, Sequence | Tensor):
            return first.s * noise
        # Flow matching, at t = 1, has no name for what unit noise is multiplied by.
        return noise * float(getattr(self._prepared, "init_noise_sigma", 1.0))

    def _sigma(self, level: conversions.NoiseLevel) -> float:
        return min(level.sigma, self._highest)

    def _clean(self, x: Tensor, level: conversions.NoiseLevel, label: Tensor | None) -> Tensor:
        sigma = self._sigma(level)
        # Below `highest` sigma is s / alpha, and this is x / alpha; above, alpha may be 0.
        rescaled = x * (sigma / level.s)
        denoiser = at_level(self.denoiser, sigma)
        x0 = denoiser(rescaled, x.new_full((len(x),), sigma), label)
        if x0.shape != x.shape:
            raise ValueError(f"the denoiser returned {list(x0.shape)} for samples {list(x.shape)}")
        return x0


def _innermost(denoiser: Any) -> Any:
    """What guidance and other denoisers around it ask in the end."""
    while (inner := getattr(denoiser, "denoiser", None)) is not None:
        denoiser = inner
    return denoiser


def _laid_out(scheduler: Any, steps: int | Sequence[float] | Tensor) -> Any:
    """A copy of `scheduler` that has laid out its steps."""
    name, count = conversions.scheduler_name(scheduler), steps
    prepared = copy.deepcopy(scheduler)
    try:
        if isinstance(steps, Sequence | Tensor):
            sigmas = [float(sigma) for sigma in steps]
            sigmas = sigmas[:-1] if sigmas and sigmas[-1] == 0 else sigmas
            count = len(sigmas)
            conversions.set_levels(prepared, sigmas)
        elif steps < 1:
            raise ValueError(f"a sampler takes at least one step, got steps={steps}")
        else:
            prepared.set_timesteps(steps)
    except ValueError as error:
        raise ValueError(f"{name} cannot lay out {count} steps: {error}") from error
    if hasattr(prepared, "set_begin_index"):
        # Else it looks for its first timestep and, where rounding made two alike, skips one.
        prepared.set_begin_index(0)
    return prepared


def _jumps(scheduler: Any) -> list[Fraction]:
    """What DDIM has to take for its number of steps at each step; empty for other schedulers.

    It steps from `t` to `t - T // number`, `T` the timesteps of training, which is the timestep it
    visits next only if they are evenly spaced: `number = T / (t - next)` makes it so.
    """
    if conversions.scheduler_name(scheduler) != "DDIMScheduler":
        return []
    timesteps, total = scheduler.timesteps.tolist(), scheduler.config["num_train_timesteps"]
    return [
        Fraction(total, t - after) for t, after in zip(timesteps, [*timesteps[1:], -1], strict=True)
    ]
