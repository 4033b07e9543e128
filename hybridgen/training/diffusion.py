"""Diffusion training, with or without a discriminator beside it."""

from collections.abc import Iterator
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hybridgen.errors import InputError
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.maths.rng import rng_for
from hybridgen.training.hybrid_loss import Denoising, Hybrid
from hybridgen.training.optim import TrainingSetup, schedule
from hybridgen.training.settings import DiffusionTraining
from hybridgen.training.setup import adversarial_weight, validate_setup
from hybridgen.training.step import Batches, Resume, Step
from hybridgen.training.terms import AdversarialTerm


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
    resume: Resume | None = None,
) -> Iterator[Step]:
    """Train a denoiser, one `Step` at a time; the caller decides what to do between steps.

    Noise and levels are drawn for the whole batch and each process keeps its share, so the number
    of processes and of micro-batches changes nothing beyond rounding (an adaptive weight is
    averaged over processes, but read off each micro-batch).

    With a term, the denoiser is asked for a few more estimates in the same call; then
    discriminator and denoiser are both updated, each by its own loss, on the same estimates.

    Args:
        denoiser: `(x [b ...], sigma [b], label) -> x0 [b ...]`; `classes` and, for an adaptive
            weight, `last_layer` are read from it.
        batches: gives this process's share of the batches from batch number n on.
        data_std: of the data, for the weight of each level.
        finest: the smallest deviation that the data has, if it is known; see
            `AdversarialTerm.validate_noise_range`.
        adversarial: the discriminator of the term and its objective; r1 and r2 are overwritten by
            the term's.
        term: where the discriminator's fakes come from and what the term weighs.
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
    penalties = ()
    if term is not None:
        if term.source is None:
            raise ValueError("a term needs a source of fakes: clean, renoised or chain, got None")
        term.validate_noise_range(data_std if finest is None else finest)
        penalties = (term.r1, term.r2)
    validate_setup(accelerator, config, adversarial, *penalties)
    parts = accelerator.num_processes * config.accumulation
    extra = 0 if term is None else max(1, round(term.share * config.batch))
    if extra % parts:
        raise InputError(
            f"adversarial.share takes {extra} of {config.batch} samples, which cannot be cut "
            f"over {parts} parts: choose a share that takes a multiple of {parts}"
        )
    models, loss = {"denoiser": denoiser}, Denoising(denoiser, config.noise, data_std)
    strength = adversarial_weight(term or AdversarialTerm())
    if adversarial is not None and term is not None:
        models["discriminator"] = adversarial
        loss = Hybrid(loss, term, adversarial, accelerator, strength)

    def steps() -> Iterator[Step]:
        setup = TrainingSetup(accelerator, config, **models)
        names = list(setup.models)
        done = resume(setup.state) if resume is not None else 0
        stream, total = batches(done), config.steps
        if done == total:
            yield setup.step(done, {}, last=True)

        for number in range(done + 1, total + 1):
            progress = (number - 1) / total
            schedule(setup.optimizers["denoiser"], config.learning_rate(progress), (0.9, 0.99))
            loss_of = partial(loss, *setup.models.values())
            if adversarial is not None and term is not None:
                rate = term.learning_rate(progress)
                schedule(setup.optimizers["discriminator"], rate, (0.0, 0.99))
                adversarial.r1, adversarial.r2 = term.r1(progress), term.r2(progress)
                rng = rng_for(seed, "calls", number)
                choice = torch.randint(len(term.calls), (), generator=rng)
                rng = rng_for(seed, "penalty", number, setup.rank, device=setup.device)
                loss_of, strength.steps = partial(loss_of, term.calls[int(choice)], rng), number - 1
            x0, label = next(stream)
            noise_rng = rng_for(seed, "noise", number, device=setup.device)
            drawn = _draw(setup, x0, extra, noise_rng)
            drawn[2] = drawn[2] < config.label_drop
            parts = []
            for micro_batch in setup.micro_batches(names, x0, label, *drawn):
                parts.append(setup.backward(loss_of(*micro_batch)))
            losses = setup.update(names, parts, number, clip=config.clip)
            yield setup.step(number, losses, last=number == total)

    return steps()


def _draw(setup: TrainingSetup, x0: Tensor, extra: int, rng: torch.Generator) -> list[Tensor]:
    """The share of a batch: noise, normal numbers for its levels, uniform ones for dropped labels.

    For the `extra` samples of a term: noise twice, normal and uniform numbers.
    """

    def normal(count: int, *shape: int) -> Tensor:
        return setup.normal(rng, count, x0, *shape)

    def uniform(count: int) -> Tensor:
        return setup.share(torch.rand(count, generator=rng, device=x0.device, dtype=x0.dtype))

    batch, shape = setup.config.batch, x0.shape[1:]
    drawn = [normal(batch, *shape), normal(batch), uniform(batch)]
    if extra:
        drawn += [normal(extra, *shape), normal(extra, *shape), normal(extra), uniform(extra)]
    return drawn
