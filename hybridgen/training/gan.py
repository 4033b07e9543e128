"""Minimax training: the discriminator moves, then the generator."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hybridgen.data.augment import Augment, AugmentSettings
from hybridgen.errors import InputError
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.maths.objectives import objective
from hybridgen.maths.rng import rng_for
from hybridgen.training.optim import EMA, Cosine
from hybridgen.training.setup import check_finite, check_ranks_agree, validate_setup
from hybridgen.training.step import Batches, Step, accumulate, micro_batches


@dataclass(frozen=True, kw_only=True)
class GanTraining:
    """How a GAN is trained, whatever its networks and data.

    Attributes:
        steps: discriminator and generator move once in each.
        batch: samples a step, over all processes and accumulated parts.
        accumulation: the parts a batch is cut into to save memory. With exact penalties the
            result changes by rounding only; finite differences, GP and augmentation draw per part.
        learning_rate: Adam's, for both players (beta1 is 0). This and the next three are
            schedules: set `.start` and `.end`; `.end null` keeps the start.
        beta2: Adam's second momentum.
        r1: weight of the squared gradient on real samples.
        r2: weight of the squared gradient on generated samples.
        ema_half_life: of the averaged generator, in images.
        ema_ramp: bounds the half-life by this fraction of the images seen.
        check_ranks: compare the gradients of all processes at every step (slow; finds mistakes).
    """

    steps: int = 2_000
    batch: int = 64
    accumulation: int = 1
    learning_rate: Cosine = field(default_factory=lambda: Cosine(start=1e-3, end=5e-5))
    beta2: Cosine = field(default_factory=lambda: Cosine(start=0.99))
    r1: Cosine = field(default_factory=lambda: Cosine(start=0.1, end=0.01))
    r2: Cosine = field(default_factory=lambda: Cosine(start=0.1, end=0.01))
    ema_half_life: float = 20_000.0
    ema_ramp: float = 0.05
    check_ranks: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulation", "ema_half_life", "ema_ramp"):
            if not getattr(self, name) > 0:
                raise InputError(f"training.{name} must be positive, got {getattr(self, name)}")
        if self.beta2.greatest >= 1:
            raise InputError(f"training.beta2 must stay below 1, got {self.beta2.greatest}")


def train_gan(
    generator: nn.Module,
    adversarial: AdversarialLoss,
    batches: Batches,
    config: GanTraining,
    accelerator: Accelerator,
    *,
    latent: int,
    seed: int = 0,
    resume: Callable[[Mapping[str, Any]], int] | None = None,
) -> Iterator[Step]:
    """Train both players, one `Step` at a time; the caller decides what to do between steps.

    Every step takes two batches of real samples, one for each player. Latents are drawn for the
    whole batch and each process keeps its share, so with exact penalties the number of processes
    changes nothing (a generator with batch normalisation aside, which sees only its share).

    Args:
        generator: `(noise [b latent], label) -> samples [b ...]`.
        adversarial: the discriminator and its game; its r1 and r2 are overwritten by `config`'s.
        batches: gives this process's share of the real batches from batch number n on, on the
            accelerator's device: `(samples, labels or None)`; twice `config.steps` are taken.
        latent: the dimension of the generator's noise, standard normal.
        seed: names every random draw of the loop.
        resume: fills the state from a checkpoint and returns the number of its step.

    Raises:
        InputError: the set-up cannot work (see `hybridgen.training.setup`).
        RunError: a loss is not finite; the player whose loss it is has not moved.
    """
    # What is refused depends on the heaviest penalties that the schedules will reach.
    adversarial.r1, adversarial.r2 = config.r1.greatest, config.r2.greatest
    validate_setup(accelerator, adversarial, config.batch, config.accumulation)
    # Copied on its device and before `prepare`, which would make the copy compute in bf16 too.
    generator = generator.to(accelerator.device)
    average = EMA(generator, config.ema_half_life, config.ema_ramp)
    state = {
        "generator": generator,
        "discriminator": adversarial.discriminator,
        "average": average.module,
    }
    generator, adversarial = accelerator.prepare(generator, adversarial)
    # Not prepared: Accelerate's wrapper serves what is refused above (fp16, its own accumulation)
    # and searches sys.path twice in every step.
    g_opt, c_opt = (
        torch.optim.Adam(player.parameters(), fused=True)  # rate and betas are set at every step
        for player in (generator, adversarial)
    )
    # What the discriminator lends to the generator must not touch DDP's bookkeeping of its
    # gradients.
    adversarial_loss = accelerator.unwrap_model(adversarial)
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    state |= {"generator_optimizer": g_opt, "discriminator_optimizer": c_opt}
    if isinstance(adversarial_loss.augment, nn.Module):
        state["augment"] = adversarial_loss.augment
    adapt = getattr(
        adversarial_loss.augment, "update", None
    )  # adaptive augmentation watches the game
    done = resume(state) if resume is not None else 0
    stream = batches(2 * done)
    if done == config.steps:
        yield Step(done, {}, average.module, state)  # nothing is left to do but look at it

    def discriminator_loss(
        rng: torch.Generator, real: Tensor, noise: Tensor, label: Tensor | None
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            fake = generator(noise, label)
        return adversarial(real, fake, label=label, rng=rng)

    def generator_loss(real: Tensor, noise: Tensor, label: Tensor | None) -> dict[str, Tensor]:
        with accelerator.autocast():
            return {
                "total": adversarial_loss.generator_loss(generator(noise, label), real, label=label)
            }

    for number in range(done + 1, config.steps + 1):
        progress = (number - 1) / config.steps
        for group in (*g_opt.param_groups, *c_opt.param_groups):
            group["lr"], group["betas"] = (
                config.learning_rate(progress),
                (0.0, config.beta2(progress)),
            )
        adversarial_loss.r1, adversarial_loss.r2 = config.r1(progress), config.r2(progress)
        penalty_rng = rng_for(seed, "penalty", number, rank, device=device)
        latent_rng = rng_for(seed, "latents", number, device=device)
        losses: dict[str, float] = {}
        for player, loss, model, optimizer in (
            ("discriminator", partial(discriminator_loss, penalty_rng), adversarial, c_opt),
            ("generator", generator_loss, generator, g_opt),
        ):
            real, label = next(stream)
            noise = torch.randn(config.batch, latent, generator=latent_rng, device=device)
            own = micro_batches(config.accumulation, real, noise.chunk(world)[rank], label)
            optimizer.zero_grad()
            parts = accumulate(loss, own, [model], accelerator)
            losses |= {player if name == "total" else name: part for name, part in parts.items()}
            check_finite(parts, player, number)
            if config.check_ranks:
                check_ranks_agree(accelerator, model, player, number)
            optimizer.step()
        if adapt is not None:
            adapt(losses["sign_accuracy"], config.batch)
        average.update(seen=number * config.batch, images=config.batch)
        yield Step(number, losses, average.module, state)


@dataclass(frozen=True, kw_only=True)
class AdversarialSettings:
    """What the players play for; the weights of r1 and r2 are scheduled in `training`.

    Attributes:
        objective: a name in `hybridgen/maths/objectives.py`: minimax, non_saturating, hinge,
            least_squares, wasserstein, relativistic.
        gp: weight of the one-centred penalty that the Wasserstein game needs.
        finite_difference: estimate r1 and r2 with steps of this size (data is in [-1, 1] or of
            unit scale) instead of a double backward, which is slow on a CPU.
    """

    objective: str = "relativistic"
    gp: float = 0.0
    finite_difference: float | None = None


def build_loss(
    discriminator: nn.Module,
    game: AdversarialSettings,
    training: GanTraining,
    augment: AugmentSettings,
) -> AdversarialLoss:
    """The discriminator with its game, and the heaviest r1 and r2 that the schedules will reach.

    Raises:
        InputError: the settings contradict each other, or the discriminator cannot play.
    """
    augmented = augment.adaptive or augment.strength > 0
    try:
        return AdversarialLoss(
            discriminator,
            objective(game.objective),
            r1=training.r1.greatest,
            r2=training.r2.greatest,
            gp=game.gp,
            finite_difference=game.finite_difference,
            augment=Augment(augment) if augmented else None,
        )
    except ValueError as error:
        raise InputError(str(error)) from error
