"""The benchmarks: they compare like with like, and say so in flat figures."""

import builtins
import copy
import importlib
import json
import math
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from hybridgen import AdversarialLoss
from hybridgen.cli import command, read_settings
from hybridgen.data.load import load_data
from hybridgen.data.source import Shard
from hybridgen.errors import InputError
from hybridgen.maths.rng import rng_for
from hybridgen.networks.build import build_discriminator, build_generator
from hybridgen.training.gan import train_gan

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(EXPERIMENTS))  # as when it is run, and for a process of its own
    yield importlib.import_module("benchmark")
    sys.path.remove(str(EXPERIMENTS))
    del sys.modules["benchmark"]


@pytest.fixture(scope="module")
def figures(script):
    yield importlib.import_module("benchmark_figures")
    del sys.modules["benchmark_figures"]


@pytest.mark.parametrize("name", ["digits", "ring"])
def test_the_loop_written_by_hand_and_ours_train_the_same_weights(figures, name):
    gan = read_settings(figures.Gan, ["--config", str(figures.CONFIGS / "gan" / f"{name}.yaml")])
    source, training = load_data(gan.data), figures.steady(gan.training)
    batch, latent = training.batch, gan.generator.latent
    torch.manual_seed(0)
    generator, discriminator = (
        build_generator(gan.generator, source.shape),
        build_discriminator(gan.discriminator, source.shape),
    )
    others = copy.deepcopy((generator, discriminator))

    def batches(start=0):
        return source.batches(Shard(batch=batch, seed=3, start=start))

    def latents():  # as train_gan draws them
        for number in range(1, 10):
            draws = rng_for(3, "latents", number)
            yield from (torch.randn(batch, latent, generator=draws) for _ in "cg")

    adversarial = AdversarialLoss(discriminator, r1=training.r1.start, r2=training.r2.start)
    ours = train_gan(
        generator, adversarial, batches, training, Accelerator(cpu=True), latent=latent, seed=3
    )
    step = list(islice(ours, 5))[-1]
    before = copy.deepcopy(others)
    *_, average = islice(figures.plain_loop(*others, batches(), latents(), training), 5)

    pairs = [(step.average, average), (generator, others[0]), (discriminator, others[1])]
    for trained, plain in pairs:
        for a, b in zip(trained.state_dict().values(), plain.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    for old, new in zip(before, others, strict=True):
        for a, b in zip(old.parameters(), new.parameters(), strict=True):
            assert not torch.equal(a, b)


def test_a_small_run_leaves_flat_finite_figures_and_a_table(script, figures, tmp_path, capsys):
    argv = ["--settings", "[digits,ring]", "--repeats", "2", "--turn", "1e-6", "--samples", "4"]
    assert command(script.main, script.Benchmark, [*argv, "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert all(math.isfinite(value) and value > 0 for value in result.values())
    for name in ("digits", "ring"):
        for what in figures.RATIOS["gan"]:
            low, high = (result[f"{what}_{name}_{end}"] for end in ("low", "high"))
            assert low <= result[f"{what}_{name}"] <= high
    assert "sampling_images_per_second_digits" in result
    assert "sampling_points_per_second_ring" in result
    table = (tmp_path / "run" / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert "| loop_overhead_digits |" in table
    assert "_low" not in table


def test_penalties_take_time_and_the_contestants_start_alike(script, figures):
    gan = read_settings(figures.Gan, ["--config", str(figures.CONFIGS / "gan" / "ring.yaml")])
    size = script.Benchmark().size
    loops, _ = figures.gan_tasks(gan, load_data(gan.data), Accelerator(cpu=True), size)
    parts = {name: next(loops[name]).losses for name in loops if name != "plain"}
    assert {"r1", "r2"} <= parts["ours"].keys() & parts["finite_difference"].keys()
    assert not {"r1", "r2"} & parts["unpenalised"].keys()
    assert parts["ours"]["adversarial"] == pytest.approx(
        parts["unpenalised"]["adversarial"], rel=1e-6
    )


def test_a_small_run_of_the_hybrid_leaves_ratios_with_intervals(script, tmp_path, capsys):
    argv = ["--what", "hybrid", "--settings", "[ring]", "--repeats", "2", "--turn", "1e-6"]
    argv += ["--samples", "4", "--out", str(tmp_path / "run")]
    assert command(script.main, script.Benchmark, argv) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    for name in ("step_chain_ring", "step_renoised_ring", "step_clean_ring", "discriminator_ring"):
        assert result[f"{name}_low"] <= result[name] <= result[f"{name}_high"]
    assert "| step_chain_ring |" in capsys.readouterr().out


def test_a_small_run_of_the_metrics_leaves_flat_finite_figures_and_a_table(
    script, tmp_path, capsys
):
    argv = ["--what", "metrics", "--samples", "300", "--repeats", "2", "--images", "100"]
    argv += ["--out", str(tmp_path / "run")]
    assert command(script.main, script.Benchmark, argv) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert all(math.isfinite(value) and value >= 0 for value in result.values())
    low, high = result["prdc_time_ratio_low"], result["prdc_time_ratio_high"]
    assert low <= result["prdc_time_ratio"] <= high
    assert result["prdc_difference"] < 1e-5
    assert 0.1 < result["peak_gigabytes"] < 6
    table = (tmp_path / "run" / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert "| prdc_time_ratio |" in table
    assert "| 0.65 |" in table
    assert "_low" not in table


def test_without_the_package_it_says_what_to_install(script, tmp_path, capsys, monkeypatch):
    real_import = builtins.__import__

    def no_prdc(name, *args, **kwargs):
        if name == "prdc":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_prdc)
    argv = ["--what", "metrics", "--images", "0", "--out", str(tmp_path / "run")]
    assert command(script.main, script.Benchmark, argv) != 0
    assert "pip install -c constraints.txt prdc" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        *({"repeats": 0}, {"turn": 0.0}, {"turn": math.nan}, {"threads": 0}, {"settings": ("no",)}),
        *({"samples": 5, "what": "metrics"}, {"images": -1}),
    ],
)
def test_settings_out_of_range_are_refused(script, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        script.Benchmark(**wrong)


def test_a_ratio_of_medians_ignores_what_slows_both_for_a_while(figures):
    under = [1.0] * 30 + [9.0] * 10
    over = [2 * seconds for seconds in under]
    assert figures.ratio("x", over, under) == {"x": 2, "x_low": 2, "x_high": 2}


def test_a_ratio_of_one_round_has_no_width(figures):
    assert set(figures.ratio("x", [3.0], [2.0]).values()) == {1.5}


def test_the_interval_holds_the_ratio_and_narrows_with_more_rounds(figures):
    draws = torch.Generator().manual_seed(0)

    def interval(rounds):
        over, under = (1 + 0.1 * torch.randn(2, rounds, generator=draws)).tolist()
        value, low, high = figures.ratio("x", over, under).values()
        assert low < value < high
        return low, high

    (low, high), (closer_low, closer_high) = interval(20), interval(2_000)
    assert closer_low < 1.005
    assert closer_high > 0.995
    assert closer_high - closer_low < (high - low) / 4


@pytest.mark.parametrize(("over", "under"), [([], []), ([1.0], [1.0, 2.0])])
def test_times_of_other_rounds_are_refused(figures, over, under):
    with pytest.raises(ValueError, match="the same rounds"):
        figures.ratio("x", over, under)
