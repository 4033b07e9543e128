"""Autoencoder training, with or without a discriminator that looks at the reconstructions."""

from collections.abc import Iterator
from typing import Any

from accelerate import Accelerator
from einops import reduce
from torch import Tensor, nn

from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.maths.rng import rng_for
from hybridgen.training.optim import TrainingSetup, schedule
from hybridgen.training.settings import AutoencoderTraining
from hybridgen.training.setup import adversarial_weight, validate_setup
from hybridgen.training.step import Batches, Resume, Step
from hybridgen.training.terms import AuxiliaryTerm


class Reconstruction(nn.Module):
    """An autoencoder in training: one forward pass from images to what its loss is made of.

    Args:
        autoencoder: diffusers' `AutoencoderKL`.
    """

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[b c h w]` and standard normal noise in the shape of their latents to
        reconstructions from a sample of the posterior `[b c h w]`, and its KL divergence from the
        standard normal distribution in nats, `[b]`.
        """
        posterior = self.autoencoder.encode(x).latent_dist
        mean, log_variance = posterior.mean.to(noise.dtype), posterior.logvar.to(noise.dtype)
        latents = mean + (log_variance / 2).exp() * noise
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
        return self.autoencoder.decode(latents).sample, reduce(divergence, "b ... -> b", "sum")


def train_autoencoder(
    autoencoder: Any,
    batches: Batches,
    config: AutoencoderTraining,
    accelerator: Accelerator,
    *,
    adversarial: AdversarialLoss | None = None,
    term: AuxiliaryTerm | None = None,
    seed: int = 0,
    resume: Resume | None = None,
) -> Iterator[Step]:
    """Train an autoencoder, one `Step` at a time; the caller decides what to do between steps.

    The loss is the mean absolute error of a value, plus `config.kl` times the posterior's KL
    divergence a value of the data, plus the weighted adversarial term. Both networks learn from one
    reconstruction. Noise is drawn for the whole batch and each process keeps its share, so with
    exact penalties the number of processes changes nothing beyond rounding (an adaptive weight is
    averaged over processes, but read off each micro-batch).
    Source: Rombach et al. 2021, arXiv:2112.10752, appendix G, without the perceptual loss.

    Args:
        autoencoder: diffusers' `AutoencoderKL`; an adaptive weight looks at `decoder.conv_out`.
        batches: gives this process's share of the batches from batch number n on.
        adversarial: the discriminator of the term and its objective; r1 and r2 are overwritten by
            the term's.
        term: what the term weighs, and since when.
        seed: names every random draw of the loop.
        resume: called before the first step; fills the state from a checkpoint and returns the
            number of its step.

    Raises:
        InputError: the set-up cannot work; said at once, before the first step is asked for.
        RunError: a loss is not finite; nothing was updated by it.
    """
    if (adversarial is None) != (term is None):
        raise ValueError(
            "an adversarial term needs both its discriminator and its settings, got one"
        )
    validate_setup(accelerator, config, adversarial, *((term.r1, term.r2) if term else ()))
    term = term or AuxiliaryTerm()
    models: dict[str, nn.Module] = {"autoencoder": Reconstruction(autoencoder)}
    strength = adversarial_weight(term)
    if adversarial is not None:
        models["discriminator"] = adversarial
    channels = autoencoder.config["latent_channels"]
    factor = 2 ** (len(autoencoder.config["block_out_channels"]) - 1)

    def steps() -> Iterator[Step]:
        setup = TrainingSetup(accelerator, config, **models)
        names = list(setup.models)
        done = resume(setup.state) if resume is not None else 0
        stream, total = batches(done), config.steps
        if done == total:
            yield setup.step(done, {}, last=True)

        for number in range(done + 1, total + 1):
            progress, strength.steps = (number - 1) / total, number - 1
            schedule(setup.optimizers["autoencoder"], config.learning_rate(progress), (0.9, 0.99))
            if adversarial is not None:
                rate = term.learning_rate(progress)
                schedule(setup.optimizers["discriminator"], rate, (0.0, 0.99))
                adversarial.r1, adversarial.r2 = term.r1(progress), term.r2(progress)
            penalty_rng = rng_for(seed, "penalty", number, setup.rank, device=setup.device)
            noise_rng = rng_for(seed, "noise", number, device=setup.device)
            x, _ = next(stream)
            shape = channels, x.shape[2] // factor, x.shape[3] // factor
            noise = setup.normal(noise_rng, config.batch, x, *shape)
            parts = []
            for real, draws in setup.micro_batches(names, x, noise):
                output, divergence = setup.models["autoencoder"](real, draws)
                error, nats = (output - real).abs().mean(), divergence.mean() / real[0].numel()
                losses = {"total": error + config.kl * nats, "l1": error.detach(), "kl": nats}
                if adversarial is not None:
                    if strength.scheduled > 0:
                        with accelerator.autocast():
                            game = adversarial.generator_loss(fake=output, real=real)
                        at = autoencoder.decoder.conv_out.weight if term.adaptive else None
                        weight = strength(error, game, at)
                        losses["total"] = losses["total"] + weight * game
                        losses |= {"generator": game.detach(), "weight": weight}
                    pair = {"real": real, "fake": output.detach()}
                    discriminator = setup.models["discriminator"](**pair, rng=penalty_rng)
                    total_loss = discriminator.pop("total")
                    losses |= {**discriminator, "discriminator": total_loss}
                losses["kl"] = nats.detach()
                parts.append(setup.backward(losses))
            yield setup.step(number, setup.update(names, parts, number), last=number == total)

    return steps()
