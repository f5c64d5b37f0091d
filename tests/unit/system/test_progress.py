"""What is said of long work in a job's log: whole lines, so that a launcher can put a task's number before each."""

import sys

import pytest
from tqdm import tqdm

from anatobench.system import progress
from anatobench.system.progress import SharedProgress, named_on, progress_bar


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


def test_a_bars_figures_are_whole_lines_in_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.0)
    with progress_bar(3, "test", "case", mininterval=0.0) as bar:
        tell = named_on(bar)
        tell("first")
        tqdm.write("a row", file=sys.stderr)
        tell("second")
    said = capsys.readouterr().err
    assert "\r" not in said
    assert "\n\n" not in said
    assert said.splitlines()[0].startswith("test: 0/3 in 00:00, ")
    assert "a row" in said.splitlines()
    assert said.splitlines()[-1].startswith("test: 2/3 in 00:00, ")
    assert said.endswith(", second\n")


def test_a_bar_of_short_work_is_not_worth_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(3, "test", "case") as bar:
        bar.update(3)
    assert list(progress_bar(2, "test", "case", iterable=range(2))) == [0, 1]
    assert capsys.readouterr().err == ""
