"""A small labelled GAN on the ring."""

from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator

from hybridgen import AdversarialLoss
from hybridgen.data.points import MixturePoints
from hybridgen.data.source import Shard
from hybridgen.maths.mixtures import ring
from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator
from hybridgen.training.gan import GanTraining, train_gan
from hybridgen.training.settings import Cosine

SOURCE = MixturePoints(mixture=ring().standardised(), name="ring", labelled=True)


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
        discriminator: torch.nn.Module | None = None, **game
    ) -> tuple[torch.nn.Module, AdversarialLoss]:
        torch.manual_seed(0)
        generator = MlpGenerator(latent=3, width=16, depth=2, classes=SOURCE.classes)
        discriminator = discriminator or MlpDiscriminator(width=16, depth=2, classes=SOURCE.classes)
        return generator, AdversarialLoss(discriminator, r1=0.3, r2=0.2, **game)

    return make


@pytest.fixture
def double() -> Iterator[None]:
    """Sums in another order then agree to 1e-12, where Adam would blow up float32's rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def train(players):
    """Train `players()` on the ring: an iterator of steps."""

    def start(
        config: GanTraining,
        made=None,
        *,
        noise=None,
        resume=None,
        accelerator=None,
        source=SOURCE,
    ):
        def batches(first):
            for x, label in source.batches(Shard(batch=config.batch, seed=5, start=first)):
                yield x.to(torch.get_default_dtype()), label

        return train_gan(
            *(made or players()),
            batches,
            config,
            accelerator or Accelerator(cpu=True),
            latent=3,
            noise=noise,
            seed=5,
            resume=resume,
        )

    return start
