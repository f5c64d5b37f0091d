"""The AUC study, small and declared: both frameworks, with and without segmentation, two seeds, every arm with a
learning rate that validation chose, interrupted and taken up again."""

from __future__ import annotations

import html
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from exit_status import exit_status
from record_schema import assert_valid
from tiny_store import write_store

from anatobench.cli.main import build_parser, main
from anatobench.cli.train import _configuration
from anatobench.errors import AnatoBenchError
from anatobench.experiments.auc_plan import read_plan
from anatobench.experiments.auc_results import (
    arm_table,
    class_table,
    collect,
    complete_seeds,
    difference_table,
    gain_table,
    hypothesis_table,
)
from anatobench.experiments.auc_study import AucStudy, begin, name_of, planned, store_of
from anatobench.experiments.child_processes import Chain, run_chains
from anatobench.experiments.runs import DONE, chains_of, run_folder, state_of
from anatobench.report.auc_page import build_auc_page
from anatobench.tasks import get_task
from anatobench.training.run_folder import RunConfig, evaluation_file

SMALL = ["--models", "r3d_18", "--seeds", "2", "--cases", "40", "--steps", "24", "--workers", "2"]
DECLARED = ["--models", "r3d_18", "--cases", "40", "--steps", "5", "--learning-rates", "1e-5,4e-3",
            "--validation-fraction", "0.2", "--cohort-seed", "6"]  # fmt: skip
STUDY = AucStudy(models=("r3d_18",), seeds=2, cases=40, steps=24)


def evaluations(out: Path) -> dict[str, int]:
    """Return every finished run and when it was evaluated."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.rglob(evaluation_file("test"))}


def declared(folder: Path, seeds: int = 1, margin: float = 0.02) -> Path:
    """Declare the study for so many seeds and that margin."""
    plan = folder / f"plan_{seeds}_{margin}.json"
    words = [*DECLARED, "--seeds", str(seeds), "--margin", str(margin)]
    assert main(["experiments", "declare", "--out", str(plan), *words]) == 0
    return plan


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Declare and begin it, interrupt it after the first finished run, let its time run out, then run it to its end
    with another margin, which is a change."""
    folder = tmp_path_factory.mktemp("studies")
    out, plan = folder / "auc", str(declared(folder))
    words = ["experiments", "auc", "--out", str(out), "--workers", "2", "--plan"]
    process = subprocess.Popen(
        [sys.executable, "-m", "anatobench", *words, plan], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and not evaluations(out):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 130, errors
    before = evaluations(out)
    assert before
    assert main([*words, plan, "--minutes", "0.01"]) == 1, "no seed is complete"
    assert main([*words, str(declared(folder, margin=0.05)), "--amend", "a reviewer asked"]) == 0
    after = evaluations(out)
    assert before.items() <= after.items(), "a finished run was run again"
    assert len(after) == 6 + 4, "both arms in three forms, and two rates for each"
    return out


@pytest.mark.slow
def test_the_frameworks_reach_the_same_auc(study: Path) -> None:
    record = json.loads((study / "record.json").read_text())
    assert_valid(record, "auc_study")
    assert len(record["cells"]) == 6
    # The same weights and batches and nothing drawn at random: in 5 steps only rounding parts them.
    for kind in ("framework_difference", "control_difference"):
        assert [abs(row["mean"]) for row in record[kind]] == pytest.approx([0, 0], abs=0.03)
    auc = {cell["segmentation"]: cell["auc"]["macro"] for cell in record["cells"]}
    assert auc[True] != auc[False], "the head must make a difference"
    assert all(cell["curve"][-1][0] == 5 for cell in record["cells"]), "validation cases judge every run at its end"


@pytest.mark.slow
def test_every_arm_has_the_rate_that_validation_liked_best(study: Path) -> None:
    record = json.loads((study / "record.json").read_text())
    for row in record["choice"]:
        rates = row["validation"]
        best = max(rates.values())
        assert row["chosen"] == min(float(rate) for rate, auc in rates.items() if auc == best)
        for cell in record["cells"]:
            if cell["segmentation"] == row["segmentation"]:
                factor = 1 + 1e-6 * cell["nudged"]
                assert cell["learning_rate"] == pytest.approx(row["chosen"] * factor, rel=1e-12)
    assert len(record["choice"]) == 2


@pytest.mark.slow
def test_the_record_says_what_was_declared_and_what_was_changed(study: Path) -> None:
    kept = json.loads((study / "record.json").read_text())["plan"]
    assert kept["plan"]["study"]["margin"] == 0.02
    assert [(one["changed"], one["reason"]) for one in kept["changes"]] == [
        ({"margin": [0.02, 0.05]}, "a reviewer asked")]  # fmt: skip
    page = (study / "report.html").read_text()
    assert kept["digest"] in page
    assert "margin: 0.02 -&gt; 0.05 (a reviewer asked)" in page


@pytest.mark.slow
def test_seeds_that_are_done_are_collected_and_what_is_no_pair_is_refused(study: Path, tmp_path: Path) -> None:
    read, _ = read_plan(declared(tmp_path, seeds=2))
    assert complete_seeds(read, study) == (0,)
    assert collect(read, study, (0,))["seeds"] == [0]
    with pytest.raises(AnatoBenchError, match="seed1"):
        collect(read, study)
    shutil.copytree(study, tmp_path / "other")
    log = tmp_path / "other" / "runs" / "r3d_18_seg_seed0_jax" / "metrics.jsonl"
    (first, *_) = re.findall(r'"batch_digest": ?"(\w+)"', log.read_text())
    log.write_text(log.read_text().replace(first, "0" * len(first)))
    with pytest.raises(AnatoBenchError, match="saw other batches than r3d_18_seg_seed0_torch"):
        collect(read, tmp_path / "other", (0,))


@pytest.mark.slow
def test_the_page_says_what_the_record_says(study: Path) -> None:
    record = json.loads((study / "record.json").read_text())
    page = (study / "report.html").read_text()
    assert len(page) == pytest.approx(len(build_auc_page(record)), rel=0.01)  # matplotlib names its shapes anew
    for table in (difference_table, gain_table, class_table, arm_table, hypothesis_table):
        for row in table(record).rows:
            for cell in row:
                assert html.escape(cell) in page
    assert 'src="http' not in page


def test_other_settings_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(STUDY, tmp_path)
    words = ["experiments", "auc", "--out", str(tmp_path), *SMALL]
    assert main([*words, "--margin", "0.05"]) == 1
    assert "margin: 0.02 -> 0.05" in capsys.readouterr().err
    assert main([*words, "--seeds", "1"]) == 1
    assert "seeds: 2 -> 1" in capsys.readouterr().err, "runs that are there would be missing from the record"


def test_what_is_done_is_not_run_again(tmp_path: Path) -> None:
    write_store(store_of(tmp_path), get_task("ct_rate"), {"train": 1})
    runs = planned(STUDY, tmp_path)
    assert [len(chain.commands) for chain in chains_of(runs, tmp_path)] == [6, 6, 6, 6]
    for cell in STUDY.groups[0]:
        folder = run_folder(tmp_path, name_of(cell))
        folder.mkdir(parents=True)
        (folder / evaluation_file("test")).write_text("{}")
        remaining = chains_of([run for run in runs if state_of(tmp_path, run.name) != DONE], tmp_path)
        assert len(remaining) == (3 if cell.nudged else 4)
    first, *others = runs[:3]
    assert first.config.initial_weights is None
    for run in others:
        assert run.first == first.name
        assert run.config.initial_weights == str(run_folder(tmp_path, first.name) / "initial.safetensors")


def test_folders_and_what_is_trained_in_them_are_as_ever(tmp_path: Path) -> None:
    """Studies that older versions began go on: they said this to `train` in words."""
    write_store(store_of(tmp_path), get_task("ct_rate"), {"train": 1})
    study = AucStudy(models=("swin3d_t",), seeds=1, cases=40, steps=24)
    runs = {run.name: run.config for run in planned(study, tmp_path)}
    assert list(runs) == [f"swin3d_t_{head}_seed0_{arm}" for head in ("seg", "no_seg")
                          for arm in ("torch", "jax", "torch_nudged")]  # fmt: skip
    for name, config in runs.items():
        learning_rate = 2e-3 * (1 + 1e-6) if "nudged" in name else 2e-3
        words = ["train", "--task", "ct_rate", "--store", str(store_of(tmp_path)), "--model", "swin3d_t",
                 "--framework", config.framework, "--steps", "24", "--out", "run", "--resume",
                 "--checkpoint-every", "24", "--set", "batch_size=4", "--set", f"learning_rate={learning_rate}",
                 "--set", "dropout=false", "--set", "seed=0", "--set", "epochs=24",
                 *(["--no-seg"] if "no_seg" in name else [])]  # fmt: skip
        if config.initial_weights is not None:
            words += ["--initial-weights", config.initial_weights]
        assert config == _configuration(build_parser(["train"]).parse_args(words))


def test_it_is_handed_over_to_slurm_as_two_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(chains: list[Chain], logs: Path, workers: int, until: float) -> list[Chain]:
        write_store(store_of(logs.parent), get_task("ct_rate"), {"train": 1})
        return chains

    monkeypatch.setattr("anatobench.cli.experiments_auc.run_chains", prepare)
    words = ["experiments", "auc", "--out", str(tmp_path / "auc"), *SMALL, "--submit", "--dry-run"]
    assert main([*words, "--at-a-time", "2", "--sbatch=--gpus-per-node=1"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("job=$(ANATOBENCH_REPOSITORY=")
    assert " --array=0-3%2 " in first
    assert " --array=0-7%2 " in second
    assert '"--dependency=afterok:$job"' in second
    for plan in (tmp_path / "auc" / "plans").iterdir():
        for line in plan.read_text().splitlines():
            task, run, _, config, *_ = line.split("\t")
            begins = RunConfig.read_file(Path(config)).initial_weights
            assert task == "ct_rate"
            assert (
                (begins is None) == (plan.name in first) == (run.endswith("seed0_torch") or run.endswith("seed1_torch"))
            )


def test_the_control_can_be_left_to_some_seeds() -> None:
    study = AucStudy(models=("r3d_18",), seeds=3, control_seeds=1)
    assert [cell.seed for cell in study.cells if cell.nudged] == [0, 0]
    assert len(study.cells) == 14


def test_a_failing_command_stops_the_rest_and_says_why(tmp_path: Path) -> None:
    chains = [Chain("good", [["--version"]]), Chain("bad", [["evaluate", "nowhere"], ["--version"]])]
    with pytest.raises(AnatoBenchError, match=r"bad: .*nowhere.*no run here.*exit 1"):
        list(run_chains(chains, tmp_path, workers=2))


def test_the_run_at_work_and_its_log_are_named(tmp_path: Path) -> None:
    told: list[tuple[str, Path]] = []

    def begun(chain: Chain, log: Path) -> None:
        told.append((chain.name, log))
        assert log.is_file(), "a person may look at once"

    chains = [Chain(name, [["--version"]]) for name in ("first", "second")]
    list(run_chains(chains, tmp_path, 1, begun))
    assert told == [("first", tmp_path / "first.log"), ("second", tmp_path / "second.log")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--models", "resnet"],
        ["--seeds", "0"],
        ["--margin", "0"],
        ["--workers", "0"],
        ["--cases", "5"],
        ["--control-seeds", "4"],
        ["--task", "ct_rate", "--injuries", "moderate"],
    ],
)
def test_wrong_arguments_exit_with_2(arguments: list[Any], tmp_path: Path) -> None:
    assert exit_status(["experiments", "auc", "--out", str(tmp_path / "x"), *arguments]) == 2
    assert not (tmp_path / "x").exists()
