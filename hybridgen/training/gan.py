"""GAN training: in each step the discriminator moves, then the generator."""

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hybridgen.data.augment import DiffusionNoise
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.maths.noise import stratified
from hybridgen.maths.rng import rng_for
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

    Every step takes two batches of real samples, one for each network. Latents and noise are drawn
    for the whole batch and each process keeps its share, so with exact penalties the number of
    processes changes nothing (a generator with batch normalisation aside, which sees only its
    share).

    Args:
        generator: `(noise [b latent], label) -> samples [b ...]`.
        adversarial: the discriminator and its objective; its r1 and r2 are overwritten by
            `config`'s.
        batches: gives this process's share of the real batches from batch number n on, on the
            accelerator's device: `(samples, labels or None)`; twice `config.steps` are taken.
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
    if noise is not None:
        validate_noise(adversarial)

    def steps() -> Iterator[Step]:
        setup = TrainingSetup(accelerator, config, generator=generator, discriminator=adversarial)
        # Prepared, their forward passes synchronise gradients. What the discriminator lends to the
        # generator must not: it is called on `adversarial` itself.
        prepared_generator, discriminator_loss = setup.models.values()
        if isinstance(adversarial.augment, nn.Module):
            setup.state["augment"] = adversarial.augment
        adapt = getattr(adversarial.augment, "update", None)  # of an adaptive augmentation
        if noise is not None:
            setup.state["diffusion"], adapt = noise.to(setup.device), noise.update
        done = resume(setup.state) if resume is not None else 0
        stream, total, like = batches(2 * done), config.steps, torch.empty(0, device=setup.device)
        if done == total:
            yield setup.step(done, {}, last=True)

        for number in range(done + 1, total + 1):
            progress = (number - 1) / total
            for optimizer in setup.optimizers.values():
                schedule(optimizer, config.learning_rate(progress), (0.0, config.beta2(progress)))
            adversarial.r1, adversarial.r2 = config.r1(progress), config.r2(progress)
            penalty_rng = rng_for(seed, "penalty", number, setup.rank, device=setup.device)
            latent_rng = rng_for(seed, "latents", number, device=setup.device)
            noise_rng = rng_for(seed, "diffusion", number, device=setup.device)

            # The discriminator's half: tell real samples from generated ones.
            batch, parts = (*next(stream), setup.normal(latent_rng, config.batch, like, latent)), []
            if noise is not None:
                batch = (*batch, *_noise(setup, batch[0], noise_rng))
            for real, label, z, *drawn in setup.micro_batches(["discriminator"], *batch):
                with torch.no_grad():
                    fake = prepared_generator(z, label)
                pair = {"real": real, "fake": fake}
                if noise is not None:
                    pair = noise(real, fake, *drawn)
                losses = discriminator_loss(**pair, label=label, rng=penalty_rng)
                parts.append(setup.backward(losses))
            means = setup.update(["discriminator"], parts, number)
            means = {"discriminator": means.pop("total"), **means}

            # The generator's half: make samples that the discriminator takes for real.
            batch, parts = (*next(stream), setup.normal(latent_rng, config.batch, like, latent)), []
            if noise is not None:
                batch = (*batch, *_noise(setup, batch[0], noise_rng))
            for real, label, z, *drawn in setup.micro_batches(["generator"], *batch):
                with accelerator.autocast():
                    fake = prepared_generator(z, label)
                    pair = {"real": real, "fake": fake}
                    if noise is not None:
                        pair = noise(real, fake, *drawn)
                    loss = adversarial.generator_loss(**pair, label=label)
                parts.append(setup.backward({"total": loss}))
            means["generator"] = setup.update(["generator"], parts, number)["total"]

            if adapt is not None:
                adapt(means["sign_accuracy"], config.batch)
            if noise is not None:
                at_once = setup.device.type == "cpu"  # elsewhere reading it would wait
                means["depth"] = noise.depth.item() if at_once else noise.depth.clone()
            yield setup.step(number, means, last=number == total)

    return steps()


def _noise(setup: TrainingSetup, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The share of what `DiffusionNoise` takes, for samples like `x [? ...]`: normal numbers
    `[b ...]` for real and for generated samples, uniform ones `[b]` for the levels."""
    batch = setup.config.batch
    real, fake = (setup.normal(rng, batch, x, *x.shape[1:]) for _ in range(2))
    return real, fake, setup.share(stratified(batch, rng, x.device).to(x.dtype))
