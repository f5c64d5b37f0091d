"""The table of the page on partly annotated masks says what the committed records say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from anatobench.experiments.transfer import count_name
from anatobench.system.json_text import read_json

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "partial_masks.md").read_text()
RECORDS = {"5": "transfer_ct_rate_r3d_18_5_cases", "all": "transfer_ct_rate_r3d_18"}
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in PAGE.splitlines()
    if re.match(r"\| (5|all) \| (fine-tuned|frozen) ", line)
]


def written(interval: dict[str, Any] | None, sign: str = "") -> str:
    if interval is None:
        return "not run"
    mean, low, high = (100 * interval[name] for name in ("mean", "low", "high"))
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def record(cases: str) -> dict[str, Any]:
    found: dict[str, Any] = read_json(ROOT / "benchmarks" / "results" / f"{RECORDS[cases]}.json")
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row[:2]))
def test_auc_and_gains(row: tuple[str, ...]) -> None:
    cases, mode = row[:2]
    found = {
        one["weights"]: one
        for one in record(cases)["results"]
        if (count_name(one["cases"]), one["mode"], one["framework"]) == (cases, mode.replace("-", "_"), "torch")
    }
    gains = [found.get(weights, {}).get("gain") for weights in ("partial_masks", "all_masks")]
    expected = [written(found["none"]), written(found["partial_masks"]), *(written(gain, "+") for gain in gains)]
    assert list(row[2:]) == expected


def test_all_rows_are_found_and_organ_dice_is_the_records() -> None:
    assert len(ROWS) == 4
    dice = {one["weights"]: written(one["organs"]["macro"]) for one in record("5")["pretraining"]}
    text = " ".join(PAGE.split())
    assert (
        f"Dice of the organs is {dice['partial_masks']} per cent by partial masks, {dice['all_masks']} by whole" in text
    )
