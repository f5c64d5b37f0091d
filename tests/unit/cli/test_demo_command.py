"""`anatobench demo` refuses what cannot work before it writes anything. (The whole of it is `make demo`.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from anatobench.cli.main import main


@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--cases", "5"], ["--seed", "-1"], ["--seed", str(2**32)]])
def test_wrong_arguments_exit_with_2(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), *arguments]) == 2
    assert arguments[0] in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
