"""What the code imports, what pyproject.toml asks for and what docs/dependencies.md explains are the same packages."""

import ast
import re
import sys
import tomllib
from itertools import chain

import pytest
from documentation import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OWN = {"anatobench", "torch_ref", "jax_impl"}
MODULES = {"jaxlib": "jax", "TotalSegmentator": "totalsegmentator", "orbax": "orbax-checkpoint"}
BY_PLUGIN = {"pylibjpeg", "pylibjpeg-rle"}
"""pydicom finds them by itself."""
INSIDE = {"nnunetv2": "totalsegmentator", "triton": "torch", "PIL": "matplotlib"}
"""Packages that come with another one, by which they are wanted."""


def packages(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[><=~; ]", text)[0] for text in requirements}


def imported(folder: str) -> set[str]:
    """Return the packages from outside that a folder's files import, wherever in the file."""
    found: set[str] = set()
    for path in (REPOSITORY / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found.add(node.module.split(".")[0])
    return found - OWN - set(sys.stdlib_module_names)


ALLOWED = {
    "anatobench": packages(PROJECT["dependencies"]) | {"totalsegmentator"},
    "torch_ref": packages(PROJECT["dependencies"]) | packages(EXTRAS["torch"]),
    "jax_impl": packages(PROJECT["dependencies"]) | packages(EXTRAS["jax"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("folder", sorted(OWN))
def test_what_is_imported_is_asked_for(folder: str) -> None:
    wanted = {INSIDE.get(name, MODULES.get(name, name)) for name in imported(folder)}
    assert not wanted - ALLOWED[folder], "name it in pyproject.toml and docs/dependencies.md, with its reason"


@pytest.mark.slow
def test_what_is_asked_for_is_imported() -> None:
    found = set(chain.from_iterable(imported(folder) for folder in OWN))
    used = found | {MODULES.get(name, name) for name in found} | BY_PLUGIN
    runtime = packages(PROJECT["dependencies"]) | packages(EXTRAS["torch"]) | packages(EXTRAS["jax"])
    assert not runtime - used


def test_every_dependency_has_its_reason() -> None:
    text = (REPOSITORY / "docs" / "dependencies.md").read_text()
    explained = {(name, extra) for name, extra in re.findall(r"^\| `([\w-]+)` \| (?:`(\w+)`)? ?\| .+ \|$", text, re.M)}
    asked = {(name, "") for name in packages(PROJECT["dependencies"])}
    asked |= {(name, extra) for extra, listed in EXTRAS.items() for name in packages(listed)}
    assert explained == asked
