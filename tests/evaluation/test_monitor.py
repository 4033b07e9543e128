"""What a person is shown of a run, also of one that went badly."""

import math
import os

import pytest
import torch
from PIL import EpsImagePlugin, Image

from hybridgen.data.images import digits
from hybridgen.data.points import MixturePoints
from hybridgen.evaluation.monitor import Monitor, table
from hybridgen.maths.mixtures import ring
from hybridgen.networks.dcgan import DcganGenerator
from hybridgen.networks.mlp import MlpGenerator
from hybridgen.sampling.samplers import SinglePass

ROWS = [{"step": 1, "discriminator": 0.7}, {"step": 2, "discriminator": 0.6}]


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return DcganGenerator(latent=4, resolution=8, width=8).eval()


@pytest.fixture
def monitor(tmp_path):
    return Monitor(tmp_path, digits(), sampler=lambda g: SinglePass(g, (4,)), seed=0)


def test_a_preview_shows_the_same_latents_every_time(monitor, generator):
    one, two = monitor.preview(generator, 1), monitor.preview(generator, 2)
    assert one.read_bytes() == two.read_bytes()
    assert one.name == "step-00000001.png"


def test_the_end_is_a_grid_an_animation_of_all_previews_and_curves(monitor, generator):
    for step in (1, 2, 3):
        generator.out.bias.data.add_(0.3)
        monitor.preview(generator, step)
    monitor.finish(generator, ROWS)
    assert Image.open(monitor.folder / "samples.webp").n_frames == 3
    assert (monitor.folder / "samples.png").exists()
    assert (monitor.folder / "curves.png").exists()


def test_a_preview_cut_short_is_left_out_of_the_animation(monitor, generator):
    path = monitor.preview(generator, 1)
    generator.out.bias.data.add_(0.3)
    monitor.preview(generator, 2)
    generator.out.bias.data.add_(0.3)
    monitor.preview(generator, 3)
    path.write_bytes(path.read_bytes()[:100])
    monitor.finish(generator, ROWS)
    assert Image.open(monitor.folder / "samples.webp").n_frames == 2


def test_what_is_no_picture_of_ours_is_not_opened(monitor, generator, monkeypatch):
    monitor.preview(generator, 1)
    os.mkfifo(monitor.folder / "samples" / "step-00000002.png")
    side = Image.open(monitor.folder / "samples" / "step-00000001.png").size
    Image.new("RGB", side).save(monitor.folder / "samples" / "step-00000003.png", "eps")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("it was started"))
    monitor.finish(generator, ROWS)
    assert Image.open(monitor.folder / "samples.webp").n_frames == 1


def test_many_previews_are_thinned_to_a_hundred_frames(monitor, generator, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "hybridgen.evaluation.monitor.save_animation",
        lambda frames, path: shown.append(len(frames)),
    )
    content = monitor.preview(generator, 1).read_bytes()
    for step in range(2, 251):
        (monitor.folder / "samples" / f"step-{step:08d}.png").write_bytes(content)
    monitor.finish(generator, ROWS)
    assert shown == [84]


def test_a_run_that_logged_nothing_ends_without_curves(monitor, generator):
    monitor.finish(generator, [])
    assert not (monitor.folder / "curves.png").exists()


def test_figures_come_with_their_floors_and_do_not_change_on_asking_again(tmp_path):
    source = MixturePoints(mixture=ring(), name="ring")
    monitor = Monitor(tmp_path, source, sampler=lambda g: SinglePass(g, (2,)), seed=0)
    generator = MlpGenerator(width=8, depth=1).eval()
    figures = monitor.figures(generator, 500)
    assert figures == monitor.figures(generator, 500)
    assert {"modes", "high_quality", "floor_modes"} <= figures.keys()


def test_a_generator_of_points_that_diverged_has_figures_and_pictures(tmp_path):
    source = MixturePoints(mixture=ring(), name="ring")
    monitor = Monitor(tmp_path, source, sampler=lambda g: SinglePass(g, (2,)), seed=0)
    generator = MlpGenerator(width=8, depth=1).eval()
    next(generator.parameters()).data.fill_(math.nan)
    figures = monitor.figures(generator, 500)
    assert figures["modes"] == figures["high_quality"] == 0
    assert figures["sliced_wasserstein"] == math.inf
    assert figures["floor_high_quality"] > 0.9
    assert monitor.preview(generator, 1).exists()


def test_a_table_has_each_figure_beside_its_floor_and_knows_infinity():
    lines = table({"reverse_kl": None, "floor_reverse_kl": 0.001, "steps": 10}).splitlines()
    assert lines[1].split() == ["reverse_kl", "infinite", "0.001"]
    assert lines[2].split() == ["steps", "10"]
