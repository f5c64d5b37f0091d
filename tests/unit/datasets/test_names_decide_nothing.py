"""What differs between data sets stands in tables: no code compares a data set's name to decide what to do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from anatobench.datasets.registry import DATASETS

ROOT = Path(__file__).parents[3]


def comparisons(source: str) -> Iterator[str]:
    """Comparisons, membership among several names included, and cases of a match."""
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        for part in parts:
            elements = part.elts if isinstance(part, ast.Tuple | ast.List | ast.Set) else [part]
            if any(isinstance(element, ast.Constant) and element.value in DATASETS for element in elements):
                yield ast.unparse(node)


@pytest.mark.parametrize("package", ["anatobench", "torch_ref", "jax_impl", "benchmarks"])
def test_no_code_decides_by_a_data_sets_name(package: str) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    assert {str(path): found for path in paths if (found := list(comparisons(path.read_text())))} == {}


@pytest.mark.parametrize(
    "line", ['x = task.name == "ct_rate"', 'x = name not in ("ratic", "ct_rate")', 'match x:\n case "ratic": pass']
)
def test_a_name_that_decides_is_seen(line: str) -> None:
    assert list(comparisons(line))
