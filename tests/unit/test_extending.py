"""docs/extending.md is true against the code: the registries, arrays, judges and fields that it names are there."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np

from anatobench.backbones.card import BackboneCard
from anatobench.datasets.case import Case
from anatobench.datasets.registry import DATASETS
from anatobench.evaluation.judges import JUDGES
from anatobench.store.batches import DENSE, TABLES
from anatobench.tasks import IGNORED_ORGAN, MISSING_TARGET

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "extending.md").read_text()


def chapter(title: str) -> str:
    found = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    return next(part for part in found if part.startswith(title))


def test_every_registry_is_where_it_says() -> None:
    named = re.findall(r"in `([A-Z_]+)` of\s+`([\w/]+\.py)`", TEXT)
    assert {name for name, _ in named} == {
        "CARDS", "BACKBONES", "DATASETS", "KINDS", "CASE_TERMS", "HEADS", "TABLES", "JUDGES",
    }  # fmt: skip
    for name, file in named:
        assert re.search(rf"^{name}\b", (ROOT / file).read_text(), re.MULTILINE), f"{name} of {file}"


def test_every_file_that_it_names_is_there() -> None:
    named = set(re.findall(r"`((?:anatobench|torch_ref|jax_impl|tests|docs|benchmarks)/[\w/]+\.(?:py|md|sh))`", TEXT))
    made_up = {name for name in named if Path(name).stem == "NAME"}
    assert len(named) > len(made_up) > 0
    assert [name for name in sorted(named - made_up) if not (ROOT / name).is_file()] == []


def test_the_arrays_of_a_batch_are_those_of_its_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \[", TEXT, re.MULTILINE)
    types = {name: np.dtype(dtype) for name, dtype in DENSE.items()}
    types |= {name: table.dtype for name, table in TABLES.items()}
    assert {name: np.dtype(dtype) for name, dtype in rows} == types
    assert f"`IGNORED_ORGAN` ({IGNORED_ORGAN})" in TEXT
    assert f"`MISSING_TARGET` ({MISSING_TARGET})" in TEXT


def test_every_judge_is_named() -> None:
    assert all(f"`{judge}`" in chapter("A kind of supervision") for judge in JUDGES)


def test_every_field_of_a_card_and_of_a_case_is_told() -> None:
    cards, sets = chapter("A backbone"), chapter("A data set")
    assert [field.name for field in fields(BackboneCard) if f"`{field.name}`" not in cards] == ["name"]
    optional = [field.name for field in fields(BackboneCard) if field.default is not MISSING]
    assert (
        f"Only the last {['no', 'one', 'two', 'three', 'four', 'five', 'six'][len(optional)]} may be left out" in cards
    )
    untold = {"header", "rescale"}  # what a person says of a scan, which the registry fills in
    assert {field.name for field in fields(Case) if f"`{field.name}`" not in sets} == untold


def test_task_is_an_option_of_some_data_sets_alone() -> None:
    assert {name for name, dataset in DATASETS.items() if "task" in dataset.options} == {"organ_folders", "manifest"}
