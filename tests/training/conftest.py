"""A small labelled GAN on the ring, and an Accelerator that starts afresh in every test."""

from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from hybridgen import AdversarialLoss
from hybridgen.data.points import MixturePoints
from hybridgen.maths.mixtures import ring
from hybridgen.networks.mlp import MlpCritic, MlpGenerator
from hybridgen.training.gan import GanTraining, train_gan
from hybridgen.training.schedules import Cosine

SOURCE = MixturePoints(mixture=ring().standardised(), name="ring", labelled=True)


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps what it was first started with for the life of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def training():
    """Settings of a short training; a test names what it is about."""

    def make(**changes) -> GanTraining:
        short = {"steps": 4, "batch": 16, "r1": Cosine(start=0.3), "r2": Cosine(start=0.2)}
        return GanTraining(**{**short, **changes})

    return make


@pytest.fixture
def players():
    """A generator and an adversarial loss, the same at every call."""

    def make(
        critic: torch.nn.Module | None = None, **game
    ) -> tuple[torch.nn.Module, AdversarialLoss]:
        torch.manual_seed(0)
        generator = MlpGenerator(latent=3, width=16, depth=2, classes=SOURCE.classes)
        critic = critic or MlpCritic(width=16, depth=2, classes=SOURCE.classes)
        return generator, AdversarialLoss(critic, r1=0.3, r2=0.2, **game)

    return make


@pytest.fixture
def train(players):
    """Train `players()` on the ring: an iterator of steps."""

    def start(config: GanTraining, made=None, *, resume=None, accelerator=None, source=SOURCE):
        generator, adversarial = made or players()
        return train_gan(
            generator,
            adversarial,
            lambda first: source.batches(batch=config.batch, seed=5, start=first),
            config,
            accelerator or Accelerator(cpu=True),
            latent=3,
            seed=5,
            resume=resume,
        )

    return start
