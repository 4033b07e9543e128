"""What pyproject.toml allows is what constraints.txt pins, for every extra."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] != "#"]


def plain(name):
    return re.sub("[-_.]+", "-", name).lower()


PINNED = {plain(name): version for name, version in (line.split("==") for line in LINES)}


@pytest.mark.parametrize("group", GROUPS)
def test_every_pin_is_allowed_and_every_package_is_pinned(group):
    for requirement in map(Requirement, GROUPS[group]):
        assert requirement.specifier.contains(PINNED[plain(requirement.name)]), requirement


@pytest.mark.parametrize("group", GROUPS)
def test_every_package_has_a_lowest_version_for_the_job_that_installs_it(group):
    for requirement in map(Requirement, GROUPS[group]):
        assert sorted(part.operator for part in requirement.specifier) == ["<", ">="], requirement
