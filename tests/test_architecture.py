"""Floors, public names and words: what no single module can see."""

import ast
import graphlib
import importlib
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import hybridgen

FLOORS = [
    {"protocols", "errors", "files", "settings", "maths"},
    {"networks", "cli"},
    {"losses", "data"},
    {"sampling"},
    {"training"},
    {"metrics"},
    {"evaluation"},
    {"report"},
]
HEIGHT = {name: height for height, names in enumerate(FLOORS) for name in names}
ROOT = Path(hybridgen.__path__[0])
_PUBLIC = ast.parse((ROOT / "__init__.py").read_text())
PROJECT = ROOT.parent
SCRIPTS = [
    path for path in sorted(PROJECT.glob("experiments/*.py")) if "__main__" in path.read_text()
]
HEAVY = {"torch", "numpy", "diffusers", "torchmetrics", "datasets", "kornia", "matplotlib"}
HEAVY |= {"accelerate", "sklearn", "scipy", "transformers"}
MODULES = [path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.stem != "__init__"]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hybridgen."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "hybridgen":
            yield from (alias.name for alias in node.names if alias.name in HEIGHT)
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names if a.name.startswith("hybridgen.")]
            yield from (name.split(".")[1] for name in names)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_imports_from_above(path):
    name = path.relative_to(ROOT).with_suffix("").parts[0]
    above = [m for m in imported(path) if HEIGHT[m] > HEIGHT[name]]
    assert not above, f"{path.relative_to(ROOT)} imports {above} from a floor above"


def test_no_modules_import_each_other_in_a_circle():
    names = {
        ".".join(("hybridgen", *p.relative_to(ROOT).with_suffix("").parts)): p for p in MODULES
    }
    graph = {}
    for name, path in names.items():
        nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        origins = {n.module for n in nodes} | {
            f"{n.module}.{a.name}" for n in nodes for a in n.names
        }
        graph[name] = origins & names.keys()
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_accelerate_appears_in_training_only(path):
    name = path.relative_to(ROOT).with_suffix("").parts[0]
    imports = re.search(r"^\s*(from|import) accelerate\b", path.read_text(), re.MULTILINE)
    assert name == "training" or not imports


def test_importing_the_package_is_light():
    code = f"import sys, hybridgen; print({HEAVY} & {{m.split('.')[0] for m in sys.modules}})"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "set()"


ANSWER = """
import runpy, sys
sys.path.insert(0, {folder!r})
for argument in ("--help", "--nonsense=1"):
    sys.argv = [{script!r}, argument]
    try:
        runpy.run_path({script!r}, run_name="__main__")
    except SystemExit as left:
        print("status", left.code)
print("imported", {heavy} & {{name.split(".")[0] for name in sys.modules}})
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_help_and_a_wrong_argument_are_answered_before_anything_heavy_is_imported(script):
    code = ANSWER.format(folder=str(script.parent), script=str(script), heavy=HEAVY)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.startswith("usage: "), answer.stderr
    assert answer.stdout.splitlines()[-3:] == ["status 0", "status 2", "imported set()"]
    assert answer.stderr == "error: there is no setting 'nonsense'\n"


@pytest.mark.parametrize("name", hybridgen.__all__)
def test_every_public_name_is_the_object_of_its_module(name):
    public = getattr(hybridgen, name)
    modules = [node for node in ast.walk(_PUBLIC) if isinstance(node, ast.ImportFrom)]
    (module,) = [n.module for n in modules for alias in n.names if alias.name == name]
    inner = importlib.import_module(module)
    assert public is getattr(inner, name, sys.modules.get(f"{module}.{name}"))
    assert name in dir(hybridgen)


def test_a_name_that_the_package_does_not_have_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'discriminators'"):
        _ = hybridgen.discriminators


SOURCES = sorted([*ROOT.glob("**/*.py"), *PROJECT.glob("experiments/*.py")])
PYTHON = [*SOURCES, *sorted(PROJECT.glob("tests/**/*.py"))]
PAGES = sorted([PROJECT / "README.md", *PROJECT.glob("docs/**/*.md")])
PAGES += sorted(PROJECT.glob("experiments/results/*.md"))
CONFIGS = sorted(PROJECT.glob("configs/**/*.yaml"))

# Words that the field does not use; a plural counts as well.
PRIVATE = [
    *("critic", "exam", "ruler", "opponent", "lender", "biography", "contender", "blessed"),
    *("perfection", "shortcoming", "live_byte", "badness", "best_apart", "caveat"),
    *("refuse_what_cannot_work", "refuse_unfit", "refuse_high_noise", "float32_island"),
]
# As names in the package only: elsewhere they may be plain English.
PRIVATE_NAMES = [
    *("verdict", "judge", "told_apart", "set_apart", "player", "conduct", "rhythm", "watch"),
    *("expense", "fakes", "island", "wave", "ladder", "rung", "adopt", "evaluating"),
    *("resident", "spoken", "language"),
]
FILLER = {"found", "said", "there", "asked", "told", "given", "known", "own", "shown", "wanted"}
FILLER |= {"mine"}


def label(path):
    return str(path.relative_to(PROJECT))


def private(words, forbidden):
    """Which of `words` have a forbidden one among their parts: `CriticLoss`, `critic_loss`."""
    pattern = re.compile(f"_({'|'.join(forbidden)})s?_")
    split = {word: re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", word).lower() for word in words}
    return sorted(word for word, parts in split.items() if pattern.search(f"_{parts}_"))


@pytest.mark.parametrize("path", PYTHON, ids=label)
def test_no_identifier_is_a_word_of_our_own(path):
    with tokenize.open(path) as file:
        tokens = tokenize.generate_tokens(file.readline)
        names = {token.string for token in tokens if token.type == tokenize.NAME}
    old = private(names, PRIVATE + (PRIVATE_NAMES if path in SOURCES else []))
    assert not old, f"{label(path)} has the names {old}; take the field's own words"


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_no_variable_is_a_filler_word(path):
    tree = list(ast.walk(ast.parse(path.read_text())))
    names = {n.id for n in tree if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    names |= {n.arg for n in tree if isinstance(n, ast.arg)}
    filler = sorted(names & FILLER)
    assert not filler, f"{label(path)} assigns {filler}; name what the value is"


@pytest.mark.parametrize("path", CONFIGS, ids=label)
def test_no_config_has_a_key_of_our_own(path):
    lines = [line.split("#")[0] for line in path.read_text().splitlines()]
    keys = {key for line in lines for key in re.findall(r"([A-Za-z_]\w*)\s*:", line)}
    old = private(keys, PRIVATE + PRIVATE_NAMES)
    assert not old, f"{label(path)} has the keys {old}"


@pytest.mark.parametrize("path", PAGES, ids=label)
def test_no_page_has_a_word_of_our_own(path):
    text = path.read_text()
    code = " ".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))
    old = private(set(re.findall(r"\w+", text)), PRIVATE)
    old += private(set(re.findall(r"\w+", code)), PRIVATE_NAMES)
    assert not old, f"{label(path)} has the words {sorted(set(old))}"
