"""The picture and the flat numbers of a comparison; what is known of the runs behind it."""

import json
import math

import pytest
import torch
import yaml
from comparisons import comparison, diffusion, estimate, gan, png, row
from PIL import Image

from hybridgen.errors import InputError
from hybridgen.evaluation.results import TrainingSummary
from hybridgen.evaluation.runs import SavedRun, thinned_curves, training_summary
from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator
from hybridgen.report.publish import flat, publish


@pytest.fixture
def measured():
    floored = {"frechet_distance": estimate(2.0, floor=0.5)}
    rows = (
        gan(figures=floored, seconds=1e-3, picture=png()),
        row("own", quality=math.inf),
        diffusion(10),
    )
    models = (TrainingSummary(name="m", command="c", facts={"steps": 7}),)
    return comparison(*rows, models=models, real_picture=png())


def test_flat_numbers_say_everything_by_name(measured):
    figures = flat(measured)
    expected = {
        "GAN/frechet_distance": 2.0,
        "GAN/frechet_distance_low": 1.0,
        "GAN/frechet_distance_high": 3.0,
        "floor_frechet_distance": 0.5,
        "GAN/generator_calls": 1,
        "diffusion, 10 calls/denoiser_calls": 10,
        "GAN/seconds": 1e-3,
        "GAN/flops": 2e6,
        "training/m/steps": 7,
        "own/frechet_distance": None,
    }
    assert {name: figures[name] for name in expected} == expected
    assert "own/denoiser_calls" not in figures
    json.dumps(figures, allow_nan=False)


def test_a_comparison_becomes_five_kinds_of_files(measured, tmp_path):
    publish(comparison(row("earlier"), real_picture=png()), tmp_path)
    assert (tmp_path / "samples" / "earlier.png").exists()
    publish(measured, tmp_path)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    pictures = {f"samples/{name}.png" for name in ("GAN", "own", "diffusion-10-calls", "real")}
    assert files == {"front.png", "report.html", "result.json", "table.md", *pictures}
    with Image.open(tmp_path / "front.png") as picture:
        assert picture.size == (1440, 960)


def test_distance_is_drawn_against_calls_that_differ(tmp_path):
    rows = [diffusion(n) for n in (4, 18)]
    publish(comparison(*rows), tmp_path)
    with Image.open(tmp_path / "calls.png") as picture:
        assert picture.size == (1440, 660)
    publish(comparison(rows[0]), tmp_path)
    assert not (tmp_path / "calls.png").exists()


def test_a_summary_tells_steps_images_and_parameters(tmp_path):
    generator, discriminator = (
        MlpGenerator(latent=2, width=8, depth=1),
        MlpDiscriminator(width=8, depth=1),
    )
    generator.save_pretrained(tmp_path / "generator")
    discriminator.save_pretrained(tmp_path / "discriminator")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"training": {"batch": 32}}))
    with pytest.raises(InputError, match="is not a finished run"):
        training_summary("gan", [SavedRun(tmp_path)], "python")
    (tmp_path / "result.json").write_text(json.dumps({"steps": 10, "seconds": 1.5}))
    lines = [{"step": step, "discriminator": step / 2, "images": 3} for step in range(1, 401)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    summary = training_summary("gan", [SavedRun(tmp_path)], "python x")
    assert summary.facts == {
        "steps": 10,
        "batch": 32,
        "images": 320,
        "seconds": 1.5,
        "generator_parameters": sum(p.numel() for p in generator.parameters()),
        "discriminator_parameters": sum(p.numel() for p in discriminator.parameters()),
    }
    steps, values = summary.curves["discriminator"]
    assert len(steps) == 100
    assert steps[0] == 2.5
    torch.testing.assert_close(torch.tensor(values), torch.tensor(steps) / 2)
    assert "images" not in summary.curves


def test_a_summary_of_several_runs_has_the_means_of_facts_that_all_have(tmp_path):
    for seed, result in enumerate(({"steps": 10, "seconds": 1.5}, {"steps": 20})):
        folder = tmp_path / f"seed{seed}"
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump({"training": {"batch": 2}}))
        (folder / "result.json").write_text(json.dumps(result))
    runs = [SavedRun(tmp_path / f"seed{seed}") for seed in range(2)]
    facts = training_summary("gan", runs, "python x").facts
    assert facts == {"trainings": 2, "steps": 15, "batch": 2, "images": 30}


def test_pictures_of_rows_that_are_gone_go_and_nothing_else(tmp_path):
    old, new, picture = row("old"), row("../../new"), png()
    publish(comparison(old, new, real_picture=picture), tmp_path / "a" / "b")
    samples = tmp_path / "a" / "b" / "samples"
    for name in ("holiday.png", "notes.txt"):
        (samples / name).write_text("mine")
    publish(comparison(new, real_picture=picture), tmp_path / "a" / "b")
    names = {path.name for path in samples.iterdir()}
    assert names == {"..-..-new.png", "real.png", "holiday.png", "notes.txt"}
    assert (samples / "holiday.png").read_text() == "mine"
    assert {path.name for path in tmp_path.rglob("*.png")} - names == {"front.png"}


def test_a_run_without_a_log_has_no_curves(tmp_path):
    assert thinned_curves(tmp_path / "log.jsonl") == {}
