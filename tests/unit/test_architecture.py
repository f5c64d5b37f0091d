"""The rules that hold the house up: who may import whom, and how large a room may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMEWORK_PACKAGES = {"torch", "torchvision", "jax", "jaxlib", "flax", "optax"}
JAX_PACKAGES = {"jax", "jaxlib", "flax", "optax"}
FORBIDDEN = {
    "anatobench": FRAMEWORK_PACKAGES | {"torch_ref", "jax_impl", "benchmarks", "tests"},
    "torch_ref": JAX_PACKAGES | {"jax_impl", "benchmarks", "tests"},
    "jax_impl": {"torch", "torchvision", "torch_ref", "benchmarks", "tests"},
}


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


@pytest.mark.parametrize("package", FORBIDDEN)
def test_arrows_run_one_way(package: str) -> None:
    files = python_files(package)
    assert files, f"{package} has no Python files"
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module in imported_modules(path)
        if module.split(".")[0] in FORBIDDEN[package]
    ]
    assert not wrong


def test_only_the_command_line_knows_the_command_line() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in python_files("anatobench")
        if "cli" not in path.parts and path.name != "__main__.py"
        for module in imported_modules(path)
        if module.startswith("anatobench.cli")
    ]
    assert not wrong


WITHOUT_TWIN = {
    "pretrained_file.py",
    "transfer.py",
    "layers/triton_language.py",
    "layers/depthwise_walk.py",
    "layers/segmentation_kernels.py",
    "layers/window_kernels.py",
}
"""A file format that only PyTorch reads, copies that JAX makes by itself, Triton kernels for which it has no use."""


def test_the_frameworks_files_mirror_each_other() -> None:
    def names(package: str) -> set[str]:
        return {str(path.relative_to(ROOT / package)) for path in python_files(package)}

    only_in_torch = names("torch_ref") - names("jax_impl")
    assert only_in_torch == WITHOUT_TWIN, "every other file of the reference has its twin in the port"


def test_rooms_have_names() -> None:
    nameless = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
    found = [path for package in (*FORBIDDEN, "tests", "benchmarks") for path in python_files(package)]
    assert not [path for path in found if path.name in nameless]


def test_help_needs_no_framework() -> None:
    code = (
        "import sys\n"
        "from anatobench.cli.main import COMMANDS, build_parser\n"
        "build_parser(list(COMMANDS))\n"
        f"loaded = sorted(set(sys.modules) & {FRAMEWORK_PACKAGES!r})\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
