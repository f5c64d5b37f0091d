"""Files of a run whose lines are JSON and not what was written: each is named, and nothing else is believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anatobench.errors import AnatoBenchError
from anatobench.tasks import Task, get_task
from anatobench.training.checkpoints.folder import BEST_FILE, FOLDER, best_step
from anatobench.training.metrics_log import MetricsLog
from anatobench.training.metrics_records import METRICS_FILE, read_records
from anatobench.training.sessions import SESSIONS_FILE, read_sessions

STEP = {"kind": "step", "step": 1, "epoch": 1, "loss": 0.5, "classification": 0.5, "gradient_norm": 1.0,
        "learning_rate": 1e-3, "batch_digest": "ab", "seconds": 0.1}  # fmt: skip
GOOD = json.dumps(STEP).encode() + b"\n"


@pytest.mark.parametrize("line", [b"null", b"[]", b"5", b"{}", b'{"kind": "x", "step": 1}', b'{"kind": [], "step": 1}'])
def test_a_log_with_a_line_that_is_no_record_is_named_when_a_run_goes_on(tmp_path: Path, line: bytes) -> None:
    log = tmp_path / METRICS_FILE
    log.write_bytes(GOOD + line + b"\n" + GOOD)
    with pytest.raises(AnatoBenchError, match=rf"{METRICS_FILE}, line 2: not a record: delete the line"):
        MetricsLog(tmp_path, 2, 0)
    assert log.read_bytes() == GOOD + line + b"\n" + GOOD


def test_a_log_that_is_no_text_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_bytes(GOOD + b"\xa7\x00\n")
    with pytest.raises(AnatoBenchError, match=rf"{METRICS_FILE}, line 2: not a record"):
        read_records(tmp_path)


WRONG: list[dict[str, object]] = [
    *({name: value for name, value in STEP.items() if name != lost} for lost in ("step", "loss", "gradient_norm")),
    {**STEP, "seconds": "0.1"},
    {**STEP, "classification": None},
    {**STEP, "loss": True},
    {**STEP, "step": float("inf")},
    {**STEP, "step": 10**309},
    {**STEP, "seconds": float("nan")},
    {"kind": "evaluation", "step": float("inf"), "auc_macro": 0.7},
    {"kind": "sharpness", "step": 1},
    {"kind": "evaluation", "step": 1, "auc_macro": "0.7"},
    {"kind": "evaluation", "step": None},
]


@pytest.mark.parametrize("record", WRONG, ids=str)
def test_a_record_without_its_figures_is_named_with_its_line(tmp_path: Path, record: dict[str, object]) -> None:
    good = [STEP, {"kind": "evaluation", "step": 1, "auc_macro": None}]
    log = tmp_path / METRICS_FILE
    log.write_text("\n".join(map(json.dumps, good)))
    assert read_records(tmp_path) == good
    log.write_text("\n".join(map(json.dumps, [*good, record])))
    with pytest.raises(AnatoBenchError, match=rf"{METRICS_FILE}, line 3: not a record"):
        read_records(tmp_path)


@pytest.mark.parametrize("weights", [[], [1.0], [1.0, 2.0, 3.0]])
def test_a_task_with_another_number_of_weights_is_refused_as_damaged(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="unpack"):
        Task.from_json({**get_task("ratic").to_json(), "any_injury_sample_weights": weights})


@pytest.mark.parametrize("record", [{"step": 7, "checkpoint": "step_00000005"}, {"step": 7, "checkpoint": None}, []])
def test_a_best_step_that_its_checkpoint_contradicts_is_named(tmp_path: Path, record: object) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / BEST_FILE).write_text(json.dumps(record))
    with pytest.raises(AnatoBenchError, match=f"{BEST_FILE}: damaged"):
        best_step(tmp_path)


@pytest.mark.parametrize("device", ["gpu", [], 5, True])
def test_a_start_on_what_is_no_device_is_named(tmp_path: Path, device: object) -> None:
    (tmp_path / SESSIONS_FILE).write_text(json.dumps({"step": 0, "device": device}))
    with pytest.raises(AnatoBenchError, match=f"{SESSIONS_FILE}: a line is no record"):
        read_sessions(tmp_path)
