"""A run that is killed, signalled or resumed is the run that nothing disturbed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kept_checkpoints import newest_checkpoint
from loop_sessions import CONFIG, TOTAL, Killed, Outcome, Session, kill_at, outcome, records
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_store import write_store

from anatobench.store.reader import Store
from anatobench.system.host import cpu_name, describe_code
from anatobench.system.processes import Processes
from anatobench.system.signals import Interrupted
from anatobench.training.checkpoints import read_newest
from anatobench.training.loop import ANSWER_TO_SIGNALS
from anatobench.training.metrics_log import MetricsLog


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.mark.slow
def test_sharpness_is_measured_on_the_first_batch_and_once_per_step_however_often_the_run_stops(
    store: Store, tmp_path: Path
) -> None:
    def stop_at_five(step: int) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    config = replace(CONFIG, sharpness_every=3)
    with pytest.raises(Interrupted):
        Session(tmp_path, store, config).train(stop_at_five)
    session = Session(tmp_path, store, config)
    session.train()
    measured = records(tmp_path, "sharpness")
    assert [record["step"] for record in measured] == [0, 3, 6, 9, 12]
    first = int(session._first_batch().case_index[0]) + 1
    assert [record["largest_eigenvalue"] for record in measured] == pytest.approx([first] * 5)
    Session(tmp_path / "without", store).train()
    assert records(tmp_path / "without", "sharpness") == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, store: Store) -> Outcome:
    """Return the outcome of a run that nothing disturbed."""
    run = tmp_path_factory.mktemp("whole")
    Session(run, store).train()
    return outcome(run)


@pytest.mark.parametrize("first", range(TOTAL))
def test_killed_anywhere_twice_and_resumed_equals_uninterrupted(
    tmp_path: Path, store: Store, whole: Outcome, first: int
) -> None:

    for moment in (first, min(first + 2, TOTAL - 1)):
        with pytest.raises(Killed):
            Session(tmp_path / "killed", store).train(kill_at(moment))
    Session(tmp_path / "killed", store).train()
    assert outcome(tmp_path / "killed") == whole


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_saves_at_once_and_says_how_to_go_on(tmp_path: Path, store: Store, whole: Outcome, name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"stopped by {name} after step 5 of 12.*--resume"):
        Session(tmp_path / "stopped", store).train(lambda step: os.kill(os.getpid(), number) if step == 4 else None)
    assert signal.getsignal(number) == before
    assert newest_checkpoint(tmp_path / "stopped").progress.step == 5
    Session(tmp_path / "stopped", store).train()
    assert outcome(tmp_path / "stopped") == whole


def test_a_signal_during_an_evaluation_repeats_the_evaluation(tmp_path: Path, store: Store, whole: Outcome) -> None:
    session = Session(tmp_path / "stopped", store)
    predict, calls = session.engine.predict, []

    def predict_and_stop(volume: np.ndarray) -> np.ndarray:
        calls.append(volume)
        os.kill(os.getpid(), signal.SIGTERM)
        return predict(volume)

    setattr(session.engine, "predict", predict_and_stop)  # noqa: B010
    with pytest.raises(Interrupted):
        session.train()
    assert len(calls) == 1
    assert (newest_checkpoint(session.run).progress.step, newest_checkpoint(session.run).progress.evaluated_step) == (
        4,
        0,
    )
    Session(tmp_path / "stopped", store).train()
    assert outcome(tmp_path / "stopped") == whole


def test_a_signal_is_acknowledged_before_the_step_has_ended(
    tmp_path: Path, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    def stop_at_five(step: int) -> None:
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)
            said.append(capfd.readouterr().err)
            os.kill(os.getpid(), signal.SIGUSR1)
            said.append(capfd.readouterr().err)

    with pytest.raises(Interrupted):
        Session(tmp_path / "run", store).train(stop_at_five)
    assert said[0].endswith(f"SIGINT: {ANSWER_TO_SIGNALS}\n")
    assert said[1] == "", "said once"


def after_signals(*names: str) -> tuple[str, int]:
    """Return what a process prints that gets these signals one after the other, and how it ends."""
    script = (
        "import os, signal\n"
        "from anatobench.system.signals import StopSignals\n"
        "with StopSignals():\n"
        f"    for name in {names}:\n"
        "        os.kill(os.getpid(), getattr(signal, name)); print(name, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    return done.stdout, done.returncode


def test_the_clusters_signals_may_come_more_than_once() -> None:
    assert after_signals("SIGUSR1", "SIGUSR1", "SIGTERM", "SIGTERM") == ("SIGUSR1\nSIGUSR1\nSIGTERM\nSIGTERM\n", 0)


def test_a_second_ctrl_c_ends_the_process_at_once() -> None:
    assert after_signals("SIGINT", "SIGINT") == ("SIGINT\n", -signal.SIGINT)
    assert after_signals("SIGTERM", "SIGINT") == ("SIGTERM\n", -signal.SIGINT)


def test_a_damaged_newest_checkpoint_costs_only_time(tmp_path: Path, store: Store, whole: Outcome) -> None:
    with pytest.raises(Interrupted):
        Session(tmp_path / "hurt", store).train(
            lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 9 else None
        )
    weights = tmp_path / "hurt" / "checkpoints" / "step_00000010" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    Session(tmp_path / "hurt", store).train()
    assert outcome(tmp_path / "hurt") == whole


def test_resuming_drops_what_was_logged_after_the_checkpoint(tmp_path: Path) -> None:
    lines = [{"kind": "step", "step": 1}, {"kind": "step", "step": 2}, {"kind": "evaluation", "step": 2}]
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"kind": "step", "step": 3}]) + '{"kind": "st')
    MetricsLog(tmp_path, 2, 0).close()
    assert [json.loads(line) for line in log.read_text().splitlines()] == lines[:2]


def test_tensorboard_shows_each_step_once_after_a_kill(tmp_path: Path, store: Store) -> None:
    config = replace(CONFIG, checkpoint_every=100)
    with pytest.raises(Killed):
        Session(tmp_path, store, config).train(kill_at(7))  # two steps after the checkpoint are logged already
    Session(tmp_path, store, config).train()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    assert len(events.Scalars("train/loss")) == TOTAL
    assert losses == {r["step"]: pytest.approx(r["loss"], rel=1e-6) for r in records(tmp_path, "step")}
    assert [event.step for event in events.Scalars("validation/auc_macro")] == [4, 8, 12]


def test_sessions_say_where_a_run_was_trained(tmp_path: Path, store: Store) -> None:
    with pytest.raises(Interrupted):
        Session(tmp_path, store).train(lambda step: os.kill(os.getpid(), signal.SIGUSR1) if step == 6 else None)
    Session(tmp_path, store).train()
    sessions = [json.loads(line) for line in (tmp_path / "sessions.jsonl").read_text().splitlines()]
    assert [(session["step"], session["framework"], session["device"]["kind"]) for session in sessions] == [
        (0, "torch", "cpu"),
        (7, "torch", "cpu"),
    ]
    code = describe_code()
    assert all(session["commit"] == code["commit"] and session["cpu"] == cpu_name() for session in sessions)
    assert not any(session["synthetic"] for session in sessions), "this store does not say that it is"


def test_an_evaluation_of_several_processes_stops_when_one_of_them_is_asked_to(store: Store, tmp_path: Path) -> None:
    """Between the same batches in all of them: the other process has the signal, and this one hears of it."""
    session = Session(tmp_path, store)
    session.engine.processes = Processes(0, 2)
    predicted = []
    predict = session.engine.predict

    def counted(volume: np.ndarray) -> np.ndarray:
        predicted.append(len(volume))
        return predict(volume)

    def gather(array: np.ndarray) -> np.ndarray:
        asked = np.array([True]) if array.dtype == bool and predicted else array
        return np.stack([array, asked])

    setattr(session.engine, "predict", counted)  # noqa: B010
    setattr(session.engine, "gather", gather)  # noqa: B010
    with pytest.raises(Interrupted, match="another process was asked to stop after step 4 of 12, which is saved"):
        session.train()
    assert len(predicted) == 1
    assert not records(tmp_path, "evaluation")
    newest = read_newest(tmp_path)
    assert newest is not None
    assert (newest.progress.step, newest.progress.evaluated_step) == (4, 0)
