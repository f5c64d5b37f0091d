"""The whole way of the transfer as one command, small: raw scans, stores, pre-training, transfer, table and plot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from record_schema import assert_valid
from safetensors.numpy import load_file

from anatobench.cli.main import main
from anatobench.objectives.heads import without_auxiliary
from anatobench.training.checkpoints import read_best
from anatobench.training.metrics_records import read_records
from anatobench.training.run_folder import evaluation_file

SMALL = ["--cases", "40", "--pretraining-cases", "40", "--steps", "3", "--pretraining-steps", "3", "--repetitions", "1",
         "--weights", "none,partial_masks", "--modes", "fine_tuned", "--counts", "5", "--workers", "2"]  # fmt: skip
RATE = "0.004"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("transfer")
    assert main(["experiments", "transfer", "demo", "--out", str(out), *SMALL]) == 0
    return out


def run_of(demo: Path, weights: str, framework: str) -> Path:
    return demo / "transfer" / "runs" / f"{weights}_fine_tuned_5_rate{RATE}_{framework}_seed0"


@pytest.mark.slow
def test_all_see_the_same_batches_and_both_frameworks_begin_with_the_same_weights(demo: Path) -> None:
    digests = set()
    for weights in ("none", "partial_masks"):
        ours, theirs = (load_file(run_of(demo, weights, f) / "initial.safetensors") for f in ("torch", "jax"))
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            np.testing.assert_array_equal(array, theirs[name], err_msg=name)
        if weights == "partial_masks":
            trained = read_best(demo / "transfer" / "runs" / "pretraining_partial_masks_seed0").weights
            np.testing.assert_equal(ours, without_auxiliary(trained))
        for framework in ("torch", "jax"):
            steps = [r for r in read_records(run_of(demo, weights, framework)) if r["kind"] == "step"]
            assert [step["epoch"] for step in steps] == [1, 2, 3], "an epoch is one batch of the five cases"
            digests.add(tuple(step["batch_digest"] for step in steps))
    assert len(digests) == 1


@pytest.mark.slow
def test_the_table_and_the_plot_are_there_and_nothing_is_done_twice(demo: Path) -> None:
    record = json.loads((demo / "transfer" / "record.json").read_text())
    assert_valid(record, "transfer")
    assert record["synthetic"], "the cohorts are phantoms, and the page has to say so"
    assert record["missing"] == []
    assert len(record["results"]) + len(record["undefined"]) == 4
    (dice,) = record["pretraining"]
    assert dice["weights"] == "partial_masks"
    assert dice["cases"]
    assert "<img" in (demo / "transfer" / "report.html").read_text()
    before = {path: path.stat().st_mtime_ns for path in demo.rglob(evaluation_file("test"))}
    assert len(before) == 5
    assert main(["experiments", "transfer", "demo", "--out", str(demo), *SMALL]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
