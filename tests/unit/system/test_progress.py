"""What is said of long work in a job's log: whole lines, so that a launcher can put a task's number before each."""

import pytest

from anatobench.system import progress
from anatobench.system.progress import SharedProgress


def test_a_log_gets_whole_lines_and_nothing_from_who_is_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.0)
    for silent in (False, True):
        with SharedProgress(6, "test", "case", silent) as shown:
            shown.update(2)
            shown.update(4)
    first, second, rest = capsys.readouterr().err.split("\n")
    assert first.startswith("test: 2 of 6 cases, ")
    assert second.startswith("test: 6 of 6 cases, ")
    assert rest == ""


def test_a_short_work_is_not_worth_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with SharedProgress(6, "test", "case") as shown:
        shown.update(6)
    assert capsys.readouterr().err == ""
