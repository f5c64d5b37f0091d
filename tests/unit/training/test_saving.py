"""Which checkpoints the loop keeps, and how it trains on while one is written."""

import errno
import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from kept_checkpoints import newest_checkpoint
from loop_sessions import CONFIG, TOTAL, Killed, Session, kill_at, outcome, records
from numpy_engine import NumpyEngine, NumpySaver
from tiny_store import write_store

from anatobench.engine import PendingSave
from anatobench.errors import AnatoBenchError
from anatobench.store.reader import Store
from anatobench.system.signals import Interrupted
from anatobench.training.checkpoints import read_best, read_newest, save_checkpoint


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"))


def test_the_best_checkpoint_is_that_of_the_highest_validation_auc(tmp_path: Path, store: Store) -> None:
    Session(tmp_path, store).train()
    evaluations = records(tmp_path, "evaluation")
    best = max(evaluations, key=lambda record: (record["auc_macro"], -record["step"]))  # the first of equals
    saved = json.loads((tmp_path / "checkpoints" / "best.json").read_text())
    assert (saved["step"], saved["auc_macro"]) == (best["step"], best["auc_macro"])
    assert read_best(tmp_path).progress.step == best["step"]


@pytest.mark.parametrize("trees", [{"model"}, {"model", "optimizer", "teacher"}])
def test_a_checkpoint_of_another_kind_of_state_is_not_gone_on_from(
    tmp_path: Path, store: Store, trees: set[str]
) -> None:
    """Its moments would begin anew, or its teacher be dropped, and nobody would know."""
    Session(tmp_path, store, replace(CONFIG, max_steps=3)).train()
    found = newest_checkpoint(tmp_path)
    every = {**found.trees, "teacher": found.weights}
    save_checkpoint(tmp_path, replace(found, trees={tree: every[tree] for tree in trees}))
    with pytest.raises(AnatoBenchError, match=r"step 3 holds .*, objective diagnosis goes on from model, optimizer"):
        Session(tmp_path, store, replace(CONFIG, max_steps=3)).train()


def test_a_checkpoint_of_another_model_is_named_with_its_folder(tmp_path: Path, store: Store) -> None:
    """Intact by its checksums: somebody copied it there."""
    Session(tmp_path, store, replace(CONFIG, max_steps=3)).train()
    found = newest_checkpoint(tmp_path)
    others = {tree: {f"other.{name}": array for name, array in arrays.items()} for tree, arrays in found.trees.items()}
    save_checkpoint(tmp_path, replace(found, trees={**others, "optimizer": found.trees["optimizer"]}))
    with pytest.raises(AnatoBenchError, match=r"step_00000003: weights do not fit.*: delete the folder, and"):
        Session(tmp_path, store, replace(CONFIG, max_steps=3)).train()


def test_going_back_before_the_best_checkpoint_forgets_it(tmp_path: Path, store: Store) -> None:
    with pytest.raises(Killed):
        Session(tmp_path, store).train(kill_at(4))
    assert json.loads((tmp_path / "checkpoints" / "best.json").read_text())["step"] == 4
    (tmp_path / "checkpoints" / "step_00000004" / "state.json").unlink()
    with pytest.raises(Killed):
        Session(tmp_path, store).train(kill_at(3))
    assert read_best(tmp_path).progress.step == 3


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, store: Store) -> None:
    Session(tmp_path, store).train()
    before = outcome(tmp_path)
    session = Session(tmp_path, store)
    assert session.train().step == TOTAL
    assert session.engine.events == []
    assert outcome(tmp_path) == before


class SlowDisk:
    """A `StateSaver` whose files take their time: until `release` is set."""

    def __init__(self, engine: NumpyEngine, events: list[str], error: Exception | None = None) -> None:
        self.release, self.begun = threading.Event(), threading.Event()
        self._saver, self._events, self._error = NumpySaver(engine), events, error

    def begin(self, folder: Path) -> PendingSave:
        pending = self._saver.begin(folder)
        self._events.append(f"begin {folder.name}")
        self.begun.set()
        return _SlowlyWritten(self, pending)

    def close(self) -> None:
        self._saver.close()


@dataclass(frozen=True)
class _SlowlyWritten:
    disk: SlowDisk
    pending: PendingSave

    @property
    def writer(self) -> Mapping[str, str]:
        return self.pending.writer

    def finish(self) -> None:
        assert self.disk.release.wait(60)
        if self.disk._error is not None:
            raise self.disk._error
        self.pending.finish()
        self.disk._events.append("written")


def test_steps_go_on_while_a_checkpoint_is_written_and_the_next_one_waits_for_it(store: Store, tmp_path: Path) -> None:
    events: list[str] = []
    session = Session(tmp_path, store, replace(CONFIG, evaluate_every=3))
    disk = SlowDisk(session.engine, events)
    setattr(session.engine, "saver", lambda: disk)  # noqa: B010

    def before_step(step: int) -> None:
        events.append(f"step {step + 1}")
        if step == 5:  # the one before the next save: until here nothing was sealed
            assert not (tmp_path / "checkpoints" / "step_00000003").exists()
            assert read_newest(tmp_path) is None
            disk.release.set()

    session.train(before_step)
    assert events[:9] == [
        "step 1", "step 2", "step 3", "begin .step_00000003.tmp", "step 4", "step 5", "step 6", "written",
        "begin .step_00000006.tmp",
    ]  # fmt: skip


def test_a_failed_save_ends_the_run_at_the_next_step_with_the_disks_reason(store: Store, tmp_path: Path) -> None:
    events: list[str] = []
    session = Session(tmp_path, store)
    disk = SlowDisk(session.engine, events, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    setattr(session.engine, "saver", lambda: disk)  # noqa: B010

    def before_step(step: int) -> None:
        events.append(f"step {step + 1}")
        if step == 3:
            disk.release.set()
            (thread,) = [thread for thread in threading.enumerate() if thread.name == "checkpoint"]
            thread.join()

    with pytest.raises(AnatoBenchError, match=r"step_00000003: cannot be written \(No space left on device\)"):
        session.train(before_step)
    assert events[-1] == "step 4" or events[-2:] == ["step 4", "begin .step_00000004.tmp"]
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT"])
def test_a_signal_waits_for_the_save_on_its_way(store: Store, tmp_path: Path, name: str) -> None:
    events: list[str] = []
    session = Session(tmp_path, store, replace(CONFIG, checkpoint_every=3, evaluate_every=3))
    disk = SlowDisk(session.engine, events)
    setattr(session.engine, "saver", lambda: disk)  # noqa: B010

    def release_after_the_signal() -> None:
        assert disk.begun.wait(60)
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(0.2)
        disk.release.set()

    sender = threading.Thread(target=release_after_the_signal)
    sender.start()
    with pytest.raises(Interrupted, match=f"stopped by {name} after step"):
        session.train(lambda step: time.sleep(0.05))
    sender.join()
    newest = newest_checkpoint(tmp_path)
    assert newest.progress.step >= 3
    assert not list((tmp_path / "checkpoints").glob(".*"))
