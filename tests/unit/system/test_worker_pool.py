"""A worker's death costs its job alone. Jobs are expressions here: every process can import `eval`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from anatobench.errors import AnatoBenchError
from anatobench.system.worker_pool import NATIVE_THREAD_VARIABLES, TimedOut, WorkerDied, WorkerPlace, run_in_workers

DIE = "__import__('os').kill(__import__('os').getpid(), 9)"


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_job_has_its_result(workers: int) -> None:
    jobs = [f"{number} * {number}" for number in range(8)]
    assert dict(run_in_workers(eval, jobs, workers)) == {f"{n} * {n}": n * n for n in range(8)}


def test_more_workers_than_jobs_and_no_jobs_at_all() -> None:
    assert list(run_in_workers(eval, ["1"], 4)) == [("1", 1)]
    assert list(run_in_workers(eval, [], 4)) == []


def test_a_job_that_kills_its_worker_is_named_and_the_rest_is_done() -> None:
    jobs = ["1", DIE, "2", "__import__('os')._exit(5)", "3", "4"]
    results = dict(run_in_workers(eval, jobs, 2))
    assert results == {"1": 1, DIE: WorkerDied(-9), "2": 2, jobs[3]: WorkerDied(5), "3": 3, "4": 4}


def test_a_job_that_dies_beside_others_gets_a_second_chance_alone(tmp_path: os.PathLike[str]) -> None:
    """Out of memory, the system kills whom it likes: an innocent job succeeds when it is alone."""
    mark = os.path.join(tmp_path, "mark")
    job = f"'alone' if __import__('os').path.exists({mark!r}) else (open({mark!r}, 'w').close(), {DIE})"
    assert dict(run_in_workers(eval, ["1", job, "2"], 2)) == {"1": 1, job: "alone", "2": 2}


def test_workers_have_one_native_thread_each_and_this_process_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = NATIVE_THREAD_VARIABLES
    monkeypatch.setenv(first, "7")
    for name in others:
        monkeypatch.delenv(name, raising=False)
    jobs = [f"__import__('os').environ[{name!r}]" for name in NATIVE_THREAD_VARIABLES]
    assert set(dict(run_in_workers(eval, jobs, 1)).values()) == {"1"}
    assert os.environ[first] == "7"
    assert not set(others) & set(os.environ)


def test_leaving_early_stops_the_workers_at_once() -> None:
    results = run_in_workers(eval, ["__import__('os').getpid()", "__import__('time').sleep(600)"], 2)
    _, pid = next(results)
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 60
    assert isinstance(pid, int)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_workers_that_cannot_start_are_an_error_not_a_loop(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("known_to_this_process_alone")
    exec("def function(job): return job", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(AnatoBenchError, match="do not start"):
        list(run_in_workers(module.function, [1, 2], 1))
    assert "ModuleNotFoundError" in capfd.readouterr().err


@pytest.mark.slow
def test_a_worker_has_its_place_and_its_processes_go_with_it(tmp_path: os.PathLike[str]) -> None:
    """Whether it is stopped in the middle of its work or has died: nothing may go on running that nobody waits for."""
    places = [WorkerPlace({"CUDA_VISIBLE_DEVICES": gpu}, starts_processes=True) for gpu in ("3", "5")]
    see = "(__import__('time').sleep(0.2), __import__('os').environ['CUDA_VISIBLE_DEVICES'])[1]"
    jobs = [see, f"{see} + ''", DIE, f"'' + {see}", f"{see} * 1"]
    results = dict(run_in_workers(eval, jobs, 2, places=places))
    assert results.pop(DIE) == WorkerDied(-9)
    assert set(results.values()) == {"3", "5"}, "one that replaces a dead worker takes its place"
    assert os.environ.get("CUDA_VISIBLE_DEVICES") not in ("3", "5")

    mark = os.path.join(tmp_path, "pid")
    child = f"__import__('subprocess').Popen(['sh', '-c', 'echo $$ > {mark}; exec sleep 600'])"
    for after in ("0", DIE):
        job = f"({child}, __import__('time').sleep(1), {after})[2]"
        assert len(list(run_in_workers(eval, [job], 1, places=places))) == 1
        with open(mark) as file:
            child_id = int(file.read())
        deadline = time.monotonic() + 10
        while _runs(child_id):
            assert time.monotonic() < deadline, "the worker's own process outlived it"
            time.sleep(0.05)


def _runs(process_id: int) -> bool:
    try:
        with open(f"/proc/{process_id}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_job_that_takes_too_long_is_ended_and_named_and_the_rest_is_done() -> None:
    for_ever = "__import__('time').sleep(600)"
    began = time.monotonic()
    results = dict(run_in_workers(eval, ["1", for_ever, "2", "3"], 2, time_limit=lambda job: 3.0))
    assert results == {"1": 1, for_ever: TimedOut(3.0), "2": 2, "3": 3}
    assert time.monotonic() - began < 120


@pytest.mark.parametrize("starts_processes", [False, True])
@pytest.mark.parametrize("busy", ["__import__('time').sleep(600)", "[0 for _ in iter(int, 1)]"])
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path, busy: str, starts_processes: bool) -> None:
    """A parent killed with SIGKILL stops nobody: its workers, asleep or in a loop of their own, must see it."""
    mark = tmp_path / "pid"
    job = f"(open({str(mark)!r}, 'w').write(str(__import__('os').getpid())), {busy})"
    code = (
        "from anatobench.system.worker_pool import WorkerPlace, run_in_workers\n"
        f"if __name__ == '__main__': list(run_in_workers(eval, [{job!r}], 1, 1, "
        f"[WorkerPlace(starts_processes={starts_processes})]))\n"
    )
    (tmp_path / "parent.py").write_text(code)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"])
    try:
        wait_until(lambda: mark.is_file() and mark.read_text() != "")
        pid = int(mark.read_text())
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
