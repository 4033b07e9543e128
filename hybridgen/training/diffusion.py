"""Diffusion training, with or without a discriminator beside it."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hybridgen.errors import InputError
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.maths.noise import LogNormal
from hybridgen.maths.rng import rng_for
from hybridgen.training.adversarial_term import AdversarialTerm
from hybridgen.training.hybrid_loss import Denoising, Hybrid
from hybridgen.training.optim import EMA, Cosine
from hybridgen.training.setup import check_finite, check_ranks_agree, validate_setup
from hybridgen.training.step import Batches, Step, accumulate, micro_batches


@dataclass(frozen=True, kw_only=True)
class DiffusionTraining:
    """How a denoiser is trained, whatever its network and data.

    Attributes:
        steps: updates of the denoiser.
        batch: samples a step, over all processes and accumulated parts.
        accumulation: the parts a batch is cut into to save memory.
        learning_rate: Adam's; a schedule, set `.start` and `.end`.
        noise: the levels at which the denoiser is trained.
        label_drop: share of the labels replaced by "none", so that the denoiser learns to do
            without and can be guided classifier-free; ignored without labels.
        clip: the largest norm of the whole gradient; none if not given.
        ema_half_life: of the averaged denoiser, in images.
        ema_ramp: bounds the half-life by this fraction of the images seen.
        check_ranks: compare the gradients of all processes at every step (slow; finds mistakes).
    """

    steps: int = 1_500
    batch: int = 64
    accumulation: int = 1
    learning_rate: Cosine = field(default_factory=lambda: Cosine(start=2e-3, end=2e-5))
    noise: LogNormal = field(default_factory=lambda: LogNormal(mean=-0.8))
    label_drop: float = 0.1
    clip: float | None = None
    ema_half_life: float = 20_000.0
    ema_ramp: float = 0.1
    check_ranks: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulation", "ema_half_life", "ema_ramp"):
            if not getattr(self, name) > 0:
                raise InputError(f"training.{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.label_drop < 1:
            raise InputError(f"training.label_drop must lie in [0, 1), got {self.label_drop}")
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"training.clip must be positive, got {self.clip}")


def train_diffusion(
    denoiser: nn.Module,
    batches: Batches,
    config: DiffusionTraining,
    accelerator: Accelerator,
    *,
    data_std: float,
    finest: float | None = None,
    adversarial: AdversarialLoss | None = None,
    term: AdversarialTerm | None = None,
    seed: int = 0,
    resume: Callable[[Mapping[str, Any]], int] | None = None,
) -> Iterator[Step]:
    """Train a denoiser, one `Step` at a time; the caller decides what to do between steps.

    Noise and levels are drawn for the whole batch and each process keeps its share, so the number
    of processes and of accumulated parts changes nothing beyond rounding (an adaptive weight is
    averaged over processes, but read off each part).

    With a term, the denoiser is asked for a few more estimates in the same call; then
    discriminator and denoiser are both updated, each by its own loss, on the same estimates.

    Args:
        denoiser: `(x [b ...], sigma [b], label) -> x0 [b ...]`; `classes` and, for an adaptive
            weight, `last_layer` are read from it.
        batches: gives this process's share of the batches from batch number n on.
        data_std: of the data, for the weight of each level.
        finest: the smallest deviation that the data has, if it is known; see
            `AdversarialTerm.validate_noise_range`.
        adversarial: the discriminator of the term and its game; r1 and r2 are overwritten by the
            term's.
        term: where the discriminator's fakes come from and what the term weighs.
        seed: names every random draw of the loop.
        resume: fills the state from a checkpoint and returns the number of its step.

    Raises:
        InputError: the set-up cannot work.
        RunError: a loss is not finite; nothing was updated by it.
    """
    if (adversarial is None) != (term is None):
        raise ValueError(
            "an adversarial term needs both its discriminator and its settings, got one"
        )
    if adversarial is not None and term is not None:
        if term.source is None:
            raise ValueError("a term needs a source of fakes: clean, renoised or chain, got None")
        adversarial.r1, adversarial.r2 = term.r1.greatest, term.r2.greatest
        term.validate_noise_range(data_std if finest is None else finest)
    validate_setup(accelerator, adversarial, config.batch, config.accumulation)
    parts = accelerator.num_processes * config.accumulation
    # Copied on its device and before `prepare`, which would make the copy compute in bf16 too.
    plain = denoiser.to(accelerator.device)
    average = EMA(plain, config.ema_half_life, config.ema_ramp)
    models: dict[str, nn.Module] = {"denoiser": accelerator.prepare(plain)}
    state: dict[str, Any] = {"denoiser": plain, "average": average.module}
    loss = denoising = Denoising(
        models["denoiser"], getattr(plain, "classes", 0), config.noise, data_std
    )
    extra = 0
    if adversarial is not None and term is not None:
        extra = max(1, round(term.share * config.batch))
        if extra % parts:
            raise InputError(
                f"adversarial.share takes {extra} of {config.batch} samples, which cannot be cut "
                f"over {parts} parts: choose a share that takes a multiple of {parts}"
            )
        state["discriminator"] = adversarial.discriminator
        models["discriminator"] = accelerator.prepare(adversarial)
        adversarial_loss = accelerator.unwrap_model(models["discriminator"])
        loss = Hybrid(
            denoising, plain, term, models["discriminator"], adversarial_loss, accelerator
        )
    # Not prepared, see `train_gan`; rates and betas are set at every step.
    optimizers = {
        name: torch.optim.Adam(model.parameters(), fused=True) for name, model in models.items()
    }
    state |= {f"{name}_optimizer": optimizer for name, optimizer in optimizers.items()}
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    done = resume(state) if resume is not None else 0
    stream = batches(done)
    if done == config.steps:
        yield Step(done, {}, average.module, state)  # nothing is left to do but look at it

    for number in range(done + 1, config.steps + 1):
        progress = (number - 1) / config.steps
        _schedule(optimizers["denoiser"], config.learning_rate(progress), 0.9)
        at_this_step = loss
        if isinstance(loss, Hybrid):
            _schedule(optimizers["discriminator"], loss.term.learning_rate(progress), 0.0)
            loss.adversarial_loss.r1, loss.adversarial_loss.r2 = (
                loss.term.r1(progress),
                loss.term.r2(progress),
            )
            at_this_step = partial(
                loss,
                loss.term.weight_at(number),
                _pick(loss.term.calls, rng_for(seed, "calls", number)),
                rng_for(seed, "penalty", number, rank, device=device),
            )
        x0, label = next(stream)
        drawn = _draw(x0, config.batch, extra, rng_for(seed, "noise", number, device=device))
        noise, normal, uniform, *others = [t.chunk(world)[rank] for t in drawn]
        dropped = uniform < config.label_drop
        own = micro_batches(config.accumulation, x0, label, noise, normal, dropped, *others)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        losses = accumulate(at_this_step, own, list(models.values()), accelerator)
        healthy = math.isfinite(losses["total"])
        check_finite(losses, "discriminator" if healthy else "denoiser", number)
        for name, model in models.items():
            if config.check_ranks:
                check_ranks_agree(accelerator, model, name, number)
        if config.clip is not None:
            torch.nn.utils.clip_grad_norm_(plain.parameters(), config.clip)
        for optimizer in optimizers.values():
            optimizer.step()
        average.update(seen=number * config.batch, images=config.batch)
        yield Step(number, losses, average.module, state)


def _schedule(optimizer: torch.optim.Optimizer, rate: float, momentum: float) -> None:
    for group in optimizer.param_groups:
        group["lr"], group["betas"] = rate, (momentum, 0.99)


def _pick(choices: tuple[int, ...], rng: torch.Generator) -> int:
    return choices[int(torch.randint(len(choices), (), generator=rng))]


def _draw(x0: Tensor, batch: int, extra: int, rng: torch.Generator) -> list[Tensor]:
    """Noise, levels and dropped labels of the batch; noise twice, levels and places of the term."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, device=x0.device, dtype=x0.dtype)

    def uniform(count: int) -> Tensor:
        return torch.rand(count, generator=rng, device=x0.device, dtype=x0.dtype)

    one = x0.shape[1:]
    drawn = [normal(batch, *one), normal(batch), uniform(batch)]
    if extra:
        drawn += [normal(extra, *one), normal(extra, *one), normal(extra), uniform(extra)]
    return drawn
