"""Quality against calls: what is averaged, tabulated and drawn."""

import math

import pytest
from PIL import Image

from hybridgen.evaluation.budgets import draw, flat, markdown, row


@pytest.fixture
def rows():
    return [
        row("plain", 4, [{"kl": 1.0}, {"kl": 3.0}]),
        row("plain", 18, [{"kl": 0.5}, {"kl": 0.5}]),
        row("guided", 4, [{"kl": math.inf}, {"kl": 1.0}]),
    ]


def test_a_row_is_the_mean_and_its_standard_error(rows):
    assert rows[0].means == {"kl": 2.0}
    assert rows[0].errors["kl"] == pytest.approx(1.0)
    assert row("one", 4, [{"kl": 1.0}]).errors == {"kl": 0.0}
    with pytest.raises(ValueError, match="x at 4 calls has no figures"):
        row("x", 4, [])


def test_the_table_has_a_line_a_method_a_column_a_budget_and_the_floor(rows):
    lines = markdown(rows, "kl", 0.01).splitlines()
    assert lines[0] == "| kl | 4 calls | 18 calls |"
    assert lines[2] == "| plain | 2 ± 1 | 0.5 ± 0 |"
    assert lines[3] == "| guided | infinite |  |"
    assert lines[4] == "| perfect samples | 0.01 | 0.01 |"


def test_flat_figures_name_method_metric_and_calls(rows):
    figures = flat(rows)
    assert figures["plain/kl@4"] == 2
    assert figures["plain/kl@4_se"] == pytest.approx(1.0)
    assert figures["guided/kl@4"] == math.inf


def test_the_picture_is_drawn_also_with_an_infinite_figure(rows, tmp_path):
    draw(rows, ["kl"], {"floor_kl": 0.01}, tmp_path / "calls.png")
    assert Image.open(tmp_path / "calls.png").size[0] > 300
