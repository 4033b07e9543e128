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


def test_a_second_signal_while_a_queue_is_given_up_leaves_no_process(seeds, tmp_path, monkeypatch):
    stopped = []

    class Interrupted(seeds.ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=wait, cancel_futures=cancel_futures)
            if not wait:
                raise KeyboardInterrupt

    def run(job, out, children):
        raise seeds.RunError("the power is cut")

    monkeypatch.setattr(seeds, "ThreadPoolExecutor", Interrupted)
    monkeypatch.setattr(seeds.Children, "stop", lambda self: stopped.append(self))
    jobs = [seeds.Job(name="seed0", script="gan", arguments=())]
    with pytest.raises(KeyboardInterrupt):
        seeds.run_all(jobs, tmp_path, 1, run)
    assert len(stopped) == 1
