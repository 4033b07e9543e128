"""Distillation: a finished denoiser becomes a sampler of few calls."""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.maths.rng import rng_for
from hybridgen.training.distill_loss import Distillation, Draws, Pairs
from hybridgen.training.optim import TrainingSetup, schedule
from hybridgen.training.settings import DistillTraining
from hybridgen.training.setup import adversarial_weight, validate_noise, validate_setup
from hybridgen.training.step import Batches, Resume, Step
from hybridgen.training.terms import Matching, Regression, StudentTerm, check_signals


def evenly(count: int, share: float) -> Tensor:
    """Which of `count` places are taken, evenly spaced, so that a share of them is, and at least
    one: bool `[n]`."""
    taken = (torch.arange(count + 1) * max(share, 1 / count) + 1e-6).floor()
    return taken.diff() > 0


def train_student(
    student: Any,
    teacher: Any,
    batches: Batches,
    config: DistillTraining,
    accelerator: Accelerator,
    *,
    levels: Sequence[float],
    low: float = 0.0,
    data_std: float,
    adversarial: AdversarialLoss | None = None,
    term: StudentTerm | None = None,
    matching: Matching | None = None,
    regression: Regression | None = None,
    pairs: Callable[[], Pairs] | None = None,
    seed: int = 0,
    resume: Resume | None = None,
) -> Iterator[Step]:
    """Train a copy of a finished denoiser to sample in few calls, one `Step` at a time.

    Up to three signals pull at it, each by its weight: a discriminator that compares its samples
    with data, a follower that compares them with the teacher's distribution, and pairs of noise and
    the teacher's sample. A step is `config.rounds` moves of discriminator and follower, with the
    student in the last of them. Random numbers are drawn for the whole batch and each process keeps
    its share.

    Args:
        student: begins as the teacher; `(x, sigma, label) -> x0`; `classes` is read from it.
        teacher: the finished denoiser; does not change.
        batches: gives this process's share of the batches from batch number n on; `config.rounds`
            of them a step.
        levels: falling, that the student's sampler visits; in each round one of them is learnt.
        low: the level that an estimate counts as, below all of these: `sigma_min` of diffusers'
            `CMStochasticIterativeScheduler`.
        data_std: of the data, for the weight of the follower's levels.
        adversarial, term: the discriminator and its objective, and what it weighs; r1 and r2 are
            overwritten by the term's.
        matching: of the follower, which begins as the student.
        regression, pairs: the weight of the pairs, and what gives them before the first step.
        seed: names every random draw of the loop.
        resume: called before the first step; fills the state from a checkpoint and returns the
            number of its step.

    Raises:
        InputError: the set-up cannot work; said at once, before the first step is asked for.
        RunError: a loss is not finite; nothing was updated by it.
    """
    if (adversarial is None) != (term is None) or (regression is None) != (pairs is None):
        raise ValueError("a signal needs both its settings and what it is made of, got one")
    if not any(p.requires_grad for p in student.parameters()):
        raise ValueError("the student is frozen, so nothing would train: unfreeze its weights")
    check_signals(term, matching, regression)
    if adversarial is not None:
        validate_noise(adversarial)
    validate_setup(accelerator, config, adversarial, *((term.r1, term.r2) if term else ()))
    for network in (student, teacher):
        network.eval()
    models: dict[str, nn.Module] = {"student": student}
    if matching is not None:
        models["follower"] = copy.deepcopy(student)  # and not of the teacher, which is frozen
    if adversarial is not None:
        models["discriminator"] = adversarial
    term = term or StudentTerm()
    losses_of = Distillation(
        student,
        teacher,
        models.get("follower"),
        adversarial,
        levels,
        data_std,
        config,
        term,
        matching or Matching(),
        adversarial_weight(term),
        accelerator,
        low,
    )

    def steps() -> Iterator[Step]:
        setup = TrainingSetup(accelerator, config, **models)
        teacher.to(setup.device).requires_grad_(False)
        done = resume(setup.state) if resume is not None else 0
        rounds = config.rounds if len(models) > 1 else 1
        stream, total = batches(done * rounds), config.steps
        rates = {"student": config.learning_rate, "discriminator": term.learning_rate}
        rates["follower"] = losses_of.matching.learning_rate
        drawn, usual, beginning = None, None, 0  # of pairs: all, their weights, steps alone
        if regression is not None and pairs is not None:
            drawn = Pairs(*(each.to(setup.device) for each in pairs()))
            taken = evenly(config.batch, regression.share).float()
            usual = setup.share(taken / taken.mean()).to(setup.device)
            beginning = regression.alone
        if done == total:
            yield setup.step(done, {}, last=True)

        for number in range(done + 1, total + 1):
            progress = (number - 1) / total
            for name, optimizer in setup.optimizers.items():
                # As a GAN's: the student's loss moves with its opponents.
                schedule(optimizer, rates[name](progress), (0.0, 0.99))
            if adversarial is not None:
                adversarial.r1, adversarial.r2 = term.r1(progress), term.r2(progress)
            weight = 0.0 if regression is None else regression.weight(progress)
            losses_of.strength.steps = number - 1 - beginning
            only_pairs, losses = number <= beginning or len(models) == 1, {}
            for turn in range(rounds):
                x, label = next(stream)
                moves = turn == rounds - 1  # the student does
                if only_pairs and not moves:
                    continue
                working = {"student": setup.models["student"]} if only_pairs else setup.models
                updated = [name for name in working if moves or name != "student"]
                key = number, turn
                rng = partial(rng_for, seed, device=setup.device)
                place = int(torch.randint(len(levels), (), generator=rng_for(seed, "place", *key)))
                draws = Draws.of(setup, len(levels), x, rng("noise", *key))
                start, target, taken = None, None, usual
                if drawn is not None and taken is not None:
                    taken = torch.ones_like(taken) if only_pairs else taken
                    uniform = torch.rand(
                        config.batch, generator=rng("pairs", *key), device=setup.device
                    )
                    rows = drawn.rows(setup.share(uniform), label, student.classes)
                    start, target = (each[place][rows] for each in drawn)
                fixed = working, place, rng("penalty", *key, setup.rank), moves, weight
                parts = []
                for micro_batch in setup.micro_batches(
                    updated, x, label, start, target, taken, *draws
                ):
                    parts.append(setup.backward(losses_of(*fixed, *micro_batch)))
                losses |= setup.update(updated, parts, number)
            yield setup.step(number, losses, last=number == total)

    return steps()
