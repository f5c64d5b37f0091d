"""A command that is printed to be copied means what was meant, whatever the folders are called."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path

import pytest
from tiny_store import FINDINGS

from anatobench.cli.demo import run_command
from anatobench.cli.experiment_actions import train
from anatobench.cli.main import main
from anatobench.errors import AnatoBenchError
from anatobench.evaluation.evaluation_file import read_evaluation
from anatobench.experiments import child_processes, runs


def test_collect_after_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "train_here", lambda *words: None)
    out = tmp_path / "my grid"
    train(argparse.Namespace(out=out, workers=1), "grid", [], 3)
    following = capsys.readouterr().out.strip().partition("; next: ")[2]
    assert shlex.split(following) == ["anatobench", "experiments", "grid", "collect", "--out", str(out)]


def test_the_study_after_its_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "my plan.json"
    words = ["--models", "r3d_18", "--cases", "40", "--steps", "24", "--seeds", "2"]
    assert main(["experiments", "declare", "--out", str(plan), *words]) == 0
    following = capsys.readouterr().err.strip().partition("; next: ")[2]
    assert shlex.split(following) == ["anatobench", "experiments", "auc", "--plan", str(plan), "--out", "DIR"]


def test_a_damaged_evaluation(tmp_path: Path) -> None:
    run = tmp_path / "my run"
    run.mkdir()
    (run / "evaluation_test.json").write_text(json.dumps([]))
    with pytest.raises(AnatoBenchError) as told:
        read_evaluation(run, "test", FINDINGS, ())
    assert shlex.split(copied(str(told.value))) == ["anatobench", "evaluate", str(run), "--split", "test"]


def test_what_the_demo_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(child_processes, "run_command", lambda words, capture: None)
    with pytest.raises(AnatoBenchError) as told:
        run_command("evaluate", Path("my demo"))
    assert shlex.split(copied(str(told.value))) == ["anatobench", "evaluate", "my demo"]
    assert capsys.readouterr().err.strip() == f"$ {copied(str(told.value))}"


def copied(message: str) -> str:
    """Return the command that a message quotes."""
    found = re.search("`(.*)`", message)
    assert found is not None
    return found[1]
