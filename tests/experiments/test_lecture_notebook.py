"""The lecture's notebook: valid, without outputs, every statement in order, and it runs."""

import json
import subprocess
import sys

import pytest
from experiments.conftest import EXPERIMENTS, load

NOTEBOOK = EXPERIMENTS / "lecture.ipynb"
RUNNER = """
import ast, sys
cells, names = ast.literal_eval(sys.stdin.read()), {}
for cell in cells:
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is not None:
        shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        print(shown.name, shown._repr_html_()[:7])
"""


@pytest.fixture(scope="module")
def notebook():
    return json.loads(NOTEBOOK.read_text())


def source(cell):
    return "".join(cell["source"])


def test_it_is_a_notebook_of_format_4_without_outputs(notebook):
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(ids) == len(set(ids))
    for cell in notebook["cells"]:
        expected = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            expected |= {"execution_count", "outputs"}
            assert cell["execution_count"] is None
            assert cell["outputs"] == []
        assert set(cell) == expected


def test_its_cells_show_every_statement_in_order_on_a_tiny_budget(notebook):
    cells = [source(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert "settings = Lecture()" in cells[0]
    cells[0] = cells[0].replace("Lecture()", "Lecture(effort=0.005)")
    # As a kernel would: a process of its own, in the notebook's folder.
    run = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=repr(cells),
        cwd=EXPERIMENTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2_000:]
    names = load("lecture").STATEMENTS
    assert run.stdout.splitlines() == [f"{name} <iframe" for name in names]


def test_its_headings_are_the_statements_titles(notebook):
    text = "".join(path.read_text() for path in EXPERIMENTS.glob("lecture_*.py"))
    text = text.replace("\\u2212", "\u2212")
    headings = [source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown"][1:]
    for heading in headings:
        title, at = heading.splitlines()[0].partition(". ")[2], heading.splitlines()[-1]
        assert f'title="{title}",' in text
        assert f'at="{at.removeprefix("Lecture at ").removesuffix(".")}",' in text
