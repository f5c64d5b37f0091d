"""The AUC study, small: both frameworks, with and without segmentation, two seeds, interrupted and taken up again."""

from __future__ import annotations

import json
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
from anatobench.experiments.auc_results import collect, difference_table, gain_table
from anatobench.experiments.auc_study import AucStudy, name_of, planned, store_of
from anatobench.experiments.child_processes import Chain, run_chains
from anatobench.experiments.runs import DONE, chains_of, run_folder, state_of
from anatobench.report.auc_page import build_auc_page
from anatobench.tasks import get_task
from anatobench.training.run_folder import RunConfig, evaluation_file

SMALL = ["--models", "r3d_18", "--seeds", "2", "--cases", "40", "--steps", "24", "--workers", "2"]
STUDY = AucStudy(models=("r3d_18",), seeds=2, cases=40, steps=24)


def evaluations(out: Path) -> dict[str, int]:
    """Return every finished run and when it was evaluated."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.rglob(evaluation_file("test"))}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Begun with one seed, interrupted after the first finished pair of runs, then run to its end with two."""
    out = tmp_path_factory.mktemp("studies") / "auc"
    command = [sys.executable, "-m", "anatobench", "experiments", "auc", "--out", str(out), *SMALL, "--seeds", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and not evaluations(out):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 130, errors
    before = evaluations(out)
    assert 1 <= len(before) < len(STUDY.cells)
    assert main(["experiments", "auc", "--out", str(out), *SMALL]) == 0
    after = evaluations(out)
    assert before.items() <= after.items(), "a finished run was run again"
    assert len(after) == len(STUDY.cells)
    return out


@pytest.mark.slow
def test_the_frameworks_reach_the_same_auc(study: Path) -> None:
    record = json.loads((study / "record.json").read_text())
    assert_valid(record, "auc_study")
    assert len(record["cells"]) == 12
    # The same weights and batches and nothing drawn at random: in 24 steps only rounding parts them.
    assert [abs(row["mean"]) for row in record["framework_difference"]] == pytest.approx([0, 0, 0], abs=0.02)
    assert record["framework_difference"][-1]["count"] == record["control_difference"][-1]["count"] == 4
    assert [abs(row["mean"]) for row in record["control_difference"]] == pytest.approx([0, 0, 0], abs=0.02)
    configs = [json.loads((study / "runs" / f"r3d_18_seg_seed0_{arm}" / "config.json").read_text())
               for arm in ("torch", "jax", "torch_nudged")]  # fmt: skip
    rates = {config["recipe"]["learning_rate"] for config in configs}
    assert sorted(rates) == pytest.approx([4e-3, 4.000004e-3], rel=1e-9)
    seeds = {(cell["seed"], cell["segmentation"]): cell["auc"]["macro"] for cell in record["cells"]}
    assert len(set(seeds.values())) == 4, "seeds and the head must make a difference"


@pytest.mark.slow
def test_the_page_says_what_the_record_says(study: Path) -> None:
    record = json.loads((study / "record.json").read_text())
    page = (study / "report.html").read_text()
    assert len(page) == pytest.approx(len(build_auc_page(record)), rel=0.01)  # matplotlib names its shapes anew
    for row in (*difference_table(record).rows, *gain_table(record).rows):
        for cell in row:
            assert cell in page
    assert 'src="http' not in page


@pytest.mark.slow
def test_other_settings_and_a_missing_run_are_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiments", "auc", "--out", str(study), *SMALL[:-2], "--margin", "0.05"]) == 1
    assert "margin: 0.02 -> 0.05" in capsys.readouterr().err
    assert main(["experiments", "auc", "--out", str(study), *SMALL, "--seeds", "1"]) == 1
    assert "seeds: 2 -> 1" in capsys.readouterr().err, "runs that are there would be missing from the record"
    with pytest.raises(AnatoBenchError, match="seed2"):
        collect(AucStudy(models=("r3d_18",), seeds=3, cases=40, steps=24), study)


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
    def prepare(chains: list[Chain], logs: Path, workers: int) -> list[Chain]:
        write_store(store_of(logs.parent), get_task("ct_rate"), {"train": 1})
        return chains

    monkeypatch.setattr("anatobench.cli.experiments.run_chains", prepare)
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
