"""What a guide learns from: samples of one model, with labels as frequent as the data's."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from hybridgen.data.images import ImageSource
from hybridgen.data.load import DataSettings, load_data
from hybridgen.data.source import Shard
from hybridgen.errors import InputError
from hybridgen.evaluation.guide import SampledModel
from hybridgen.evaluation.guide_data import GuideData, draw_pairs
from hybridgen.maths.noise import karras_sigmas
from hybridgen.networks.build import DenoiserSettings, build_denoiser
from hybridgen.sampling.build import SamplerSettings
from hybridgen.sampling.settings import StudentSettings


@pytest.fixture
def run():
    return SimpleNamespace(say=lambda sentence: None, lead=lambda action: action())


def model(source, fingerprint="first"):
    torch.manual_seed(0)
    denoiser = build_denoiser(
        DenoiserSettings(widths=(8,), width=8, depth=1), source.shape, source.classes
    )
    settings = SamplerSettings(name="heun", steps=2)
    return SampledModel(source=source, network=denoiser, settings=settings, fingerprint=fingerprint)


def drawn(model, count, path, run):
    """Half of so many samples for validation, the others in one batch."""
    shard = Shard(batch=count // 2, seed=0)
    data = GuideData(model.source, count=count, part=0.5, shard=shard)
    data.draw(model, path, run)
    return data


def test_samples_have_labels_as_frequent_as_the_datas(run, tmp_path):
    images = torch.zeros(100, 1, 8, 8, dtype=torch.uint8)
    labels = (torch.arange(100) >= 90).long()
    source = ImageSource(
        name="rare",
        train=images,
        held_out=images,
        train_labels=labels,
        held_out_labels=labels,
        classes=2,
    )
    data = drawn(model(source), 200, tmp_path / "generated.safetensors", run)
    _, label = next(data.fake_batches(0))  # all that are not for validation, a hundred
    assert label.float().mean() == pytest.approx(0.1)


def test_samples_are_drawn_once_and_belong_to_one_model(run, tmp_path):
    path = tmp_path / "generated.safetensors"
    ring = load_data(DataSettings(path="ring"))
    x, label = next(drawn(model(ring), 10, path, run).fake_batches(0))
    assert label is None and len(x) == 5
    assert torch.equal(next(drawn(model(ring), 10, path, run).fake_batches(0))[0], x)
    with pytest.raises(InputError, match="samples of another model: choose another --out"):
        drawn(model(ring, "second"), 10, path, run)


class Gaussian(torch.nn.Module):
    """The exact denoiser of data `N(0, .5^2)`."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, sigma, label=None):
        return 0.25 * x / (0.25 + sigma[:, None] ** 2)


@pytest.mark.parametrize(("name", "error"), [("heun", 3e-3), ("edm_dpmpp", 1e-2)])
def test_pairs_are_the_students_path_with_the_models_own_samples_as_estimates(
    run, tmp_path, name, error
):
    """The flow of a Gaussian from level s to 0 is a factor, `(v / (v + s^2))^(1/2)`."""
    student = StudentSettings(calls=3, low=0.1, high=20.0)
    settings = SamplerSettings(name=name, steps=120)
    source = load_data(DataSettings(path="ring"))
    model = SampledModel(source=source, network=Gaussian(), settings=settings, fingerprint="exact")
    path = tmp_path / "pairs.safetensors"
    start, sample = draw_pairs(model, 4_000, student, path, run)
    assert start.shape == sample.shape == (3, 4_000, 2)
    assert start[0].std() == pytest.approx(20, rel=0.03)
    for i, level in enumerate(student.levels):
        exact = math.sqrt(0.25 / (0.25 + level**2)) * start[i]
        torch.testing.assert_close(sample[i], exact, rtol=0, atol=error)
    noise = []
    for i, level in enumerate(student.levels[1:], 1):
        added = math.sqrt(level**2 - 0.1**2)  # an estimate counts as a sample at the lowest level
        noise.append((start[i] - sample[i - 1]) / added)
        assert noise[-1].std() == pytest.approx(1, rel=0.03)
        assert float((noise[-1] * sample[i - 1]).mean()) == pytest.approx(0, abs=0.03)
    assert not torch.equal(*noise)
    again = draw_pairs(model, 4_000, student, path, run)
    assert all(torch.equal(a, b) for a, b in zip(again, (start, sample), strict=True))
    with pytest.raises(InputError, match="samples of another model"):
        draw_pairs(replace(model, fingerprint="second"), 4_000, student, path, run)


def test_a_sampler_that_begins_lower_has_steps_as_dense():
    settings = SamplerSettings(name="edm_dpmpp", steps=12)
    assert settings.beginning_at(80) == settings
    grid = karras_sigmas(12, 0.002, 80.0, 7.0)
    for i in range(10):
        begun = settings.beginning_at(float(grid[i]))
        rest = karras_sigmas(begun.steps, begun.low, begun.high, begun.rho)
        torch.testing.assert_close(rest, grid[i:])
    assert settings.beginning_at(0.0021).steps == 2
    with pytest.raises(InputError, match="low must be below high"):
        settings.beginning_at(0.002)
