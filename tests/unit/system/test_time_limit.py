"""The time that a case may take grows with its size and with what the machine has to do besides."""

import os
from pathlib import Path

import pytest

from anatobench.errors import UsageError
from anatobench.system.time_limit import MOST_BUSY, SECONDS, SECONDS_PER_MB, VARIABLE, reading_seconds


def busy(monkeypatch: pytest.MonkeyPatch, load: float, cores: int) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)


@pytest.mark.parametrize(("load", "cores", "times"), [(0.3, 2, 1.0), (2, 2, 1.0), (9, 2, 4.5), (4000, 2, MOST_BUSY)])
def test_a_busy_machine_has_longer(monkeypatch: pytest.MonkeyPatch, load: float, cores: int, times: float) -> None:
    busy(monkeypatch, load, cores)
    assert reading_seconds() == pytest.approx(times * SECONDS)


def test_larger_cases_have_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy(monkeypatch, 0, 1)
    (tmp_path / "s").mkdir()
    for name in ("s/a", "s/b", "mask"):
        (tmp_path / name).write_bytes(bytes(2_000_000))
    found = reading_seconds(tmp_path / "s", tmp_path / "mask", None)
    assert found == pytest.approx(SECONDS + 6 * SECONDS_PER_MB)


def test_what_a_person_says_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    busy(monkeypatch, 100, 2)
    monkeypatch.setenv(VARIABLE, "7")
    assert reading_seconds() == 7
    for wrong in ("0", "-1", "nan", "long"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(UsageError, match=VARIABLE):
            reading_seconds()
