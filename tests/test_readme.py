"""The README's code runs as printed."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_blocks_about_importing_the_loss_run_one_after_the_other():
    section = README.read_text().split("## Import the loss")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    trained = [p.grad is not None for p in names["discriminator"].parameters()]
    assert all(trained)
    assert names["error"].isfinite()


@pytest.mark.parametrize("title", ["Guide any diffusers model", "Diffusion with a discriminator"])
def test_the_blocks_about_diffusion_run_one_after_the_other(title, capsys):
    section = README.read_text().split(f"## {title}")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names: dict = {}
    for block in blocks:
        if "runs/" not in block:  # what needs a finished run is tried by its own tests
            exec(compile(block, str(README), "exec"), names)
    assert names
    if "samples" in names:
        assert names["samples"].shape == (4, 1, 8, 8)
        assert len(names["images"]) == 4
    else:
        assert names["step"].number == 6


def test_the_block_about_measuring_runs(capsys):
    section = README.read_text().split("## One page")[1].split("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names: dict = {}
    exec(compile(block, str(README), "exec"), names)
    assert names["found"].figures["modes"].ideal == 8
    assert "frechet_distance" in capsys.readouterr().out
