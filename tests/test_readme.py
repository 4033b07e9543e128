"""README and docs: every Python block runs, every command is one that its script accepts."""

import ast
import dataclasses
import re
import shlex
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from experiments.conftest import EXPERIMENTS, load

from hybridgen.cli import command, read_settings

ROOT = EXPERIMENTS.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page: page.read_text() for page in PAGES}
BLOCK = re.compile(r"(<!-- needs a finished run -->\n)?```python\n(.*?)```", re.DOTALL)
PRINTS = {"--print_config", "--help"}

# The runs that blocks ask for, by the page's own commands but for sizes.
TINY_RUNS = {
    "gan": "--training.steps 2 --eval_samples 100",
    "diffusion": "--training.steps 2 --denoiser.widths [8,8] --final_samples 20 --sampler.steps 2",
    "distill": "--training.steps 2 --discriminator.width 8 --regression.pairs 10 --sampler.steps 2 "
    "--final_samples 20",
    "guide": "--training.steps 4 --training.batch 8 --discriminator.width 8 --num_samples 40 "
    "--scales [0.0,1.0] --scale_samples 8 --scale_draws 2 --final_samples 10 --sampler.steps 2",
}


def pages(pattern):
    """Pages on which the pattern occurs, as parameters of a test."""
    return pytest.mark.parametrize(
        "page", [p for p in PAGES if re.search(pattern, TEXT[p])], ids=lambda p: p.name
    )


def commands(text):
    """`script.py` and its arguments, of each command in the bash blocks and in the prose's code."""
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    blocks = re.sub(r" +# .*", "", blocks).replace("\\\n", " ")
    lines = re.sub(r"'[^']*'", lambda quoted: quoted[0].replace("\n", " "), blocks).splitlines()
    matches = [re.search(r"^.*?\bexperiments/(\w+\.py.*)", line) for line in lines]
    codes = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(text))]
    matches += [re.fullmatch(r"(?:python experiments/)?(\w+\.py --.*)", code) for code in codes]
    return [match[1] for match in matches if match]


def prose(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


ALL = sorted({(page.name, line) for page, text in TEXT.items() for line in commands(text)})


@pytest.fixture(scope="module", autouse=True)
def experiments_can_import_each_other():
    sys.path.insert(0, str(EXPERIMENTS))
    yield
    sys.path.remove(str(EXPERIMENTS))


@pytest.fixture(scope="module")
def experiment():
    """Script name -> its module and the class of its settings, the second argument of `command`."""
    made = {}

    def get(name):
        if name not in made:
            module = load(name)
            calls = [
                n
                for n in ast.walk(ast.parse((EXPERIMENTS / f"{name}.py").read_text()))
                if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "command"
                if isinstance(n.args[1], ast.Name)
            ]
            made[name] = module, getattr(module, calls[-1].args[1].id)
        return made[name]

    return get


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory, experiment):
    """A folder with the runs of `TINY_RUNS` where the scripts put them."""
    home = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)  # takes longest
        for name, flags in TINY_RUNS.items():
            module, settings = experiment(name)
            argv = ["--threads", "1", *flags.split()]
            assert command(module.main, settings, argv) == 0
    return home


@pages("```python")
def test_the_python_blocks_of_a_page_run_one_after_the_other(page, request, monkeypatch, tmp_path):
    blocks = BLOCK.findall(TEXT[page])
    assert len(blocks) == TEXT[page].count("```python")
    assert "from hybridgen." not in TEXT[page], "a reader imports from the top"
    needs_run = any(mark for mark, _ in blocks)
    monkeypatch.chdir(request.getfixturevalue("finished_runs") if needs_run else tmp_path)
    names: dict = {}
    for _, code in blocks:
        exec(compile(code, page.name, "exec"), names)
    CHECKS.get(page.name, lambda names: None)(names)


def trained(module):
    return all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def check_training(names):
    assert names["samples"].shape == (16, 1, 8, 8)


def check_readme(names):
    assert names["loss"].isfinite()
    assert names["samples"].shape == (4, 1, 8, 8)
    assert names["sampler"].cost.discriminator_backward > 0
    assert names["measurement"].figures["modes"].ideal == 8


def check_loss(names):
    assert trained(names["discriminator"]) and trained(names["vae"].decoder)
    assert names["error"].isfinite()


def check_hybrid(names):
    assert names["step"].number == 6
    assert names["samples"].shape == (16, 1, 8, 8)
    assert torch.isfinite(names["samples"]).all()
    assert len(names["images"]) == 4


def check_compare(names):
    distances = [
        names[name].figures["sliced_wasserstein"].value for name in ("measurement", "halved")
    ]
    assert distances[0] != distances[1]


CHECKS = {
    "README.md": check_readme,
    "training.md": check_training,
    "loss.md": check_loss,
    "hybrid.md": check_hybrid,
    "compare.md": check_compare,
}


def test_the_loss_block_trains_the_model_and_its_discriminator():
    (block,) = [code for _, code in BLOCK.findall(TEXT[PAGES[0]]) if "nn.Sequential" in code]
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    assert trained(names["discriminator"]) and trained(names["model"])


@pytest.mark.parametrize(("page", "line"), ALL)
def test_a_command_is_one_that_its_script_accepts(page, line, experiment, monkeypatch):
    monkeypatch.chdir(ROOT)
    script, *argv = shlex.split(line)
    rest = argv[argv.index("--") + 1 :] if "--" in argv else None
    argv = argv[: argv.index("--")] if "--" in argv else argv
    module, settings = experiment(Path(script).stem)
    if hasattr(module, "DEFAULT") and "--config" not in argv:
        argv = ["--config", str(module.DEFAULT), *argv]
    filled = read_settings(settings, [word for word in argv if word not in PRINTS])
    if rest is not None:  # for the training script that this one starts
        read_settings(experiment(filled.script)[1], rest)


def flags_of(settings, prefix="--"):
    """`--a`, `--a.b` ... of a dataclass of settings."""
    for name, kind in get_type_hints(settings).items():
        yield f"{prefix}{name}"
        if dataclasses.is_dataclass(kind):
            yield from flags_of(kind, f"{prefix}{name}.")


def test_flags_in_prose_exist(experiment):
    scripts = {line.split()[0].removesuffix(".py") for _, line in ALL}
    accepted = {flag for name in scripts for flag in flags_of(experiment(name)[1])}
    accepted |= {"--config", "--multi_gpu", *PRINTS}
    for page, text in TEXT.items():
        spans = " ".join(re.findall(r"`([^`]+)`", prose(text)))
        flags = set(re.findall(r"(?<!\S)--[a-z][\w.]*", spans))
        assert flags <= accepted, f"{page.name} names {sorted(flags - accepted)}"


@pages("")
def test_files_and_links_exist(page):
    text = TEXT[page]
    links = re.findall(r"\]\((?!http)([^)#\s]*)(#[^)]*)?\)", text)
    links += [(source, "") for source in re.findall(r'<img src="([^"]*)"', text)]
    for target, anchor in links:
        path = page.parent / target if target else page
        assert path.exists(), f"{page.name} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles]
            assert anchor[1:] in slugs, f"{page.name} links to {target}{anchor}"
    code = re.findall(r"`((?:hybridgen|experiments|configs|tests|docs)/[\w./*-]*)`", text)
    for name in code:
        assert any(ROOT.glob(name.rstrip("/"))), f"{page.name} names {name}"


def test_the_readme_is_short_enough_to_be_read():
    assert len(TEXT[PAGES[0]].splitlines()) <= 180
