"""Thresholds: the evaluation's where there is one of these weights, else 0.5 and a reason."""

import json
from pathlib import Path

import pytest
from tiny_store import FINDINGS

from anatobench.errors import AnatoBenchError
from anatobench.evaluation.thresholds import find_thresholds

FIGURES = {
    "thresholds": {"calcification": 0.3, "effusion": None},
    "threshold_rule": "youden",
    "threshold_split": "validation",
    "step": 7,
}


def test_the_evaluations_thresholds_are_used(tmp_path: Path) -> None:
    (tmp_path / "evaluation_validation.json").write_text(json.dumps({**FIGURES, "threshold_rule": "closest_to_corner"}))
    (tmp_path / "evaluation_test.json").write_text(json.dumps(FIGURES))
    found = find_thresholds(tmp_path, FINDINGS, 7)
    assert found.values == {"calcification": 0.3, "effusion": 0.5}
    assert found.rule == "youden"
    assert "evaluation_test.json" in found.source
    assert "on the validation split" in found.source
    assert "0.5 where" in found.source
    calls = found.findings({"calcification": 0.3, "effusion": 0.4999})
    assert [call["call"] for call in calls.values()] == ["positive", "negative"], "at the threshold is positive"


@pytest.mark.parametrize(("step", "reason"), [(8, "is of step 7, these weights of step 8"), (None, "step None")])
def test_another_checkpoints_thresholds_are_not(tmp_path: Path, step: int | None, reason: str) -> None:
    (tmp_path / "evaluation_test.json").write_text(json.dumps(FIGURES))
    found = find_thresholds(tmp_path, FINDINGS, step)
    assert (found.rule, set(found.values.values())) == ("fixed", {0.5})
    assert reason in found.source


def test_without_evaluation_it_says_so(tmp_path: Path) -> None:
    assert "no evaluation" in find_thresholds(tmp_path / "model.safetensors", FINDINGS, None).source


@pytest.mark.parametrize("content", ["", "{}", json.dumps({**FIGURES, "thresholds": {"effusion": 1}})])
def test_a_damaged_evaluation_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "evaluation_test.json").write_text(content)
    with pytest.raises(AnatoBenchError, match=r"evaluation_test.json: not what evaluate writes"):
        find_thresholds(tmp_path, FINDINGS, 7)
