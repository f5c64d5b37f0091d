"""README's figures are those of the records that it names."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from documentation import REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results"
SECTION = re.search(r"^## Measured\n(.*?)^## ", (REPOSITORY / "README.md").read_text(), re.M | re.S)
assert SECTION is not None
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in SECTION[1].splitlines()
    if line.startswith("| ") and not line.startswith("| what ")
]
NOT_MEASURED = "not measured"


def record(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name.strip('`')}.json").read_text())
    return found


def interval(value: float, low: float, high: float, form: str = ".2f") -> str:
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def figures(name: str, read: dict[str, Any]) -> Iterator[str]:
    """Every figure that a row may quote from a record, written as README writes it."""
    kind = read.get("kind") or read["name"]
    if kind == "gpu_suite":
        for part in read["parts"].values():
            step = part.get("record")
            if isinstance(step, dict) and step.get("kind") == "step":
                yield from (interval(one["ratio"], *one["ci95"]) for one in step.get("ratios", []))
                for arm in step.get("arms", []):
                    if arm.get("mfu") is not None:
                        yield f"{1e3 * arm['median_s']:.1f} ms, {arm['mfu']:.1%}".replace("%", " %") + " MFU"
    elif kind == "step":
        yield from (interval(one["ratio"], *one["ci95"]) for one in read["ratios"])
    elif kind == "load_beside_peers":
        for arm in read["per_core"].values():
            yield interval(arm["times_as_long_as_ours"]["ratio"], *arm["times_as_long_as_ours"]["ci95"])
    elif kind == "prepare_scan":
        for arm in read["results"].values():
            if "times_ours" in arm:
                yield interval(arm["times_ours"], *arm["times_ours_ci95"])
    elif kind in ("auc_pilot", "auc_study"):
        for one in (*read["framework_difference"], *read["segmentation_gain"]):
            mean, low, high = (100 * one[key] for key in ("mean", "low", "high"))
            for digits in (1, 2):
                yield f"{mean:+.{digits}f} points [{low:+.1f}, {high:+.1f}]"
    else:
        raise AssertionError(f"{name}: a record of kind {kind}: say how README quotes it")


def test_the_table_is_seen() -> None:
    assert len(ROWS) >= 10


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_every_figure_is_in_its_record(row: list[str]) -> None:
    what, figure, where, name = row
    if figure == NOT_MEASURED:
        assert not name
        return
    read = record(name)
    assert figure in set(figures(name, read)), what
    commit = (read.get("code") or {}).get("commit")
    if commit:
        assert commit[:7] in where, f"{what}: the record is of commit {commit[:7]}"
    assert commit or "," not in where or where.split(", ")[1] in read["note"], what
