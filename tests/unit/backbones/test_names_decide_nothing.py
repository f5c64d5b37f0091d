"""What differs between backbones stands on their cards: no code asks for a backbone's name to decide what to do."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import jax_impl.models
import torch_ref.models
from anatobench.backbones import CARDS

ROOT = Path(__file__).parents[3]
PACKAGES = ("anatobench", "torch_ref", "jax_impl", "benchmarks")
KEYED_BY_NAME = {
    "anatobench/experiments/published.py",
    "benchmarks/peers/step_torchvision.py",
    "jax_impl/models/__init__.py",
    "torch_ref/models/__init__.py",
}
"""The paper's tables, which are data, and the registries of layers: the frameworks', and of stock models."""


def names_that_decide(source: str) -> Iterator[str]:
    """Yield where a backbone's name is compared, is a key or an index, or stands in a collection of such names
    alone."""
    for node in ast.walk(ast.parse(source)):
        deciding: Sequence[ast.expr | None] = ()
        match node:
            case ast.Compare(left=left, comparators=others):
                deciding = [left, *others]
            case ast.Dict(keys=keys):
                deciding = keys
            case ast.Subscript(slice=index):
                deciding = [index]
            case ast.MatchValue(value=value):
                deciding = [value]
            case ast.Tuple(elts=elements) | ast.List(elts=elements) | ast.Set(elts=elements):
                deciding = elements if all(map(_names, elements)) else ()
        if any(_names(part) for part in deciding):
            yield ast.unparse(node)[:80]


def _names(node: ast.expr | None) -> bool:
    """Return whether it is a backbone's name, or a tuple, list or set with one in it."""
    match node:
        case ast.Constant(value=value):
            return value in CARDS
        case ast.Tuple(elts=elements) | ast.List(elts=elements) | ast.Set(elts=elements):
            return any(map(_names, elements))
    return False


@pytest.mark.parametrize("package", PACKAGES)
def test_no_code_decides_by_a_backbones_name(package: str) -> None:
    paths = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / package).rglob("*.py"))}
    assert paths
    found = {name: list(names_that_decide(path.read_text())) for name, path in paths.items()}
    assert {name: where for name, where in found.items() if where and name not in KEYED_BY_NAME} == {}
    assert all(found[name] for name in KEYED_BY_NAME if name in found), "an exception that is none any more"


@pytest.mark.parametrize(
    "line",
    [
        'if spec.model == "r3d_18": pass',
        'recompute = "mvit_v2_s" != model',
        'kinked = model in ("r3d_18", "mvit_v2_s")',
        'KINKED = ("r3d_18", "mvit_v2_s")',
        'RATES = {"r3d_18": 4e-3}',
        'TABLE = {("ratic", "swin3d_t"): 0.7}',
        'rate = RATES["swin3d_t"]',
        'match model:\n    case "r3d_18":\n        pass',
    ],
)
def test_a_name_that_decides_is_seen(line: str) -> None:
    assert list(names_that_decide(line))


@pytest.mark.parametrize("line", ['MODEL = "r3d_18"', 'words = ("--model", "r3d_18")', 'ModelSpec("r3d_18", "tiny")'])
def test_a_name_that_is_only_given_is_none(line: str) -> None:
    assert not list(names_that_decide(line))


def test_every_card_has_its_layers_in_both_frameworks() -> None:
    assert set(torch_ref.models.BACKBONES) == set(jax_impl.models.BACKBONES) == set(CARDS)
    assert all(card.name == name for name, card in CARDS.items())
    for name in CARDS:
        assert all((ROOT / place / f"{name}.py").is_file() for place in ("anatobench/backbones", "torch_ref/models"))
