"""The benchmark: it compares like with like, and says so in flat figures."""

import copy
import importlib.util
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
from hybridgen.errors import InputError
from hybridgen.maths.rng import rng_for
from hybridgen.networks.build import build_discriminator, build_generator
from hybridgen.training.gan import train_gan

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(EXPERIMENTS))  # as when it is run
    spec = importlib.util.spec_from_file_location("benchmark_script", EXPERIMENTS / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(EXPERIMENTS))
    del sys.modules[spec.name]


@pytest.mark.parametrize("name", ["digits", "ring"])
def test_the_loop_written_by_hand_and_ours_train_the_same_weights(script, name):
    gan = read_settings(script.Gan, ["--config", str(script.CONFIGS / f"{name}.yaml")])
    source, training = load_data(gan.data), script.steady(gan.training)
    batch, latent = training.batch, gan.generator.latent
    torch.manual_seed(0)
    generator, discriminator = (
        build_generator(gan.generator, source.shape),
        build_discriminator(gan.discriminator, source.shape),
    )
    others = copy.deepcopy((generator, discriminator))

    def batches(start=0):
        return source.batches(batch=batch, seed=3, start=start)

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
    *_, average = islice(script.plain_loop(*others, batches(), latents(), training), 5)

    pairs = [(step.average, average), (generator, others[0]), (discriminator, others[1])]
    for mine, plain in pairs:
        for a, b in zip(mine.state_dict().values(), plain.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    for old, new in zip(before, others, strict=True):
        for a, b in zip(old.parameters(), new.parameters(), strict=True):
            assert not torch.equal(a, b)


def test_a_small_run_leaves_flat_finite_figures_and_a_table(script, tmp_path, capsys):
    argv = ["--settings", "[digits,ring]", "--repeats", "2", "--turn", "1e-6", "--samples", "4"]
    assert command(script.main, script.Benchmark, [*argv, "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert all(math.isfinite(value) and value > 0 for value in result.values())
    for name in ("digits", "ring"):
        for what in ("loop_overhead", "r1_r2_cost", "finite_difference_cost"):
            low, high = (result[f"{what}_{name}_{end}"] for end in ("low", "high"))
            assert low <= result[f"{what}_{name}"] <= high
    assert "sampling_images_per_second_digits" in result
    assert "sampling_points_per_second_ring" in result
    table = (tmp_path / "run" / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert "| loop_overhead_digits |" in table
    assert "_low" not in table


def test_penalties_take_time_and_the_contestants_start_alike(script):
    gan = read_settings(script.Gan, ["--config", str(script.CONFIGS / "ring.yaml")])
    loops = script.contestants(gan, load_data(gan.data), Accelerator(cpu=True), 0)
    parts = {name: next(loops[name]).losses for name in loops if name != "plain"}
    assert {"r1", "r2"} <= parts["ours"].keys() & parts["finite_difference"].keys()
    assert not {"r1", "r2"} & parts["unpenalised"].keys()
    assert parts["ours"]["adversarial"] == pytest.approx(
        parts["unpenalised"]["adversarial"], rel=1e-6
    )


@pytest.mark.parametrize(
    "wrong",
    [{"repeats": 0}, {"turn": 0.0}, {"turn": math.nan}, {"threads": 0}, {"settings": ("no",)}],
)
def test_settings_out_of_range_are_refused(script, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        script.Benchmark(**wrong)
