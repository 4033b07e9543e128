import math

import pytest
from PIL import Image

from hybridgen.evaluation.curves import curve_panels, curves


def rows(count=40):
    return [
        {
            "step": s,
            "critic": 1 / s,
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
        "losses": ["critic", "generator"],
        "coverage": ["coverage"],
        "kid": ["kid"],
    }


def test_a_quantity_that_is_never_finite_has_no_panel():
    log = [{"step": 1, "r1": math.nan, "kid": None, "coverage": 0.5}, {"step": 2, "r1": math.inf}]
    assert curve_panels(log) == {"coverage": ["coverage"]}


@pytest.mark.parametrize(("suffix", "kind"), [("png", "PNG"), ("svg", None)])
def test_the_suffix_chooses_the_format(tmp_path, suffix, kind):
    path = tmp_path / f"curves.{suffix}"
    curves(rows(300), path, floors={"floor_coverage": 0.9})
    if kind:
        with Image.open(path) as picture:
            assert picture.format == kind
            assert picture.width == 3 * 512
    else:
        assert path.read_text().rstrip().endswith("</svg>")


def test_a_log_without_numbers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        curves([{"step": 1, "note": "started"}], tmp_path / "curves.png")
