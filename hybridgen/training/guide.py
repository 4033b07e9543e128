"""Training a guide: a discriminator that tells a finished sampler's outputs from data at any noise
level.

The sampler does not change meanwhile: its samples are drawn once, and the discriminator is trained
as far as held-out samples confirm what it learns.
"""

from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hybridgen.errors import InputError
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.losses.denoising import noised
from hybridgen.losses.score_matching import ScoreMatching
from hybridgen.maths.noise import stratified
from hybridgen.maths.objectives import non_saturating
from hybridgen.maths.rng import rng_for
from hybridgen.protocols import Denoiser
from hybridgen.sampling.guidance import check_guide
from hybridgen.training.optim import TrainingSetup, schedule
from hybridgen.training.settings import GuideTraining
from hybridgen.training.setup import validate_setup
from hybridgen.training.step import Batches, Resume, Step
from hybridgen.training.validation import BestCheckpoint, HeldOutValidation


def train_guide(
    discriminator: nn.Module,
    real_batches: Batches,
    fake_batches: Batches,
    validation: Callable[[], HeldOutValidation],
    config: GuideTraining,
    accelerator: Accelerator,
    *,
    denoiser: Denoiser | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    resume: Resume | None = None,
) -> Iterator[Step]:
    """Train a guide, one `Step` at a time, until `config.steps` or the patience is over.

    Noise and levels are drawn for the whole batch and each process keeps its share. A step with a
    validation has `held_out` among its losses. `state["best"]` is the discriminator to keep, and
    `state["best_checkpoint"]` says how good it is.

    Args:
        discriminator: noise-conditional; see `hybridgen.protocols.Discriminator`.
        real_batches: gives this process's share of the real batches from batch number n on.
        fake_batches: the same of generated ones; not asked for by score matching.
        validation: gives held-out samples that are in neither, when the first step is asked for;
            made with `denoiser` too for score matching.
        denoiser: of the model to be guided; needed by score matching.
        augment: applied to clean real and generated samples alike; cross-entropy only.
        seed: names every random draw of the loop.
        resume: called before the first step; fills the state from a checkpoint and returns the
            number of its step.

    Raises:
        InputError: the set-up cannot work; said at once, before the first step is asked for.
        RunError: the loss is not finite; nothing was updated by it.
    """
    validate_setup(accelerator, config)
    _validate_guide(discriminator, config, denoiser, augment is not None)
    if config.objective == "cross_entropy" or denoiser is None:
        r1, r2 = config.r1, config.r2
        loss = AdversarialLoss(discriminator, non_saturating, r1=r1, r2=r2, float32=True)
    else:
        loss = ScoreMatching(discriminator, denoiser)

    def steps() -> Iterator[Step]:
        setup = TrainingSetup(accelerator, config, discriminator=loss)
        prepared, average = setup.models["discriminator"], setup.average.module
        best_checkpoint = BestCheckpoint(average)
        setup.state |= {"best": best_checkpoint.module, "best_checkpoint": best_checkpoint}
        if isinstance(augment, nn.Module):
            setup.state["augment"] = augment
        held_out = validation()
        done, total = resume(setup.state) if resume is not None else 0, config.steps
        real_stream = real_batches(done)
        fake_stream = fake_batches(done) if isinstance(loss, AdversarialLoss) else None
        if best_checkpoint.stop(done, total, config.patience):
            yield setup.step(done, {}, last=True)
            return

        for number in range(done + 1, total + 1):
            rate = config.learning_rate((number - 1) / total)
            schedule(setup.optimizers["discriminator"], rate, (0.9, 0.99))
            examples, labels = next(real_stream)
            rng = rng_for(seed, "noise", number, device=setup.device)
            uniform = stratified(config.batch, rng, setup.device).to(examples)
            normal = setup.normal(rng, config.batch, examples, *examples.shape[1:])
            drawn = setup.share(config.noise(uniform)), normal
            samples, sample_labels = (None, None) if fake_stream is None else next(fake_stream)
            if augment is not None and samples is not None:
                examples, samples = augment(examples), augment(samples)
            batch, parts = (examples, samples, *drawn, labels, sample_labels), []
            for micro_batch in setup.micro_batches(["discriminator"], *batch):
                real, fake, sigma, noise, label, fake_label = micro_batch
                if fake is None:
                    losses = prepared(real, sigma, noise, label)
                else:  # the objective of a GAN, between samples with the same noise
                    losses = prepared(
                        real=noised(real, sigma, noise),
                        fake=noised(fake, sigma, noise),
                        sigma=sigma,
                        label=label,
                        fake_label=fake_label,
                    )
                parts.append(setup.backward(losses))
            losses = setup.update(["discriminator"], parts, number)
            if number % config.check_every == 0 or number == total:
                mean = torch.tensor(held_out.loss(average), device=setup.device)
                if accelerator.num_processes > 1:  # all processes must come to the same decision
                    mean = accelerator.reduce(mean, reduction="mean")
                losses["held_out"] = float(torch.as_tensor(mean))
                best_checkpoint.update(average, losses["held_out"], number)
            last = best_checkpoint.stop(number, total, config.patience)
            yield setup.step(number, losses, last=last)
            if last:
                return

    return steps()


def _validate_guide(
    discriminator: nn.Module, config: GuideTraining, denoiser: Denoiser | None, augmented: bool
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
            "kinks do not allow: set discriminator.activation silu, or training.objective "
            "cross_entropy"
        )
    if augmented:
        raise InputError(
            "the denoiser knows no augmented samples, so score matching cannot use them: switch "
            "augmentation off, or choose training.objective cross_entropy"
        )
