"""A few of the kills of `python -m tests.kill`, half of them while a checkpoint is on its way to the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked_python import SHALLOW

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("begins_at_once")]

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("framework", "kills"), [("torch", 4), ("jax", 3)])
def test_no_kill_costs_more_than_time(framework: str, kills: int, tmp_path: Path) -> None:
    pytest.importorskip(framework)
    command = [sys.executable, "-m", "tests.kill", "--kills", str(kills), "--framework", framework, "--json"]
    environment = {**os.environ, **SHALLOW, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    (found,) = json.loads(ended.stdout.splitlines()[-1])["campaigns"]
    assert found["kills"] == kills
    assert found["runs"] >= 1
    assert found["findings"] == []
