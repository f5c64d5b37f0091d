"""A report believes no evaluation that holds something else than figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anatobench.errors import AnatoBenchError
from anatobench.report.run_results import _read_evaluation

GOOD: dict[str, Any] = {
    "auc": {"a": 0.7, "macro": 0.7},
    "sensitivity": {"a": None, "macro": 0.5},
    "specificity": {"a": 0.5, "macro": 0.5},
    "ci95": {"auc": {"a": None, "macro": [0.6, 0.8]}},
}


@pytest.mark.parametrize(
    "damage",
    [{"auc": {"a": "0.7", "macro": 0.7}}, {"auc": {"a": 0.7}}, {"auc": None}, {"sensitivity": [0.5]},
     {"specificity": 1}, {"ci95": {"auc": {"macro": [0.6]}}}, {"ci95": {"auc": {"macro": ["0.6", "0.8"]}}},
     {"ci95": {"auc": {"a": None}}}],
)  # fmt: skip
def test_what_is_no_figure_is_named(damage: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "evaluation_test.json"
    path.write_text(json.dumps(GOOD))
    assert _read_evaluation(path) == GOOD
    path.write_text(json.dumps({**GOOD, **damage}))
    with pytest.raises(AnatoBenchError, match=r"evaluation_test.json: not what evaluate writes"):
        _read_evaluation(path)
