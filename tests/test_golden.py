"""Golden figures: short trainings, a guide, a comparison and metrics stay what they were.

`golden.json` holds what each of them gave. Other processors round differently, so figures are
compared with a tolerance; with `HYBRIDGEN_GOLDEN=exact` weights are compared bit for bit, and with
`HYBRIDGEN_GOLDEN=write` they are recorded anew. A change that moves one says which and why.
"""

import hashlib
import json
import os
import runpy
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hybridgen.data.images import digits
from hybridgen.metrics.distances import frechet_distance, kernel_distance
from hybridgen.metrics.neighbours import prdc

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).with_name("golden.json")
MODE = os.environ.get("HYBRIDGEN_GOLDEN", "close")
SHORT = (
    *("--training.steps", "50", "--eval_samples", "200", "--eval_every", "50", "--threads", "1"),
    *("--save_every", "50", "--sample_every", "50", "--log_every", "25"),
)
GUIDE = (
    *("--training.steps", "60", "--training.batch", "64", "--training.check_every", "20"),
    *(
        "--num_samples",
        "400",
        "--sampler.steps",
        "6",
        "--scale_samples",
        "100",
        "--final_samples",
        "200",
    ),
    *("--scales", "[0.0, 1.0]", "--training.objective", "cross_entropy", "--threads", "1"),
)
ROWS = [
    {"name": "GAN", "model": "gan"},
    {
        "name": "refined",
        "model": "gan",
        "discriminator": "gan-discriminator",
        "rounds": [1],
        "baseline": "GAN",
    },
    {"name": "diffusion", "model": "diffusion", "calls": [6]},
    {"name": "guided", "model": "diffusion", "guide": "guide", "scales": [1.0], "calls": [6]},
]
NOT_COMPARED = ("seconds", "bytes", "images", "training/", "_low", "_high", "model")


def run(script, *arguments):
    """A command of `experiments/` in this process, whatever its functions are called."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        patch.syspath_prepend(ROOT / "experiments")
        runpy.run_path(str(ROOT / "experiments" / f"{script}.py"), run_name="__main__")
    assert end.value.code == 0


def weights(folder):
    """What there is to compare of a saved network: the norm of every tensor, and a hash."""
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    content = hashlib.sha256()
    for name in sorted(tensors):
        content.update(tensors[name].numpy().tobytes())
    norms = sorted(float(tensor.double().norm()) for tensor in tensors.values())
    return {"sha256": content.hexdigest(), "norms": norms}


def numbers(figures):
    """Those that are no time and no memory, flat; an interval's ends come from the same draws."""
    flat = {}
    for name, value in figures.items():
        nested = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(nested, dict):
            flat |= {f"{name}.{key}": each for key, each in numbers(nested).items()}
        elif not any(part in str(name) for part in NOT_COMPARED):
            flat[str(name)] = value
    return flat


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """All short runs, in the order in which they need each other."""
    home = tmp_path_factory.mktemp("golden")
    configs = ROOT / "configs"
    run("gan", *SHORT, "--out", home / "gan-digits")
    run("gan", "--config", configs / "gan/ring.yaml", *SHORT, "--out", home / "gan-ring")
    run("diffusion", "--config", configs / "diffusion/ring.yaml", *SHORT, "--out", home / "ring")
    few = ("--sampler.steps", "4", "--eval_samples", "100", "--final_samples", "100")
    run("diffusion", *SHORT, *few, "--out", home / "digits")
    hybrid = (*SHORT, "--adversarial.warm_up", "10", "--adversarial.ramp", "10")
    run("hybrid", "--config", configs / "hybrid/ring.yaml", *hybrid, "--out", home / "hybrid-ring")
    guide = ("--config", configs / "guide/ring.yaml", *GUIDE)
    run("guide", *guide, "--run", home / "ring", "--out", home / "guide")
    guide = ("--config", configs / "guide/gan-ring.yaml", *GUIDE)
    run("guide", *guide, "--run", home / "gan-ring", "--out", home / "gan-discriminator")
    runs = {
        "gan": "gan-ring",
        "gan-discriminator": "gan-discriminator",
        "diffusion": "ring",
        "guide": "guide",
    }
    run(
        "compare",
        *("--runs", json.dumps({name: str(home / folder) for name, folder in runs.items()})),
        *("--methods", json.dumps(ROWS), "--samples", "400", "--subsets", "8"),
        *("--timing_batch", "16", "--timing_rounds", "3", "--threads", "1"),
        *("--out", home / "comparison"),
    )
    return home


@pytest.fixture(scope="module")
def golden(home):
    """What is recorded, after writing it if that is asked for."""
    if MODE == "write":
        GOLDEN.write_text(json.dumps(measured(home), indent=1) + "\n")
    return json.loads(GOLDEN.read_text())


def measured(home):
    networks = {
        "gan-digits/generator": home / "gan-digits" / "generator",
        "gan-digits/discriminator": home / "gan-digits" / "discriminator",
        "gan-ring/generator": home / "gan-ring" / "generator",
        "diffusion-digits/denoiser": home / "digits" / "denoiser",
        "diffusion-ring/denoiser": home / "ring" / "denoiser",
        "hybrid-ring/denoiser": home / "hybrid-ring" / "denoiser",
        "hybrid-ring/discriminator": home / "hybrid-ring" / "discriminator",
        "guide": home / "guide" / "discriminator",
    }
    guide = json.loads((home / "guide" / "guide.json").read_text())
    comparison = json.loads((home / "comparison" / "result.json").read_text())
    training = json.loads((home / "gan-digits" / "result.json").read_text())
    return {
        "weights": {name: weights(folder) for name, folder in networks.items()},
        "guide": numbers(guide),
        "comparison": numbers(comparison),
        "training": numbers(training),
        "metrics": fixed_pair(),
    }


def fixed_pair():
    """Metrics of the first 300 digits against the next 300."""
    x = digits().reference("train", 600, 0)[0].flatten(1)
    real, fake = x[:300].double(), x[300:].double()
    return {
        "frechet_distance": frechet_distance(real, fake),
        "kid": float(kernel_distance(real, fake)),
        **{name: float(value) for name, value in prdc(real, fake, neighbours=5).items()},
    }


@pytest.mark.parametrize("part", ["guide", "comparison", "training", "metrics"])
def test_figures_are_what_they_were(golden, home, part):
    figures = measured(home)[part]
    assert figures.keys() == golden[part].keys()
    for name, value in figures.items():
        if MODE == "exact" or not isinstance(value, float):
            assert value == golden[part][name], name
        else:  # shares of few samples jump by one of them
            assert value == pytest.approx(golden[part][name], rel=0.15, abs=2e-2), name


def test_weights_are_what_they_were(golden, home):
    for name, network in measured(home)["weights"].items():
        if MODE == "exact":
            assert network["sha256"] == golden["weights"][name]["sha256"], name
        assert network["norms"] == pytest.approx(
            golden["weights"][name]["norms"], rel=1e-2, abs=1e-2
        ), name
