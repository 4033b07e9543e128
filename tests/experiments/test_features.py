import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from hybridgen.data.images import digits
from hybridgen.data.load import DataSettings
from hybridgen.errors import InputError
from hybridgen.metrics.features import LeNet, extract

SCRIPT = Path(__file__).parents[2] / "experiments" / "features.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("features_experiment", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_jitter_of_nothing_is_the_image_and_a_shift_moves_it(script):
    x = torch.rand(6, 1, 8, 8) * 2 - 1
    still = script.FeatureTraining(shift=0.0, angle=0.0, scale=0.0)
    torch.testing.assert_close(script.jitter(x, still, torch.Generator()), x)
    square = torch.full((200, 1, 8, 8), -1.0)
    square[:, :, 3:5, 3:5] = 1.0
    moving = script.FeatureTraining(shift=0.125, angle=0.0, scale=0.0)
    mass = script.jitter(square, moving, torch.Generator().manual_seed(0)) + 1
    where = (mass.sum(dim=2)[:, 0] * torch.arange(8.0)).sum(dim=1) / mass.sum(dim=(1, 2, 3))
    assert 0.9 < (where - 3.5).abs().max() <= 1.001


def test_a_short_training_leaves_a_network_and_its_accuracy(script, tmp_path):
    settings = script.FeatureExperiment(
        training=script.FeatureTraining(steps=80, batch=32), out=tmp_path / "run", log_every=20
    )
    script.main(settings)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    network = LeNet.from_pretrained(tmp_path / "run" / "network", low_cpu_mem_usage=False).eval()
    x, label = digits().reference("held_out", 297)
    assert result["accuracy"] == pytest.approx((extract(network, x)[1] == label).double().mean())
    assert result["accuracy"] > 0.6
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [20, 40, 60, 80]
    assert log[-1]["loss"] < log[0]["loss"]


def test_points_and_settings_out_of_range_are_refused(script, tmp_path):
    with pytest.raises(InputError, match="image shapes"):
        script.main(script.FeatureExperiment(data=DataSettings(path="ring"), out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"steps must be a whole number in .* got 0"):
        script.FeatureTraining(steps=0)
