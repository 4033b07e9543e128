"""A small labelled GAN on the ring, and two processes that train everything once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture(scope="session")
def two_processes_folder(tmp_path_factory) -> Path:
    """What `workers/two_processes.py` left, started once for all tests."""
    folder = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*launch, Path(__file__).with_name("workers") / "two_processes.py", folder],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


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
