"""From image files to bytes."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from hybridgen.data.decode import ImageFormat, image_format, open_image
from hybridgen.errors import InputError

grey = ImageFormat(side=4, channels=1, resize=True, convert=True)
colour = ImageFormat(side=4, channels=3, resize=True, convert=True)
Picture = Callable[..., Image.Image]


def encoded(image: Image.Image, kind: str = "png", **options: object) -> dict[str, object]:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def test_bytes_and_paths_give_the_same_pixels(tmp_path: Path, picture: Picture) -> None:
    picture(1).save(tmp_path / "a.png")
    from_path = open_image({"bytes": None, "path": str(tmp_path / "a.png")}, "a")
    assert np.array_equal(from_path, picture(1))
    assert np.array_equal(open_image(encoded(picture(1)), "a"), picture(1))


def test_an_image_of_the_right_form_keeps_its_pixels(picture: Picture) -> None:
    exact = picture(2, (4, 4), "RGB")
    assert np.array_equal(colour.apply(exact, "a"), np.asarray(exact).transpose(2, 0, 1))
    assert np.array_equal(grey.apply(exact.convert("L"), "a")[0], exact.convert("L"))


def test_the_central_square_is_cropped_and_resized() -> None:
    wide = Image.new("L", (24, 8), 0)
    wide.paste(200, (8, 0, 16, 8))
    assert (grey.apply(wide, "a") == 200).all()
    assert (grey.apply(wide.rotate(90, expand=True), "a") == 200).all()
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 2, dtype=np.uint8), (128, 1)))
    middles = np.arange(4) * 64 + 31
    assert np.abs(grey.apply(ramp, "a")[0, 1] - middles).max() <= 8


def test_grey_becomes_colour_and_colour_grey(picture: Picture) -> None:
    pixels = colour.apply(picture(0, (4, 4)), "a")
    assert np.array_equal(pixels[0], pixels[1])
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert (grey.apply(red, "a") == 76).all()
    assert (colour.apply(red.convert("P"), "a")[0] == 255).all()
    assert (grey.apply(Image.new("1", (4, 4), 1), "a") == 255).all()


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = Image.fromarray(np.full((4, 4), 51_400, dtype=np.uint16))
    assert (grey.apply(open_image(encoded(deep), "a"), "a") == 200).all()
    assert (colour.apply(open_image(encoded(deep), "a"), "a") == 200).all()


def test_transparent_parts_become_white() -> None:
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert (colour.apply(clear, "a") == 255).all()
    assert (grey.apply(Image.new("LA", (4, 4), (10, 0)), "a") == 255).all()
    assert (grey.apply(Image.new("LA", (4, 4), (10, 255)), "a") == 10).all()


def test_photographs_are_turned_upright() -> None:
    sideways = Image.new("L", (4, 4), 0)
    sideways.paste(255, (0, 0, 4, 2))
    tag = Image.Exif()
    tag[0x0112] = 6
    upright = np.asarray(open_image(encoded(sideways, exif=tag), "a"))
    assert (upright[:, 2:] == 255).all()
    assert (upright[:, :2] == 0).all()


@pytest.mark.parametrize("keep", [0, 5, 40, 100, 150])
def test_a_truncated_image_is_named(keep: int, picture: Picture) -> None:
    whole = encoded(picture(0, (16, 16)))["bytes"]
    with pytest.raises(InputError, match=r"cats/7\.png cannot be decoded"):
        open_image({"bytes": whole[:keep], "path": None}, "cats/7.png")  # type: ignore[index]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_flipped_bytes_give_pixels_or_an_error_that_names_the_image(picture: Picture) -> None:
    for kind in ("png", "jpeg", "gif", "tiff", "webp"):
        whole = encoded(picture(0, (16, 16)), kind)["bytes"]
        assert isinstance(whole, bytes)
        for place in range(0, len(whole), 3):
            broken = whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
            try:
                open_image({"bytes": broken}, "odd.png")
            except InputError as error:
                assert "odd.png" in str(error)


def test_a_missing_file_and_an_empty_cell_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone cannot be decoded"):
        open_image({"bytes": None, "path": str(tmp_path / "gone.png")}, "gone")
    for cell in (None, {"bytes": None, "path": None}):
        with pytest.raises(InputError, match="image 3 is empty"):
            open_image(cell, "image 3")


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(InputError, match="pixel format 'F'"):
        open_image(encoded(Image.new("F", (4, 4)), "tiff"), "a")


def test_the_form_is_that_of_the_first_image_unless_given(picture: Picture) -> None:
    assert image_format(picture(0), "a", None, None) == ImageFormat(
        side=8, channels=1, resize=False, convert=False
    )
    assert image_format(picture(0, (9, 5)), "a", 16, 3) == ImageFormat(
        side=16, channels=3, resize=True, convert=True
    )
    assert image_format(picture(0, mode="RGBA"), "a", None, None).shape == (3, 8, 8)
    with pytest.raises(InputError, match=r"a is 9x5 pixels, expected a square .*resolution"):
        image_format(picture(0, (9, 5)), "a", None, None)


def test_another_size_or_kind_is_refused_unless_it_may_be_changed(picture: Picture) -> None:
    strict = image_format(picture(0), "first", None, None)
    with pytest.raises(InputError, match=r"odd is 9x8 pixels .* 8x8; set data\.resolution"):
        strict.apply(picture(0, (9, 8)), "odd")
    with pytest.raises(InputError, match=r"odd is colour while .* grey; set data\.channels"):
        strict.apply(picture(0, mode="RGB"), "odd")
    with pytest.raises(InputError, match="odd is grey while the first image is colour"):
        image_format(picture(0, mode="RGB"), "first", None, None).apply(picture(0), "odd")


@pytest.mark.parametrize("kind", ["eps", "pcx"])
def test_formats_that_are_not_named_are_not_opened(picture: Picture, kind: str) -> None:
    with pytest.raises(InputError, match="cannot be decoded"):
        open_image(encoded(picture(0, mode="RGB"), kind), "drawing.png")


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(
    picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    with (
        pytest.raises(InputError, match=r"bomb\.png cannot be decoded .*10x10 pixels"),
        warnings.catch_warnings(action="ignore"),
    ):
        open_image(encoded(Image.new("L", (10, 10))), "bomb.png")


def test_a_photograph_is_decoded_no_larger_than_needed_and_looks_the_same() -> None:
    ramp = np.linspace(0, 255, 800)
    photo = Image.fromarray((ramp[:, None] * 0.5 + ramp[None] * 0.5).astype(np.uint8))
    cell, small = (
        encoded(photo.convert("RGB"), "jpeg", quality=95),
        ImageFormat(side=32, channels=3, resize=True, convert=True),
    )
    whole, drafted = open_image(cell, "a"), open_image(cell, "a", least=32)
    assert (whole.size, drafted.size) == ((800, 800), (100, 100))
    difference = small.apply(whole, "a").astype(int) - small.apply(drafted, "a")
    assert np.abs(difference).max() <= 2
    assert open_image(cell, "a", least=400).size == (800, 800)
