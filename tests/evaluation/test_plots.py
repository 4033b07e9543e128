import math

import numpy as np
import pytest
import torch
from PIL import Image

from hybridgen.evaluation.plots import (
    curve_panels,
    curves,
    sample_grid,
    save_animation,
    scatter,
    to_bytes,
)
from hybridgen.maths.mixtures import GaussianMixture, grid, ring


def test_bytes_are_the_inverse_of_the_scale_and_clip():
    levels = torch.arange(256)
    assert torch.equal(to_bytes(levels / 127.5 - 1).long(), levels)
    assert to_bytes(torch.tensor([-9.0, 9.0, -torch.inf, torch.inf])).tolist() == [0, 255, 0, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_becomes_a_crisp_square_in_its_place(channels):
    x = torch.rand(5, channels, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    picture = np.asarray(sample_grid(x, 3, side=16))
    assert picture.shape[:2] == (2 * 18 + 2, 3 * 18 + 2)
    for index in range(5):
        top, left = index // 3 * 18 + 2, index % 3 * 18 + 2
        tile = picture[top : top + 16, left : left + 16].reshape(16, 16, channels)
        expected = to_bytes(x[index]).permute(1, 2, 0).numpy().repeat(2, axis=0).repeat(2, axis=1)
        assert np.array_equal(tile, expected)
    assert (picture[:2] == 255).all()
    assert (picture[20:, 38:] == 255).all()  # the place of a sixth image


def test_large_images_keep_their_size():
    assert sample_grid(torch.zeros(1, 3, 100, 100), side=64).size == (104, 104)


def red(picture):
    pixels = np.asarray(picture).astype(int)
    return (pixels[..., 0] - pixels[..., 1]) > 60


def test_points_are_drawn_where_they_are():
    mixture = grid()
    corner = scatter(torch.full((200, 2), -4.0), mixture)
    rows, columns = np.nonzero(red(corner))
    assert rows.mean() > 0.8 * corner.height
    assert columns.mean() < 0.2 * corner.width


def test_pictures_of_one_mixture_are_of_one_frame_whatever_the_points():
    near, far = scatter(torch.zeros(10, 2), ring()), scatter(torch.full((10, 2), 90.0), ring())
    assert near.size == far.size == (480, 480)
    assert red(near).any()
    assert not red(far).any()
    # What is outside is counted in the corner.
    dark = [(np.asarray(p.convert("L"))[440:470, 10:120] < 100).sum() for p in (near, far)]
    assert dark[0] < dark[1]


def test_an_animation_has_its_frames_in_order(tmp_path):
    greys = [0, 100, 200]
    frames = [Image.new("L", (16, 12), g) for g in greys]
    save_animation(frames, tmp_path / "a.webp")
    with Image.open(tmp_path / "a.webp") as film:
        assert film.n_frames == 3
        for index, grey in enumerate(greys):
            film.seek(index)
            assert abs(np.asarray(film.convert("L")).mean() - grey) < 4


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match="c 1 or 3"):
        sample_grid(torch.zeros(4, 2, 8, 8))
    with pytest.raises(ValueError, match="columns=0"):
        sample_grid(torch.zeros(4, 1, 8, 8), columns=0)
    with pytest.raises(ValueError, match=r"got \(4, 3\) and dimension 2"):
        scatter(torch.zeros(4, 3), ring())
    with pytest.raises(ValueError, match="dimension 1"):
        scatter(torch.zeros(4, 2), GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1)))
    with pytest.raises(ValueError, match="at least one frame"):
        save_animation([], tmp_path / "a.webp")
    with pytest.raises(ValueError, match="one size"):
        save_animation([Image.new("L", (4, 4)), Image.new("L", (5, 4))], tmp_path / "a.webp")


def rows(count=40):
    return [
        {
            "step": s,
            "discriminator": 1 / s,
            "generator": 2.0,
            "coverage": s / 50,
            "note": "text",
            "ok": True,
        }
        | ({"kid": 0.1, "floor_kid": 0.0} if s % 10 == 0 else {})
        for s in range(1, count)
    ]


def test_losses_share_a_panel_and_metrics_have_their_own():
    assert curve_panels(rows()) == {
        "losses": ["discriminator", "generator"],
        "coverage": ["coverage"],
        "kid": ["kid"],
    }


def test_a_quantity_that_is_never_finite_has_no_panel():
    log = [{"step": 1, "r1": math.nan, "kid": None, "coverage": 0.5}, {"step": 2, "r1": math.inf}]
    assert curve_panels(log) == {"coverage": ["coverage"]}


@pytest.mark.parametrize(("suffix", "kind"), [("png", "PNG"), ("svg", None)])
def test_the_suffix_chooses_the_format(tmp_path, suffix, kind):
    path = tmp_path / f"curves.{suffix}"
    curves(rows(300), path)
    if kind:
        with Image.open(path) as picture:
            assert picture.format == kind
            assert picture.width == 3 * 512
    else:
        assert path.read_text().rstrip().endswith("</svg>")


def test_a_log_without_numbers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        curves([{"step": 1, "note": "started"}], tmp_path / "curves.png")


def test_the_best_evaluation_and_the_first_alarm_of_a_kind_are_marked(tmp_path):
    log = [{"step": n, "discriminator": 0.7, "sliced_wasserstein": 1 / n} for n in (1, 2, 3, 4)]
    log[1] |= {"best": 1.0, "alarm_collapse": 0.0}
    log[2] |= {"best": 0.0, "alarm_collapse": 1.0, "alarm_stuck": 1.0}
    log[3] |= {"alarm_collapse": 1.0}
    curves(log, tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    assert text.count("<!-- best -->") == text.count("<!-- collapse, stuck -->") == 2  # panels
    assert list(curve_panels([{"step": 1, "r1": 1.0}, *log])) == [
        "losses",
        "sliced_wasserstein",
        "penalties",
    ]
