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
