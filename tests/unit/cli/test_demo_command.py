"""`anatobench demo` refuses what cannot work before it writes anything. (The whole of it is `make demo`.)"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exit_status import exit_status
from tiny_store import write_store

from anatobench.cli.demo import planned_runs, speed_and_organs
from anatobench.cli.main import build_parser
from anatobench.cli.train import _configuration
from anatobench.evaluation.organ_dice import OrganDice
from anatobench.experiments.runs import chains_of
from anatobench.report.run_results import RunResults
from anatobench.tasks import RATIC
from anatobench.training.run_folder import RunConfig


@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--cases", "5"], ["--seed", "-1"], ["--seed", str(2**32)]])
def test_wrong_arguments_exit_with_2(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(["demo", "--out", str(tmp_path / "demo"), *arguments]) == 2
    assert arguments[0] in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def planned_run(folder: Path) -> RunConfig:
    write_store(folder / "store", RATIC, {"train": 1})
    return planned_runs(folder / "demo", folder / "store", epochs=1, seed=0)[0].config


def test_its_runs_are_trained_as_ever(tmp_path: Path) -> None:
    """A demo that an older version began goes on: it said this to `train` in words."""
    store, out = tmp_path / "store", tmp_path / "demo"
    write_store(store, RATIC, {"train": 1})
    runs = planned_runs(out, store, epochs=9, seed=3)
    assert [run.name for run in runs] == ["torch_seg", "jax_seg"]
    for run in runs:
        words = ["train", "--task", "ratic", "--store", str(store), "--model", "r3d_18", "--framework",
                 run.config.framework, "--out", "run", "--resume", "--evaluate-every", "3", "--set", "epochs=9",
                 "--set", "batch_size=4", "--set", "learning_rate=0.002", "--set", "seed=3"]  # fmt: skip
        if run.config.framework == "jax":
            first = out / "runs" / run.name.replace("jax", "torch")
            words += ["--initial-weights", str(first / "initial.safetensors")]
        assert run.config == _configuration(build_parser(["train"]).parse_args(words))
    commands = [command for chain in chains_of(runs, out) for command in chain.commands]
    assert [command[0] for command in commands] == ["train", "evaluate"] * 2
    trained = [_configuration(build_parser(["train"]).parse_args(command)) for command in commands[::2]]
    assert [config.framework for config in trained] == ["torch", "jax"], "the first draws what the second takes"


def test_it_shows_speed_and_organs_and_compares_no_auc(tmp_path: Path) -> None:
    run = RunResults(
        tmp_path, planned_run(tmp_path), [{"seconds": 0.25}] * 6, [], None, None, [], [], [],
        OrganDice(("liver", "kidney_left"), ("a",), np.array([[0.75, np.nan]])),
    )  # fmt: skip
    header, rows = speed_and_organs([run, replace(run, organ_dice=None, steps=[])])
    assert header == ("run", "seconds per step", "steps", "Dice, mean", "Dice, liver", "Dice, kidney left")
    assert rows[0] == ("PyTorch, with segmentation", "0.250", "6", "0.750", "0.750", "-")
    assert rows[1][1:] == ("not measured", "0", "-", "-", "-")
