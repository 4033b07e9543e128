"""GAN training: in each step the discriminator moves, then the generator."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hybridgen.data.augment import DiffusionNoise, Replay, packed
from hybridgen.errors import InputError
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.maths.noise import stratified
from hybridgen.maths.rng import rng_for
from hybridgen.sampling.guidance import configured
from hybridgen.training.optim import TrainingSetup, schedule
from hybridgen.training.settings import GanTraining
from hybridgen.training.setup import validate_noise, validate_setup
from hybridgen.training.step import Batches, Resume, Step


def train_gan(
    generator: nn.Module,
    adversarial: AdversarialLoss,
    batches: Batches,
    config: GanTraining,
    accelerator: Accelerator,
    *,
    latent: int,
    noise: DiffusionNoise | None = None,
    seed: int = 0,
    resume: Resume | None = None,
) -> Iterator[Step]:
    """Train both networks, one `Step` at a time; the caller decides what to do between steps.

    Every move of a network takes a batch of real samples of its own. Latents and noise are drawn
    for the whole batch and each process keeps its share, so with exact penalties the number of
    processes changes nothing (a generator with batch normalisation aside, which sees only its
    share).

    Args:
        generator: `(noise [b latent], label) -> samples [b ...]`.
        adversarial: the discriminator (of packs, if `config.pack` is more than 1) and its
            objective; its r1 and r2 are overwritten by `config`'s.
        batches: gives this process's share of the real batches from batch number n on, on the
            accelerator's device: `(samples, labels or None)`; one is taken for each move.
        latent: the dimension of the generator's noise, standard normal.
        noise: put on real and generated samples before the discriminator sees them, in both halves
            of a step; the discriminator must look at its level.
        seed: names every random draw of the loop.
        resume: called before the first step; fills the state from a checkpoint and returns the
            number of its step.

    Raises:
        InputError: the set-up cannot work (see `hybridgen.training.setup`); said at once, before
            the first step is asked for.
        RunError: a loss is not finite; the network whose loss it is has not moved.
    """
    validate_setup(accelerator, config, adversarial, config.r1, config.r2)
    _validate(accelerator, config, adversarial)
    if noise is not None:
        validate_noise(adversarial)
        if config.instance_noise.greatest > 0:
            raise InputError(
                "training.instance_noise would add noise of a level that the discriminator is not "
                "told to that of diffusion.highest, which it is: leave one of them out"
            )
    networks = {"generator": config.generator, "discriminator": config.discriminator}

    def steps() -> Iterator[Step]:
        kinds = {name: network.optimizer for name, network in networks.items()}
        setup = TrainingSetup(
            accelerator, config, kinds, generator=generator, discriminator=adversarial
        )
        # Prepared, their forward passes synchronise gradients. What the discriminator lends to the
        # generator must not: it is called on `adversarial` itself.
        prepared_generator, discriminator_loss = setup.models.values()
        if isinstance(adversarial.augment, nn.Module):
            setup.state["augment"] = adversarial.augment
        adapt = getattr(adversarial.augment, "update", None)  # of an adaptive augmentation
        if noise is not None:
            setup.state["diffusion"], adapt = noise.to(setup.device), noise.update
        single, rows, replay = config.pack == 1, config.batch // config.pack, None
        together = nn.Identity() if single else partial(packed, count=config.pack)
        if config.replay > 0:
            replay = Replay(config.replay, config.replay_size // config.pack, setup.device)
            setup.state["replay"] = replay
        done = resume(setup.state) if resume is not None else 0
        moves, total = {name: network.moves for name, network in networks.items()}, config.steps
        stream = batches(sum(moves.values()) * done)
        like = torch.empty(0, device=setup.device)
        penalties: dict[str, Any] = {}  # of the last move that had any, for the log
        if done == total:
            yield setup.step(done, {}, last=True)

        noisy = noise is not None or config.instance_noise.greatest > 0

        def parts_of(name: str, rngs: dict[str, torch.Generator]) -> Iterator[tuple[Any, ...]]:
            """Micro-batches of real samples, labels, latents, past fakes' places and noise."""
            real, label = next(stream)
            real = together(real)
            latents = setup.normal(rngs["latents"], config.batch, like, latent)
            past = None
            if replay is not None and name == "discriminator":
                past = setup.share(replay.draws(rows, rngs["replay"]))
            draws = _noise(setup, real, rows, rngs["diffusion"]) if noisy else ()
            return setup.micro_batches([name], real, label, latents, past, *draws)

        def with_noise(pair: dict[str, Any], drawn: list[Tensor], std: float) -> dict[str, Any]:
            """What the discriminator sees of a pair, by the names of an adversarial loss."""
            if noise is not None:
                return noise(*pair.values(), *drawn)
            return {name: x + std * n for (name, x), n in zip(pair.items(), drawn, strict=False)}

        for number in range(done + 1, total + 1):
            progress = (number - 1) / total
            for name, optimizer in setup.optimizers.items():
                network = networks[name]
                beta2 = config.beta2(progress) if network.beta2 is None else network.beta2
                rate = network.rate * config.learning_rate(progress)
                schedule(optimizer, rate, (network.beta1, beta2))
            std = config.instance_noise(progress)
            penalty_rng = rng_for(seed, "penalty", number, setup.rank, device=setup.device)
            rngs = {
                name: rng_for(seed, name, number, device=setup.device)
                for name in ("latents", "diffusion", "replay")
            }
            means: dict[str, Any] = {}

            # The discriminator's half: tell real samples from generated ones.
            for move in range(moves["discriminator"]):
                moved = (number - 1) * moves["discriminator"] + move
                lazy = (moved + 1) % config.penalty_every
                weight = 0 if lazy else config.penalty_every
                adversarial.r1 = weight * config.r1(progress)
                adversarial.r2 = weight * config.r2(progress)
                parts, new = [], []
                for real, label, z, past, *drawn in parts_of("discriminator", rngs):
                    with torch.no_grad():
                        fake = together(prepared_generator(z, label))
                    if replay is not None:
                        new.append(fake)
                        fake = replay.mixed(fake, past)
                    pair = {"real": real, "fake": fake}
                    pair = with_noise(pair, drawn, std) if drawn else pair
                    losses = discriminator_loss(**pair, label=label, rng=penalty_rng)
                    parts.append(setup.backward(losses))
                means = setup.update(["discriminator"], parts, number)
                penalties |= {name: means[name] for name in ("r1", "r2") if name in means}
                if replay is not None:
                    whole = accelerator.gather(torch.cat(new))
                    replay.add(torch.as_tensor(whole), rngs["replay"])
            means = {"discriminator": means.pop("total"), **means, **penalties}

            # The generator's half: make samples that the discriminator takes for real.
            for move in range(moves["generator"]):
                moved, parts = (number - 1) * moves["generator"] + move + 1, []
                for real, label, z, _, *drawn in parts_of("generator", rngs):
                    with accelerator.autocast():
                        fake = together(prepared_generator(z, label))
                        pair = {"real": real, "fake": fake}
                        pair = with_noise(pair, drawn, std) if drawn else pair
                        loss = adversarial.generator_loss(**pair, label=label)
                    parts.append(setup.backward({"total": loss}))
                lost = setup.update(["generator"], parts, number, moved=moved)
                means["generator"] = lost["total"]

            if adapt is not None:
                adapt(means["sign_accuracy"], config.batch * moves["discriminator"])
            if noise is not None:
                at_once = setup.device.type == "cpu"  # elsewhere reading it would wait
                means["depth"] = noise.depth.item() if at_once else noise.depth.clone()
            yield setup.step(number, means, last=number == total)

    return steps()


def _noise(
    setup: TrainingSetup, x: Tensor, rows: int, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The share of what `DiffusionNoise` takes, for samples like `x [? ...]`: normal numbers
    `[b ...]` for real and for generated samples, uniform ones `[b]` for the levels."""
    real, fake = (setup.normal(rng, rows, x, *x.shape[1:]) for _ in range(2))
    return real, fake, setup.share(stratified(rows, rng, x.device).to(x.dtype))


def _validate(accelerator: Accelerator, config: GanTraining, adversarial: AdversarialLoss) -> None:
    """Refuse, by `InputError`, packs and past samples where they cannot be."""
    labels = configured(adversarial.discriminator, "classes")
    if labels and max(config.pack - 1, config.replay) > 0:
        what = "a pack has" if config.pack > 1 else "past samples have"
        raise InputError(
            f"the discriminator is told a label of each sample, and {what} others: leave "
            "training.pack at 1 and training.replay at 0, or train without labels"
        )
    parts = accelerator.num_processes * config.accumulation * config.pack
    if config.batch % parts:
        raise InputError(
            f"a batch of {config.batch} cannot be cut evenly into packs of {config.pack} in "
            f"each of {parts // config.pack} part(s): choose a multiple of {parts}"
        )
