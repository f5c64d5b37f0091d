"""Ctrl-C is one line and exit status 130, whenever it comes: before the command's imports, in them, at its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anatobench.cli.main import COMMANDS, main

# Sends itself SIGINT when the module of that name is looked for, which no wall clock can do on a busy machine.
AT_AN_IMPORT = """
import os, signal, sys
from importlib.abc import MetaPathFinder
class Interrupting(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
        return None
sys.meta_path.insert(0, Interrupting())
from anatobench.__main__ import run
sys.argv = ["anatobench", *{words!r}]
if __name__ == "__main__":
    sys.exit(run())
"""


def interrupted(program: str, tmp_path: Path) -> str:
    (tmp_path / "program.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 130, done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("name", ["anatobench.cli.main", "argparse", "anatobench.errors"])
def test_before_the_command_is_known(tmp_path: Path, name: str) -> None:
    program = AT_AN_IMPORT.format(name=name, words=["prepare", "--help"])
    assert interrupted(program, tmp_path) == "anatobench: interrupted\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_in_the_imports_of_every_command(tmp_path: Path, command: str) -> None:
    program = AT_AN_IMPORT.format(name=f"anatobench.cli.{command}", words=[command, "--help"])
    assert interrupted(program, tmp_path) == f"anatobench {command}: interrupted\n"


def test_in_the_imports_of_its_work(tmp_path: Path) -> None:
    program = AT_AN_IMPORT.format(name="anatobench.session", words=["train", "--out", "run"])
    assert interrupted(program, tmp_path) == "anatobench train: interrupted\n"


def test_the_program_itself_is_what_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m anatobench` and the installed command take the same way."""
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert 'anatobench = "anatobench.__main__:run"' in project
    done = subprocess.run(
        [sys.executable, "-m", "anatobench", "--version"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
    assert done.stdout.startswith("anatobench ")


@pytest.mark.slow
def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    """As a shell has it for what it starts in the background."""
    program = AT_AN_IMPORT.format(name="anatobench.cli.prepare", words=["prepare", "--help"])
    (tmp_path / "program.py").write_text("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + program)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage: anatobench prepare" in done.stdout


def test_as_a_function_it_is_caught_wherever_it_comes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupting(commands: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("anatobench.cli.main.build_parser", interrupting)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "anatobench train: interrupted\n"
