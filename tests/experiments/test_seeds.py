"""The table over seeds."""

import importlib.util
import math
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "seeds.py"


@pytest.fixture(scope="module")
def seeds():
    spec = importlib.util.spec_from_file_location("seeds", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mean_and_standard_error_are_those_of_the_seeds(seeds):
    figures, text = seeds.summary([{"x": 1.0, "floor_x": 0.5}, {"x": 3.0, "floor_x": 0.5}])
    assert figures["x"] == 2
    assert figures["x_se"] == pytest.approx(math.sqrt(2) / math.sqrt(2))
    assert "| x | 2 | 1 | 1 | 3 | 0.5 |" in text


def test_one_infinite_seed_makes_the_mean_infinite_and_not_flattering(seeds):
    figures, text = seeds.summary([{"kl": None}, {"kl": 0.002}])
    assert figures["kl"] is None
    assert "| kl | infinite | infinite | 0.002 | infinite |" in text
