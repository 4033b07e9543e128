"""The command line of `experiments/gan.py` in this process, with networks that train in no time."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import datasets
import pytest
import torch

from hybridgen.cli import command
from hybridgen.evaluation.monitor import Monitor

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TINY = (
    *("--generator.architecture", "dcgan", "--generator.width", "8", "--generator.latent", "8"),
    *("--discriminator.architecture", "dcgan", "--discriminator.width", "8"),
    *("--training.batch", "16", "--training.steps", "6", "--save_every", "2", "--log_every", "2"),
    *("--sample_every", "3", "--threads", "1"),
)


class Answer(NamedTuple):
    """What a person gets to see."""

    status: int
    out: str
    err: str


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_experiment", EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def gan() -> ModuleType:
    return load("gan")


@pytest.fixture
def call(gan, capsys, monkeypatch, tmp_path_factory):
    """Run `gan.py` with these arguments after `TINY`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))

    def run(*argv: object) -> Answer:
        torch.manual_seed(len(argv))  # nothing may depend on what ran in this process before
        status = command(gan.main, gan.Gan, [*TINY, *map(str, argv)])
        return Answer(status, *capsys.readouterr())

    return run


@pytest.fixture
def blind(monkeypatch):
    """No evaluation, no pictures: both take longer than such a training and move no weight."""
    for name in ("figures", "finish"):
        monkeypatch.setattr(Monitor, name, lambda *_: {})
