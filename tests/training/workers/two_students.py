"""A small labelled student that all three signals pull at, for one of two processes."""

import copy

import torch
from training.workers.two_diffusions import SOURCE

from hybridgen.data.source import Shard
from hybridgen.networks.denoisers import PointDenoiser
from hybridgen.networks.mlp import MlpDiscriminator
from hybridgen.training.distill import train_student
from hybridgen.training.distill_loss import Pairs
from hybridgen.training.settings import Cosine, DistillTraining
from hybridgen.training.setup import build_adversarial
from hybridgen.training.terms import Matching, Regression, StudentTerm

LEVELS = (20.0, 1.0)
SIGNALS = ("adversarial", "matching", "regression")
PENALTIES = {"r1": Cosine(start=0.3, end=0.1), "r2": Cosine(start=0.2)}
CONFIG = {"steps": 4, "batch": 16, "rounds": 2}


def term_of(**changes):
    return StudentTerm(**{"weight": 0.5, "ramp": 2, **PENALTIES, **changes})


def regression_of(**changes):
    return Regression(**{"weight": Cosine(start=3.0, end=1.0), "pairs": 40, **changes})


def players(term=None, *, classes=SOURCE.classes):
    """A student, its teacher and a game, the same at every call."""
    torch.manual_seed(0)
    teacher = PointDenoiser(width=16, depth=2, frequencies=4, classes=classes)
    discriminator = MlpDiscriminator(width=16, depth=2, classes=classes, noise_conditional=True)
    game = build_adversarial(discriminator, term or term_of())
    return copy.deepcopy(teacher), teacher, game


def pairs(count=40):
    """Inputs at each of three levels and samples of nobody's."""
    rng = torch.Generator().manual_seed(7)
    return Pairs(*torch.randn(2, 3, count, 2, generator=rng, dtype=torch.float64))


def config_of(**changes):
    return DistillTraining(**{**CONFIG, **changes})


def steps_of(
    accelerator,
    *,
    made=None,
    config=None,
    signals=SIGNALS,
    term=None,
    matching=None,
    regression=None,
    drawn=pairs,
    levels=LEVELS,
    source=SOURCE,
    **more,
):
    """Train small players, an iterator of steps."""
    config, term = config or config_of(), term or term_of()
    student, teacher, game = made or players(term)
    share = {"rank": accelerator.process_index, "world": accelerator.num_processes}

    def batches(start):
        for x, label in source.batches(Shard(batch=config.batch, seed=5, start=start, **share)):
            yield x.to(torch.get_default_dtype()), label

    pulls = {}
    if "adversarial" in signals:
        pulls |= {"adversarial": game, "term": term}
    if "matching" in signals:
        pulls |= {"matching": matching or Matching()}
    if "regression" in signals:
        pulls |= {"regression": regression or regression_of(), "pairs": drawn}
    options = {"levels": levels, "data_std": 1.0, "seed": 7}
    return train_student(
        student, teacher, batches, config, accelerator, **{**options, **pulls, **more}
    )


def student_outcome(accelerator, *, accumulation=1, adaptive=False):
    """Every gradient and weight after each step, the average, and the losses, by name.

    The share of pairs is one that no part of a batch holds evenly.
    """
    term, tensors = term_of(adaptive=adaptive), {}
    made = student, _, game = players(term)
    config = config_of(accumulation=accumulation, check_ranks=True)
    options = {"config": config, "term": term, "regression": regression_of(share=0.2)}
    for step in steps_of(accelerator, made=made, **options):
        trained = {"student": student, "discriminator": game, "follower": step.state["follower"]}
        for name, player in trained.items():
            for key, p in player.named_parameters():
                tensors[f"{step.number}.{name}.{key}"] = p.detach().clone()
                tensors[f"{step.number}.{name}.{key}.grad"] = p.grad.clone()
        for key, p in step.average.named_parameters():
            tensors[f"{step.number}.average.{key}"] = p.detach().clone()
        for key, loss in step.losses.items():
            tensors[f"{step.number}.{key}"] = torch.tensor(loss)
    return tensors
