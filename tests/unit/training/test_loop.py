"""The loop, with an engine that needs no framework."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept_checkpoints import newest_checkpoint
from numpy_engine import POISON_HU, Measured, NumpyEngine, NumpySaver
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_store import FINDINGS, write_store

from anatobench.engine import PendingSave
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.evaluation.judges import validator
from anatobench.recipes import Recipe
from anatobench.store.batch import Batch
from anatobench.store.batches import steps_per_epoch, training_batches
from anatobench.store.reader import Store
from anatobench.system.host import cpu_name, describe_code
from anatobench.system.processes import Processes
from anatobench.system.signals import Interrupted
from anatobench.tasks import Size
from anatobench.training.checkpoints import Progress, read_best, read_newest, save_checkpoint
from anatobench.training.loop import Judgement, TrainingData, train
from anatobench.training.metrics_log import MetricsLog
from anatobench.training.run_folder import RunConfig, begin_run
from anatobench.training.schedule import learning_rate

RECIPE = Recipe(epochs=3, batch_size=2, learning_rate=0.05)
CONFIG = RunConfig(FINDINGS, "store", "torch", "r3d_18", "tiny", RECIPE, checkpoint_every=3)
TOTAL = 12  # 8 cases in batches of 2, 3 epochs


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"))


class Session:
    """One process's worth of training."""

    def __init__(self, run: Path, store: Store, config: RunConfig = CONFIG) -> None:
        self.run, self.store, self.config = run, store, begin_run(run, config, resume=True)
        self.engine = NumpyEngine(config.spec, config.recipe)

    def train(self, before_step: Callable[[int], None] = lambda step: None) -> Progress:
        recipe, take_step = self.config.recipe, self.engine.train_step

        def noticed(batch: Batch, rate: float, step: int, *rest: Any) -> Measured:
            before_step(step)
            return take_step(batch, rate, step, *rest)

        setattr(self.engine, "train_step", noticed)  # noqa: B010
        with training_batches(self.store, recipe.seed, recipe.batch_size) as batches:
            data = TrainingData(
                batches,
                steps_per_epoch(self.store, recipe.batch_size),
                lambda index: self.store.cases[index].case_id,
                validator(self.engine, self.store, recipe.batch_size),
                self._first_batch(),
            )
            return train(self.run, self.config, self.engine, data)

    def _first_batch(self) -> Batch:
        with training_batches(self.store, self.config.recipe.seed, self.config.recipe.batch_size) as batches:
            return next(batches)


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


Outcome = tuple[dict[str, bytes], Progress, list[dict[str, Any]], dict[str, Any]]


def outcome(run: Path) -> Outcome:
    """Return everything that must not depend on how often a run was stopped: weights and moments by their bytes, the
    log without its times."""
    newest = newest_checkpoint(run)
    arrays = {**newest.weights, **newest.trees["optimizer"]}
    log = [
        {name: value for name, value in json.loads(line).items() if name != "seconds"}
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    best = json.loads((run / "checkpoints" / "best.json").read_text())
    return {name: array.tobytes() for name, array in arrays.items()}, newest.progress, log, best


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


class Killed(BaseException):
    """Stands for a kill: nothing of the loop's own handling runs."""


def kill_at(moment: int) -> Callable[[int], None]:
    def kill(step: int) -> None:
        if step == moment:
            raise Killed

    return kill


def test_a_run_logs_every_step_and_evaluation(tmp_path: Path, store: Store) -> None:
    progress = Session(tmp_path, store).train()
    steps, evaluations = records(tmp_path, "step"), records(tmp_path, "evaluation")
    assert (progress.step, progress.epoch, progress.evaluated_step) == (TOTAL, 3, TOTAL)
    assert [record["step"] for record in steps] == list(range(1, TOTAL + 1))
    assert [record["epoch"] for record in steps] == [1] * 4 + [2] * 4 + [3] * 4
    assert [(record["step"], record["epoch"], record["split"]) for record in evaluations] == [
        (4, 1, "validation"),
        (8, 2, "validation"),
        (12, 3, "validation"),
    ]
    assert [record["learning_rate"] for record in steps] == [learning_rate(RECIPE, i, TOTAL) for i in range(TOTAL)]
    with training_batches(store, RECIPE.seed, RECIPE.batch_size) as batches:
        assert [record["batch_digest"] for record in steps] == [next(batches).digest() for _ in range(TOTAL)]
    assert set(evaluations[0]["auc"]) == {"calcification", "effusion"}
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert set(steps[0]) == {"kind", "step", "epoch", "loss", "classification", "any_injury", "segmentation",
                             "gradient_norm", "learning_rate", "batch_digest", "seconds"}  # fmt: skip


def test_the_device_gets_the_next_step_before_the_last_is_looked_at(tmp_path: Path, store: Store) -> None:
    session = Session(tmp_path, store, replace(CONFIG, max_steps=3, checkpoint_every=100))
    session.train()
    assert session.engine.events == [1, 2, -1, 3, -2, -3]


def test_the_best_checkpoint_is_that_of_the_highest_validation_auc(tmp_path: Path, store: Store) -> None:
    Session(tmp_path, store).train()
    evaluations = records(tmp_path, "evaluation")
    best = max(evaluations, key=lambda record: (record["auc_macro"], -record["step"]))  # the first of equals
    saved = json.loads((tmp_path / "checkpoints" / "best.json").read_text())
    assert (saved["step"], saved["auc_macro"]) == (best["step"], best["auc_macro"])
    assert read_best(tmp_path).progress.step == best["step"]


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


def test_a_loss_that_is_not_finite_names_the_case_and_saves_nothing(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    index = store.split("train")[3]
    poison = store.cases[index].case_id
    volume, _ = store.read_crop(index, (0, 0, 0), store.geometry.padded_size)
    config = replace(CONFIG, recipe=replace(RECIPE, epochs=1), checkpoint_every=1)
    run, real = tmp_path / "run", Store.read_crop

    def poisoned(self: Store, i: int, start: Size, size: Size, out: Any = None) -> tuple[np.ndarray, np.ndarray]:
        volume, organs = real(self, i, start, size, out)
        if i == index:
            volume[0, 0, 0] = POISON_HU
        return volume, organs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "read_crop", poisoned)
        with pytest.raises(AnatoBenchError, match=rf"step \d: the loss of case {poison} is not finite.*fp32") as caught:
            Session(run, store, config).train()
    step = int(str(caught.value).split()[1].rstrip(":"))
    newest = read_newest(run)
    assert (newest.progress.step if newest else 0) == step - 1
    assert [record["step"] for record in records(run, "step")] == list(range(1, step))
    assert volume.dtype == np.int16


def test_a_gradient_that_is_not_finite_stops_the_run_although_the_loss_is_fine(tmp_path: Path, store: Store) -> None:
    session = Session(tmp_path, store)
    real = session.engine.train_step

    def overflow(batch: Batch, rate: float, step: int, *rest: Any) -> Measured:
        pending = real(batch, rate, step, *rest)
        return replace(pending, metrics=replace(pending.metrics, gradient_norm=float("inf"))) if step == 1 else pending

    setattr(session.engine, "train_step", overflow)  # noqa: B010
    with pytest.raises(AnatoBenchError, match=r"step 2: the gradient is not finite; its cases are train_\d, train_\d"):
        session.train()


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


def test_a_store_without_validation_cases_trains_all_the_same(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", sizes={"train": 8})
    progress = Session(tmp_path / "run", store).train()
    assert (progress.step, progress.best) == (TOTAL, None)
    assert records(tmp_path / "run", "evaluation") == []
    assert read_best(tmp_path / "run").progress.step == TOTAL


def test_evaluations_and_the_end_of_a_shortened_run(tmp_path: Path, store: Store) -> None:
    Session(tmp_path, store, replace(CONFIG, max_steps=10, evaluate_every=2)).train()
    assert [record["step"] for record in records(tmp_path, "evaluation")] == [8, 10]
    assert records(tmp_path, "step")[-1]["learning_rate"] == learning_rate(RECIPE, 9, 10)


def test_an_impossible_warmup_is_refused_before_any_work(tmp_path: Path, store: Store) -> None:
    session = Session(tmp_path, store, replace(CONFIG, recipe=replace(RECIPE, warmup_steps=12)))
    with pytest.raises(UsageError, match="warmup_steps=12"):
        session.train()
    assert session.engine.events == []


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


class ResourceExhaustedError(RuntimeError):
    """As either framework would raise it."""


def test_a_device_that_is_full_is_one_line_with_the_batch(store: Store, tmp_path: Path) -> None:
    session = Session(tmp_path, store)

    def full(step: int) -> None:
        if step == 4:
            raise ResourceExhaustedError("RESOURCE_EXHAUSTED: Out of memory\nwhile trying to allocate 4 GiB")

    with pytest.raises(AnatoBenchError, match=r"batch_size=2 in fp32: .*the checkpoint of step 4 is intact") as caught:
        session.train(full)
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="something else"):
        session.train(lambda step: (_ for _ in ()).throw(RuntimeError("something else")))


def test_a_cpu_is_refused_where_the_job_has_gpus(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "2")
    with pytest.raises(AnatoBenchError, match=r"SLURM_GPUS_ON_NODE=2.*--device cpu"):
        Session(tmp_path, store).train()
    assert not (tmp_path / "checkpoints").exists()
    monkeypatch.setenv("ANATOBENCH_DEVICE", "cpu")
    assert Session(tmp_path, store).train().step == TOTAL


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


def test_an_epoch_that_is_cut_short_has_one_number(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """In steps, in the evaluation that ends the run, in its checkpoint and in the sentence for a person."""
    progress = Session(tmp_path, store, replace(CONFIG, max_steps=6)).train()
    assert [record["epoch"] for record in records(tmp_path, "step")] == [1] * 4 + [2] * 2
    assert [(record["step"], record["epoch"]) for record in records(tmp_path, "evaluation")] == [(4, 1), (6, 2)]
    assert progress.epoch == 2
    said = capsys.readouterr().err
    assert "step 6/6, epoch 2, loss" in said
    assert "epoch 2: validation AUC" in said


SCORES = (0.5, 0.7, 0.6, None, 0.8, 0.8, 0.75, 0.9)
"""Of the epochs of `scripted`: undefined once, equal to the best once."""


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Have validation say `SCORES`; a run long enough for all of them."""

    def judged(engine: NumpyEngine, *rest: object) -> Callable[[Callable[[], None]], Judgement]:
        return lambda check: Judgement("auc_macro", "AUC", SCORES[taken[0] // 4 - 1], {})

    def counted(self: NumpyEngine, batch: Batch, rate: float, step: int, *rest: Any) -> Measured:
        taken[0] = step + 1
        return plain(self, batch, rate, step, *rest)

    taken = [0]
    plain = NumpyEngine.train_step
    monkeypatch.setattr(NumpyEngine, "train_step", counted)
    monkeypatch.setitem(globals(), "validator", judged)
    return replace(CONFIG, recipe=replace(RECIPE, epochs=len(SCORES)))


@pytest.mark.parametrize(("patience", "ends", "best"), [(1, 12, 8), (2, 16, 8), (3, 32, 32), (None, 32, 32)])
def test_patience_ends_a_run_and_keeps_its_best(
    tmp_path: Path, store: Store, scripted: RunConfig, patience: int | None, ends: int, best: int
) -> None:
    reached = Session(tmp_path, store, replace(scripted, patience=patience)).train()
    assert reached.step == newest_checkpoint(tmp_path).progress.step == ends
    assert reached.best is not None
    assert reached.best.step == json.loads((tmp_path / "checkpoints" / "best.json").read_text())["step"] == best


@pytest.mark.parametrize("moment", [4, 9, 13, 15])
def test_a_killed_run_has_the_patience_that_was_left(
    tmp_path: Path, store: Store, scripted: RunConfig, moment: int
) -> None:
    config = replace(scripted, patience=2)
    Session(tmp_path / "whole", store, config).train()
    with pytest.raises(Killed):
        Session(tmp_path / "killed", store, config).train(kill_at(moment))
    Session(tmp_path / "killed", store, config).train()
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    Session(tmp_path / "killed", store, config).train()  # one that ended stays as it is
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
