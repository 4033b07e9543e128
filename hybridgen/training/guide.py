"""Training a guide: a discriminator that knows a finished sampler's outputs from data at any noise
level.

Nobody plays against it: the samples are drawn once, and the discriminator goes to its optimum, as
far as held-out samples confirm what it learns.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hybridgen.errors import InputError
from hybridgen.losses.score_matching import CrossEntropy, ScoreMatching
from hybridgen.maths.noise import LogUniform, stratified
from hybridgen.maths.rng import rng_for
from hybridgen.protocols import Denoiser
from hybridgen.sampling.guidance import check_guide
from hybridgen.training.optim import EMA, Cosine
from hybridgen.training.setup import check_finite, check_ranks_agree, validate_setup
from hybridgen.training.step import Batches, Step, accumulate, micro_batches
from hybridgen.training.validation import BestCheckpoint, HeldOutValidation


@dataclass(frozen=True, kw_only=True)
class GuideTraining:
    """How a guide is trained, whatever its network and data.

    Attributes:
        objective: `cross_entropy` between real and generated samples, or `score_matching` against
            the denoiser, which needs a smooth discriminator (`discriminator.activation silu`).
        steps: at most.
        batch: real samples a step, and as many generated ones, over all processes and accumulated
            parts.
        accumulation: the parts a batch is cut into to save memory.
        learning_rate: Adam's; a schedule, set `.start` and `.end`.
        noise: the levels at which the discriminator is trained and examined.
        r1: weight of the squared gradient at real samples; cross-entropy only.
        r2: weight of the squared gradient at generated samples; cross-entropy only.
        ema_half_life: of the averaged discriminator, in images.
        ema_ramp: bounds the half-life by this fraction of the images seen.
        check_every: steps between two looks at the held-out samples.
        patience: looks without a better result after which the training ends.
        levels: noise levels at which the held-out samples are shown.
        check_ranks: compare the gradients of all processes at every step (slow; finds mistakes).
    """

    objective: Literal["cross_entropy", "score_matching"] = "cross_entropy"
    steps: int = 1_500
    batch: int = 128
    accumulation: int = 1
    learning_rate: Cosine = field(default_factory=lambda: Cosine(start=1e-3, end=1e-5))
    noise: LogUniform = field(default_factory=LogUniform)
    r1: float = 0.0
    r2: float = 0.0
    ema_half_life: float = 20_000.0
    ema_ramp: float = 0.1
    check_every: int = 50
    patience: int = 10
    levels: int = 8
    check_ranks: bool = False

    def __post_init__(self) -> None:
        positive = ("steps", "batch", "accumulation", "ema_half_life", "ema_ramp")
        for name in (*positive, "check_every", "patience", "levels"):
            if not getattr(self, name) > 0:
                raise InputError(f"training.{name} must be positive, got {getattr(self, name)}")
        if not 0 <= min(self.r1, self.r2) <= max(self.r1, self.r2) < math.inf:
            raise InputError(
                f"training.r1 and r2 must be finite and >= 0, got {self.r1} and {self.r2}"
            )
        if self.objective == "score_matching" and max(self.r1, self.r2) > 0:
            raise InputError(
                "score matching asks for a certain gradient, which a penalty would change: leave "
                "training.r1 and training.r2 at 0, or choose cross_entropy"
            )


def train_guide(
    discriminator: nn.Module,
    batches: Batches,
    fake_batches: Batches,
    validation: HeldOutValidation,
    config: GuideTraining,
    accelerator: Accelerator,
    *,
    denoiser: Denoiser | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    resume: Callable[[Mapping[str, Any]], int] | None = None,
) -> Iterator[Step]:
    """Train a guide, one `Step` at a time, until `config.steps` or the patience is over.

    Noise and levels are drawn for the whole batch and each process keeps its share. A step at which
    the held-out samples were looked at has `held_out` among its losses. `state["best"]` is the
    discriminator to keep; `state["choice"]` says how good it is, and whether a step is the last.

    Args:
        discriminator: noise-conditional; see `hybridgen.protocols.Discriminator`.
        batches: gives this process's share of the real batches from batch number n on.
        fakes: the same of generated ones; not asked for by score matching.
        exam: on samples that are in neither; made with `denoiser` too for score matching.
        denoiser: of the model to be guided; needed by score matching.
        augment: applied to clean real and generated samples alike; cross-entropy only.
        seed: names every random draw of the loop.
        resume: fills the state from a checkpoint and returns the number of its step.

    Raises:
        InputError: the set-up cannot work.
        RunError: the loss is not finite; nothing was updated by it.
    """
    validate_setup(accelerator, None, config.batch, config.accumulation)
    validate_guide(discriminator, config, denoiser, augmented=augment is not None)
    discriminator = discriminator.to(accelerator.device)
    average = EMA(discriminator, config.ema_half_life, config.ema_ramp)
    best_checkpoint = BestCheckpoint(average.module)
    loss = (
        CrossEntropy(discriminator, r1=config.r1, r2=config.r2)
        if config.objective == "cross_entropy" or denoiser is None
        else ScoreMatching(discriminator, denoiser)
    )
    needs_fakes = isinstance(loss, CrossEntropy)
    loss = accelerator.prepare(loss)
    optimizer = torch.optim.Adam(discriminator.parameters(), fused=True)
    state: dict[str, Any] = {
        "discriminator": discriminator,
        "average": average.module,
        "best": best_checkpoint.module,
        "best_checkpoint": best_checkpoint,
        "optimizer": optimizer,
    }
    if isinstance(augment, nn.Module):
        state["augment"] = augment
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    done = resume(state) if resume is not None else 0
    real_stream, fake_stream = batches(done), fake_batches(done) if needs_fakes else None
    if best_checkpoint.stop(done, config.steps, config.patience):
        yield Step(done, {}, average.module, state)  # nothing is left to do but look at it
        return

    for number in range(done + 1, config.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate((number - 1) / config.steps)
            group["betas"] = (0.9, 0.99)
        real, label = next(real_stream)
        rng = rng_for(seed, "noise", number, device=device)
        uniform = stratified(config.batch, rng, device).to(real)
        noise = torch.randn(config.batch, *real.shape[1:], generator=rng, device=device).to(real)
        sigma, noise = (t.chunk(world)[rank] for t in (config.noise(uniform), noise))
        given: tuple[Tensor | None, ...] = (real, sigma, noise, label)
        if fake_stream is not None:
            fake, fake_label = next(fake_stream)
            if augment is not None:
                real, fake = augment(real), augment(fake)
            given = (real, fake, sigma, noise, label, fake_label)
        optimizer.zero_grad()
        losses = accumulate(loss, micro_batches(config.accumulation, *given), [loss], accelerator)
        check_finite(losses, "discriminator", number)
        if config.check_ranks:
            check_ranks_agree(accelerator, loss, "discriminator", number)
        optimizer.step()
        average.update(seen=number * config.batch, images=config.batch)
        if number % config.check_every == 0 or number == config.steps:
            held_out = torch.tensor(validation.loss(average.module), device=device)
            if world > 1:  # all processes must come to the same decision
                held_out = accelerator.reduce(held_out, reduction="mean")
            losses["held_out"] = float(torch.as_tensor(held_out))
            best_checkpoint.update(average.module, losses["held_out"], number)
        yield Step(number, losses, average.module, state)
        if best_checkpoint.stop(number, config.steps, config.patience):
            return


def validate_guide(
    discriminator: nn.Module,
    config: GuideTraining,
    denoiser: Denoiser | None,
    *,
    augmented: bool,
) -> None:
    """Raise `InputError` for a discriminator that cannot become a guide in this way."""
    try:
        check_guide(denoiser, discriminator)
    except ValueError as error:
        raise InputError(str(error)) from error
    if config.objective == "cross_entropy":
        return
    if denoiser is None:
        raise InputError(
            "score matching compares with a denoiser and got none: pass the model's; a GAN has "
            "none, so set training.objective cross_entropy for it"
        )
    if getattr(discriminator, "config", {}).get("activation") == "leaky_relu":
        raise InputError(
            "score matching differentiates the discriminator's gradient, which a LeakyReLU's "
            "kinks do not "
            "allow: set discriminator.activation silu, or training.objective cross_entropy"
        )
    if augmented:
        raise InputError(
            "the denoiser knows no augmented samples, so score matching cannot use them: switch "
            "augmentation off, or choose training.objective cross_entropy"
        )
