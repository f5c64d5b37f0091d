"""Every Triton kernel against plain PyTorch, in Triton's interpreter.

Triton decides when it is first imported whether it interprets, and other tests import it in this process: so the
files beside this one whose names begin with `interpreted_` run together under a pytest of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.glob("interpreted_*.py"))
ROOT = Path(__file__).parents[3]
SUPPORT = ROOT / "tests" / "support"


@pytest.mark.slow
def test_interpreted() -> None:
    triton = pytest.importorskip("triton", reason="needs Triton, which CPU builds of torch come without")
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7):
        pytest.skip("needs Triton 3.7: the interpreter before it takes no loop up to a size with NumPy 2.4")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"TRITON_INTERPRET": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{SUPPORT}"}
    options = [
        "-q",
        "--continue-on-collection-errors",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-p",
        "quick_interpreter",
    ]
    command = [sys.executable, "-m", "pytest", *options, *map(str, FILES)]
    run = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert run.returncode == 0, run.stdout
    assert "skipped" not in run.stdout.splitlines()[-1], run.stdout
