"""What a record says of the code and the host."""

import subprocess
from pathlib import Path

import pytest

from anatobench.system.host import COMMIT_VARIABLE, TIMING_VARIABLES, describe_code, host_record


def test_a_copy_without_history_can_be_told_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    code = describe_code()
    if head.returncode == 0:
        assert code["commit"] == head.stdout.strip()
    monkeypatch.setenv(COMMIT_VARIABLE, "c0ffee")
    monkeypatch.setattr("anatobench.system.host.output_of", lambda command: None)
    assert describe_code()["commit"] == "c0ffee"


def test_what_the_caller_set_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TIMING_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert host_record()["environment"] == {}
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1073741824")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert host_record()["environment"] == {"MALLOC_TRIM_THRESHOLD_": "1073741824", "OMP_NUM_THREADS": "2"}
