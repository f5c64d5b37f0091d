"""Work that waits for other processes ends at once when it is asked to, and its cleaning up is not disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from anatobench.system.signals import STOPPING, Interrupted, interrupted_by_signals


@pytest.mark.parametrize("number", STOPPING)
def test_a_wait_ends_and_the_cleaning_up_does_not(number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in STOPPING]
    cleaned = False
    with pytest.raises(Interrupted, match=f"stopped by {number.name}"), interrupted_by_signals():  # noqa: PT012
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        try:
            threading.Event().wait(30)
        finally:
            for one in STOPPING:
                os.kill(os.getpid(), one)
            cleaned = True
    assert cleaned
    assert [signal.getsignal(one) for one in STOPPING] == before


HANG = """
import subprocess, sys, time
import anatobench.cli.evaluate as command
from anatobench.cli.main import main
from anatobench.system.signals import StopSignals
def run(args):
    print("here", flush=True)
    time.sleep(1.5)
def remembered(args):
    with StopSignals() as stop:
        run(args)
        stop.check()
command.run = {"run": run, "remembered": remembered}[sys.argv[1]]
sys.exit(main(["evaluate", "run"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("work", ["run", "remembered"])
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_command_ends_with_a_word_by_any_of_them_but_goes_on_under_nohup(work: str, number: signal.Signals) -> None:
    for before in ([], ["nohup"]):
        process = subprocess.Popen(
            [*before, sys.executable, "-c", HANG, work], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=100)
        if before and number == signal.SIGHUP:
            assert (process.returncode, said) == (0, "")
        else:
            assert (process.returncode, said) == (130, f"anatobench evaluate: stopped by {number.name}\n")


def test_a_second_wish_does_not_take_the_place_of_what_is_said_of_the_first() -> None:
    code = (
        "import os, signal, sys\nimport anatobench.cli.evaluate as command\nfrom anatobench.cli.main import main\n"
        "from anatobench.system.signals import Interrupted, StopSignals\n"
        "def run(args):\n"
        "    try:\n"
        "        with StopSignals():\n"
        "            raise Interrupted('all is saved')\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGUSR1)\n"
        "command.run = run\n"
        "sys.exit(main(['evaluate', 'run']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "anatobench evaluate: all is saved\n")


@pytest.mark.slow
@pytest.mark.parametrize("starts", ["worker", "command"])
def test_sigterm_ends_a_commands_children(tmp_path: Path, starts: str) -> None:
    """Whatever the command: here `prepare` with work that does not end, in a worker and in a process it waits for."""
    mark = tmp_path / "pid"
    busy = f"open({str(mark)!r}, 'w').write(str(__import__('os').getpid())), __import__('time').sleep(600)"
    work = {
        "worker": f"lambda args: list(run_in_workers(eval, [{busy!r}], 1))",
        "command": f"lambda args: subprocess.run([sys.executable, '-c', {busy!r}])",
    }[starts]
    code = (
        "import subprocess, sys\nimport anatobench.cli.prepare as command\nfrom anatobench.cli.main import main\n"
        "from anatobench.system.worker_pool import run_in_workers\n"
        f"if __name__ == '__main__':\n    command.run = {work}\n    sys.exit(main(['prepare', '--store', 'x']))\n"
    )
    (tmp_path / "command.py").write_text(code)
    process = subprocess.Popen([sys.executable, tmp_path / "command.py"], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 100
    while not mark.is_file() or not mark.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    said = process.communicate(timeout=100)[1].decode()
    assert (process.returncode, said.strip()) == (130, "anatobench prepare: stopped by SIGTERM")
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)
