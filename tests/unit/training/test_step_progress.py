"""What training says while it compiles."""

import time

import pytest

import anatobench.training.step_progress as step_progress
from anatobench.training.step_progress import StepProgress


def test_a_first_step_that_takes_a_while_is_being_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step_progress, "COMPILING_S", 0.05)
    progress = StepProgress(0, 10)
    with progress.compiling():
        time.sleep(0.3)
    said = capsys.readouterr().err
    assert said.index("is being compiled") < said.index("compilation included")
    with progress.compiling():
        pass
    with pytest.raises(KeyError), progress.compiling():
        raise KeyError
    time.sleep(0.2)
    assert capsys.readouterr().err == ""
    progress.close()


def test_a_line_at_once_after_another_has_the_sessions_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = StepProgress(0, 5)
    now = 40.0
    progress.show(4, 1, 1.0)
    now = 40.001
    progress.show(5, 1, 1.0)
    first, last = capsys.readouterr().err.splitlines()
    assert "step 4/5, epoch 1, loss 1.0000, 0.1 steps/s" in first
    assert "step 5/5, epoch 1, loss 1.0000, 0.125 steps/s" in last
    monkeypatch.undo()
    progress.close()
