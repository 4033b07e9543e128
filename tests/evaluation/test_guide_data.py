"""What a guide learns from: samples of one model, with labels as frequent as the data's."""

from types import SimpleNamespace

import pytest
import torch

from hybridgen.data.images import ImageSource
from hybridgen.data.load import DataSettings, load_data
from hybridgen.data.source import Shard
from hybridgen.errors import InputError
from hybridgen.evaluation.guide import SampledModel
from hybridgen.evaluation.guide_data import GuideData
from hybridgen.networks.build import DenoiserSettings, build_denoiser
from hybridgen.sampling.build import SamplerSettings


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
