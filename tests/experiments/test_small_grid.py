"""A small grid on a synthetic cohort in both frameworks: interrupted, taken up again, collected."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anatobench.cli.main import main
from anatobench.experiments.child_processes import Chain, run_chains
from anatobench.experiments.grid import Selection
from anatobench.training.run_folder import evaluation_file

FILTERS = ["--tables", "1,12", "--datasets", "ratic", "--models", "r3d_18", "--seeds", "1"]
SETTINGS = ["--from-scratch", "--steps", "8", "--set", "batch_size=2", "--set", "learning_rate=1e-3"]
CELLS = Selection(("1", "12"), ("ratic",), ("r3d_18",), seeds=1, from_scratch=True).cells


def evaluations(out: Path) -> dict[str, int]:
    """Return every finished run and when it was evaluated."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.rglob(evaluation_file("test"))}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interrupted after the first finished run, then run to its end and collected."""
    folder = tmp_path_factory.mktemp("grids")
    raw, stores, out = folder / "raw", folder / "stores", folder / "grid"
    phantom = ["phantom", "--format", "ratic", "--size", "tiny", "--cases", "24", "--workers", "1", "--out", str(raw)]
    prepare = ["prepare", "--dataset", "ratic", "--size", "tiny", "--raw", str(raw), "--masks", str(raw / "masks"),
               "--store", str(stores / "ratic"), "--validation-fraction", "0", "--workers", "0"]  # fmt: skip
    list(run_chains([Chain("cohort", [phantom, prepare])], folder / "logs", workers=1))
    words = ["experiments", "grid", "run", "--out", str(out), "--stores", str(stores), *FILTERS, *SETTINGS]
    process = subprocess.Popen(
        [sys.executable, "-m", "anatobench", *words, "--workers", "2"],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while process.poll() is None and not evaluations(out):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 130, errors
    before = evaluations(out)
    assert 1 <= len(before) < len(CELLS)
    # The folder knows its settings: the rest needs none.
    assert main(["experiments", "grid", "run", "--out", str(out), *FILTERS, "--workers", "2"]) == 0
    after = evaluations(out)
    assert before.items() <= after.items(), "a finished run was run again"
    assert set(after) == {cell.name for cell in CELLS}
    return out


@pytest.mark.slow
def test_both_frameworks_are_collected_beside_the_paper(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiments", "grid", "collect", "--out", str(grid), *FILTERS, "--json"]) == 0
    printed, errors = capsys.readouterr()
    record = json.loads(printed)
    assert record == json.loads((grid / "record.json").read_text())
    macro = {(row["framework"], row["segmentation_weight"]): row for row in record["results"] if row["table"] == "1"}
    assert set(macro) == {("torch", 0.0), ("jax", 0.0), ("torch", 1.0), ("jax", 1.0)}
    assert record["synthetic"] == ["ratic"]
    assert all(row["published"] is row["difference"] is None for row in macro.values()), "the paper's are of patients"
    test = json.loads((grid / "runs" / CELLS[0].name / evaluation_file("test")).read_text())
    defined = [name for name, auc in test["auc"].items() if auc is not None]  # a small test split lacks some grades
    assert {row["class"] for row in record["results"] if row["table"] == "12"} == set(defined)
    assert sum(row["table"] == "12" for row in record["results"]) == 4 * len(defined)
    assert record["missing"] == record["undefined"] == []
    assert {"torch", "jax", "python"} <= set(record["versions"])
    assert "ratic: tiny models" in errors
    page = (grid / "report.html").read_text()
    assert "ratic: synthetic cohort" in page
    assert "79.75" not in page
    assert len((grid / "results.csv").read_text().splitlines()) == 1 + len(record["results"])


@pytest.mark.slow
def test_both_frameworks_saw_the_same_batches(grid: Path) -> None:
    digests = {}
    for cell in CELLS:
        lines = map(json.loads, (grid / "runs" / cell.name / "metrics.jsonl").read_text().splitlines())
        digests[cell.name] = [line["batch_digest"] for line in lines if line["kind"] == "step"]
    assert len({tuple(run) for run in digests.values()}) == 1
    assert len(digests[CELLS[0].name]) == 8


@pytest.mark.slow
def test_done_runs_are_listed_and_passed_by(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = evaluations(grid)
    assert main(["experiments", "grid", "run", "--out", str(grid), *FILTERS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(grid), "done_before": 4, "done_now": 0}
    assert main(["experiments", "grid", "list", "--out", str(grid), *FILTERS, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["states"] == {"absent": 0, "begun": 0, "done": 4}
    assert [(row["step"], row["steps"]) for row in listed["cells"]] == [(8, 8)] * 4
    assert all(row["flop"] > 1e9 for row in listed["cells"])
    assert main(["experiments", "grid", "submit", "--out", str(grid), *FILTERS]) == 0
    assert "nothing to submit" in capsys.readouterr().out
    assert evaluations(grid) == before
    assert main(["experiments", "grid", "run", "--out", str(grid), *FILTERS, "--steps", "9"]) == 1
    assert "steps: 8 -> 9" in capsys.readouterr().err


@pytest.mark.slow
def test_the_supervision_of_a_recipe_reaches_both_frameworks_alike(grid: Path, tmp_path: Path) -> None:
    store = str(grid.parent / "stores" / "ratic")
    words = ["train", "--task", "ratic", "--store", store, "--model", "r3d_18", "--steps", "2", "--set", "batch_size=2",
             "--set", "supervising_organs=liver", "--set", "boundary_distortion=50"]  # fmt: skip
    chains = [Chain(name, [[*words, "--framework", name, "--out", str(tmp_path / name)]]) for name in ("torch", "jax")]
    list(run_chains(chains, tmp_path / "logs", workers=2))
    runs = [*(tmp_path / name for name in ("torch", "jax")), grid / "runs" / CELLS[0].name]
    torch_run, jax_run, plain = (
        [json.loads(line)["batch_digest"] for line in (run / "metrics.jsonl").read_text().splitlines()[:2]]
        for run in runs
    )
    assert torch_run == jax_run
    assert not set(torch_run) & set(plain)
