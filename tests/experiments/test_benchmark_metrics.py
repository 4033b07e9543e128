"""The benchmark of the metrics: both packages on the same features, and memory of its own."""

import builtins
import importlib
import json
import math
import sys
from pathlib import Path

import pytest

from hybridgen.cli import command
from hybridgen.errors import InputError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(EXPERIMENTS))  # as when it is run, and for its own process
    yield importlib.import_module("benchmark_metrics")
    sys.path.remove(str(EXPERIMENTS))
    del sys.modules["benchmark_metrics"]


def test_a_small_run_leaves_flat_finite_figures_and_a_table(script, tmp_path, capsys):
    argv = ["--samples", "300", "--repeats", "2", "--images", "100"]
    argv += ["--out", str(tmp_path / "run")]
    assert command(script.main, script.BenchmarkMetrics, argv) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert all(math.isfinite(value) and value >= 0 for value in result.values())
    low, high = result["prdc_time_ratio_low"], result["prdc_time_ratio_high"]
    assert low <= result["prdc_time_ratio"] <= high
    assert result["prdc_difference"] < 1e-5
    assert 0.1 < result["peak_gigabytes"] < 6
    table = (tmp_path / "run" / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert "| prdc_time_ratio |" in table
    assert "| 0.2 |" in table
    assert "_low" not in table


def test_without_the_package_it_says_what_to_install(script, tmp_path, capsys, monkeypatch):
    real_import = builtins.__import__

    def no_prdc(name, *args, **kwargs):
        if name == "prdc":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_prdc)
    argv = ["--images", "0", "--out", str(tmp_path / "run")]
    assert command(script.main, script.BenchmarkMetrics, argv) != 0
    assert "pip install -c constraints.txt prdc" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"samples": 5}, {"images": -1}, {"threads": 0}])
def test_settings_out_of_range_are_refused(script, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        script.BenchmarkMetrics(**wrong)
