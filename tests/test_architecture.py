"""The floors of the house: a module imports its own floor and those below, nothing above."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hybridgen

FLOORS = [
    {"protocols", "errors", "maths"},
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


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_accelerate_appears_in_training_only(path):
    name = path.relative_to(ROOT).with_suffix("").parts[0]
    imports = re.search(r"^\s*(from|import) accelerate\b", path.read_text(), re.MULTILINE)
    assert name == "training" or not imports


def test_importing_the_package_is_light():
    heavy = "{'diffusers', 'torchmetrics', 'datasets', 'kornia', 'matplotlib', 'accelerate'}"
    code = f"import sys, hybridgen; print({heavy} & {{m.split('.')[0] for m in sys.modules}})"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "set()"


@pytest.mark.parametrize("name", hybridgen.__all__)
def test_every_public_name_is_the_object_of_its_module(name):
    public = getattr(hybridgen, name)
    modules = [node for node in ast.walk(_PUBLIC) if isinstance(node, ast.ImportFrom)]
    (module,) = [n.module for n in modules for alias in n.names if alias.name == name]
    inner = importlib.import_module(module)
    assert public is getattr(inner, name, sys.modules.get(f"{module}.{name}"))
    assert name in dir(hybridgen)


def test_what_a_type_checker_sees_is_what_loads_lazily():
    (block,) = [node for node in _PUBLIC.body if isinstance(node, ast.If)]
    checked = {(n.module, a.name) for n in block.body for a in n.names}
    lazy = {(f"hybridgen.{m}", name) for m, names in hybridgen._LAZY.items() for name in names}
    assert checked == lazy


def test_a_name_that_the_package_does_not_have_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'discriminators'"):
        _ = hybridgen.discriminators
