"""Evaluators of points and of digits, and samples of graded quality."""

import pytest
import torch

from hybridgen.data.images import digits
from hybridgen.data.points import MixturePoints
from hybridgen.evaluation.evaluator import build_evaluator
from hybridgen.maths.mixtures import ring
from hybridgen.maths.rng import rng_for

RING = ring().standardised()


@pytest.fixture(scope="module")
def on_ring():
    return build_evaluator(MixturePoints(mixture=RING, name="ring"), samples=500)


@pytest.fixture(scope="module")
def on_digits():
    return build_evaluator(digits(), samples=300)


def noisy_digits(noise, count, seed):
    """Training digits with noise on every pixel."""
    generator, (pool, _) = rng_for("noisy", seed), digits().reference("train", 1_500)
    x = pool[torch.randint(len(pool), (count,), generator=generator)]
    return x + noise * torch.randn(x.shape, generator=generator)
