"""The one training loop. It knows a framework only as an `Engine`, so what is not arithmetic on tensors exists once."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from anatobench.backbones import card_of
from anatobench.engine import Engine, PendingMetrics, StepMetrics
from anatobench.errors import AnatoBenchError
from anatobench.objectives.registry import plan_of
from anatobench.store.batch import Batch
from anatobench.system.device_memory import is_out_of_memory
from anatobench.system.gpus import refuse_unwanted_cpu
from anatobench.system.processes import after_leader, raise_together
from anatobench.system.signals import Interrupted, StopSignals
from anatobench.training.checkpoints import (
    Best,
    Checkpoint,
    CheckpointSaver,
    Progress,
    clear_leftovers,
    read_newest,
    record_best,
    step_folder,
)
from anatobench.training.initial_weights import INITIAL_WEIGHTS_FILE, Say, begin_with, say_on_stderr
from anatobench.training.judgement import Judgement
from anatobench.training.metrics_log import MetricsLog, NoLog
from anatobench.training.metrics_records import finite_or_none, step_record, what_is_not_finite
from anatobench.training.mllog import NO_MLLOG, MlLog
from anatobench.training.open_session import OpenSession
from anatobench.training.run_folder import CONFIG_FILE, RunConfig
from anatobench.training.schedule import learning_rate
from anatobench.training.sessions import note_session
from anatobench.training.sharpness import sharpness
from anatobench.training.step_progress import StepProgress
from anatobench.training.step_trace import NO_TRACE, StepTrace

ANSWER_TO_SIGNALS = "stopping after this step, which is then saved; Ctrl-C now ends at once, without saving"
"""What a signal to stop is answered with."""


class TrainingBatches(Protocol):
    """Endless batches whose place can be saved."""

    def __next__(self) -> Batch: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class TrainingData:
    """What the loop needs to know of a store."""

    batches: TrainingBatches
    steps_per_epoch: int
    case_id: Callable[[int], str]
    """Name of a `Batch.case_index`, for messages."""
    validate: Callable[[Callable[[], None]], Judgement] | None
    """Judges the model on the validation split, calling its argument between batches; None without such a split."""
    sharpness_batch: Batch | None = None
    """On which sharpness is measured: the same one all along, so that a curve is a property of the weights."""
    synthetic: bool = False
    """Whether the cases are known to be no patient's."""


@dataclass(frozen=True)
class _StepInFlight:
    """A step that the device may still be working on."""

    step: int
    learning_rate: float
    batch_digest: str
    case_index: np.ndarray
    pending: PendingMetrics
    seconds: float
    """What it took to get the batch and to give it to the device."""


def train(
    run: Path,
    config: RunConfig,
    engine: Engine,
    data: TrainingData,
    say: Say = say_on_stderr,
    silent: bool = False,
    trace: StepTrace = NO_TRACE,
    mllog: MlLog = NO_MLLOG,
) -> Progress:
    """Train until the run's last step, going on from its newest checkpoint; where the run then stands.

    `say` is told what the run begins with; how far it is is shown on stderr, unless `silent`. `trace` and `mllog` look
    on.

    A signal to stop saves a checkpoint and raises `Interrupted`. `AnatoBenchError` if the loss, a gradient or a weight
    is not finite, or if a checkpoint could not be written; the checkpoints before it stay. Where several processes
    train the run, the first one keeps the log and seals the checkpoints.
    """
    refuse_unwanted_cpu(engine.device()["kind"])
    training = _Training(run, config, engine, data, trace, mllog)
    training.restore(say)
    leads = engine.processes.leads
    with (
        StopSignals("" if silent or not leads else ANSWER_TO_SIGNALS) as stop,
        closing(training.open_log()) as log,
        closing(CheckpointSaver(run, engine.saver(), leads, log.sync, training.raise_together)) as saver,
        closing(StepProgress(training.step, training.total_steps, silent=silent or not leads)) as progress,
        closing(trace),
    ):
        try:
            training.loop(OpenSession(engine, stop, saver, log, progress))
            return training.finish()
        except Exception as error:
            training.abort()
            if isinstance(error, AnatoBenchError) or not is_out_of_memory(error):
                raise
            raise training.out_of_memory(error) from None


class _Training:
    """The state of one run while it trains."""

    def __init__(
        self, run: Path, config: RunConfig, engine: Engine, data: TrainingData, trace: StepTrace, mllog: MlLog
    ) -> None:
        self._run, self._config, self._engine, self._data = run, config, engine, data
        self._trace, self._mllog = trace, mllog
        self._processes = engine.processes
        self._plan = plan_of(config.recipe, config.task)
        self.total_steps = config.total_steps(data.steps_per_epoch)
        self.step = 0
        """Steps given to the device."""
        self.evaluated_step = 0
        self._best: Best | None = None
        self._said_undefined = ""
        self._saved = (0, 0)
        """Step and evaluated step of the checkpoint last begun or read."""
        self._restored_step = 0
        """Of the checkpoint that was read; 0 if there was none."""
        self._saver: CheckpointSaver | None = None
        self._in_flight: _StepInFlight | None = None
        self._compiled = False
        """Whether this process has given the device a step."""
        learning_rate(config.recipe, 0, self.total_steps)  # refuses an impossible schedule before any work

    def out_of_memory(self, error: Exception) -> AnatoBenchError:
        """In one line: what did not fit, and what to do."""
        cases, count, precision = self._config.recipe.batch_size, self._processes.count, self._config.recipe.precision
        share = f" ({cases // count} in each of {count} processes)" if count > 1 else ""
        wishes = ["a smaller --set batch_size="]
        if precision != "bf16":
            wishes.append("--set precision=bf16")
        if not (self._config.recipe.recompute or card_of(self._config.model).has_batch_norm):
            wishes.append("--set recompute=true")
        said = " ".join(str(error).split())[:160]
        return AnatoBenchError(
            f"out of memory in step {self.step + 1} with batch_size={cases}{share} in {precision}: begin a run with "
            f"{', '.join(wishes)}, or take more or larger GPUs{self._intact()} ({type(error).__name__}: {said})"
        )

    def restore(self, say: Say) -> None:
        """Take up the newest checkpoint, or begin with the initial weights if there is none."""
        if self._processes.leads:
            clear_leftovers(self._run, (CONFIG_FILE, INITIAL_WEIGHTS_FILE))
        checkpoint = read_newest(self._run)
        found = self._engine.gather(np.array([0 if checkpoint is None else checkpoint.progress.step]))
        if len(np.unique(found)) > 1:
            raise AnatoBenchError(
                f"{self._run}: the processes found different checkpoints, of steps {np.unique(found).tolist()}: "
                "the run's folder must be on a file system that all of them share"
            )
        if checkpoint is None:
            begin_with(self._run, self._config, self._engine, say)
            return
        progress = checkpoint.progress
        self._refuse_other_trees(checkpoint)
        try:
            self._engine.load_state(checkpoint.trees)
        except AnatoBenchError as error:  # intact, and of another model
            folder = step_folder(self._run, progress.step)
            raise AnatoBenchError(
                f"{folder}: {error}: delete the folder, and resuming goes back to an older one"
            ) from None
        self._data.batches.set_state(dict(progress.batches))
        self.step, self.evaluated_step, self._best = progress.step, progress.evaluated_step, progress.best
        self._saved, self._restored_step = (self.step, self.evaluated_step), self.step
        if self._processes.leads:
            record_best(self._run, self._best)

    def _refuse_other_trees(self, checkpoint: Checkpoint) -> None:
        """Raise `AnatoBenchError` if the checkpoint lacks a part of the state, which would begin anew in silence, or
        has one that would be lost."""
        wanted = {"model", "optimizer", *(["teacher"] if self._plan.has_teacher else [])}
        if set(checkpoint.trees) != wanted:
            raise AnatoBenchError(
                f"{self._run}: the checkpoint of step {checkpoint.progress.step} holds "
                f"{', '.join(sorted(checkpoint.trees))}, objective {self._config.recipe.objective} goes on from "
                f"{', '.join(sorted(wanted))}: resume with the objective that the run began with"
            )

    def begin_session(self) -> None:
        """Note who trains from here on."""
        note_session(self._run, self._config.recipe, self._engine, self.step, self._data.synthetic)
        reached = self.step if self._data.validate is None else self.evaluated_step
        if reached == self.total_steps or self._out_of_patience:
            self._mllog = NO_MLLOG  # the run has ended, and its log with it
        epoch, rest = divmod(self.step, self._data.steps_per_epoch)
        self._mllog.begin(self.step, self.evaluated_step, epoch + 1 if rest else None)

    def finish(self) -> Progress:
        """Note the end; where the run stands."""
        self._mllog.stop("success", self.step)
        return self._progress()

    def abort(self) -> None:
        """Note that the run ended by an error."""
        self._mllog.stop("aborted", self.step)

    def loop(self, session: OpenSession) -> None:
        """Take steps, evaluations and checkpoints until the end or a signal."""
        self._saver = session.saver
        if self.step:
            session.progress.say(f"going on after step {self.step} of {self.total_steps}")
        try:
            if self.step == 0:
                self._measure_sharpness_if_due(session)
            self._evaluate_if_due(session)  # the run may have been stopped while it evaluated
            while self.step < self.total_steps and not self._out_of_patience:
                self._start_step(session)
                self._end_epoch_if_due(session)
                self._measure_sharpness_if_due(session)
                self._evaluate_if_due(session)
                if self.step % self._config.checkpoint_every == 0 or self.step == self.total_steps:
                    self._save(session)
                session.check()
            if self._out_of_patience and self._best is not None:
                told = f"no better validation in {self._config.patience} evaluations"
                session.progress.say(
                    f"{told}: ended after step {self.step}, the best is that of step {self._best.step}"
                )
            session.saver.wait()
        except Interrupted as interrupted:
            self._save(session)
            session.saver.wait()
            raise Interrupted(
                f"{interrupted} after step {self.step} of {self.total_steps}, which is saved: "
                f"give the same command with --resume to go on"
            ) from None
        finally:
            session.wait_for_the_others()

    @property
    def _out_of_patience(self) -> bool:
        """Whether as many evaluations as the run has patience for followed the best one. It is told from steps alone,
        which checkpoints keep, so that a resumed run ends where the whole one does."""
        if self._config.patience is None or self._best is None:
            return False
        between = self._config.evaluate_every * self._data.steps_per_epoch
        return -(-(self.evaluated_step - self._best.step) // between) >= self._config.patience

    def open_log(self) -> MetricsLog:
        """Begin the session and open the log, which forgets what came after the present step, where this process leads;
        what it cannot write ends all of them."""
        return after_leader(self._processes, self._engine.gather, self._begin_log) or NoLog()

    def _begin_log(self) -> MetricsLog:
        self.begin_session()
        return MetricsLog(self._run, self.step, self.evaluated_step, held=not self._processes.alone)

    def raise_together(self, failure: BaseException | None) -> None:
        """See `anatobench.system.processes.raise_together`."""
        raise_together(self._processes, self._engine.gather, failure)

    def _start_step(self, session: OpenSession) -> None:
        """Give the device a step, and only then look at the previous one, so that the device never waits for it."""
        self._trace.before_step(self.step)
        epoch, rest = divmod(self.step, self._data.steps_per_epoch)
        if rest == 0:
            self._mllog.epoch("epoch_start", epoch + 1, self.step)
        started = time.perf_counter()
        with self._trace.named_range("data"):
            batch = next(self._data.batches)
        rate = learning_rate(self._config.recipe, self.step, self.total_steps)
        with nullcontext() if self._compiled else session.progress.compiling(), self._trace.named_range("step"):
            phase = self._plan.phase_of_epoch(epoch)
            pending = self._engine.train_step(batch, rate, self.step, session.wants_to_end, phase)
        self._compiled = True
        self.step += 1
        digest = batch.digest()  # while the device works
        seconds = time.perf_counter() - started
        begun = _StepInFlight(self.step, rate, digest, batch.case_index, pending, seconds)
        self._finish_step(session)
        self._in_flight = begun

    def _finish_step(self, session: OpenSession) -> None:
        """Wait for the step in flight, if there is one, check it and log it."""
        step, self._in_flight = self._in_flight, None
        if step is None:
            return
        started = time.perf_counter()
        metrics = step.pending.fetch()
        # Host time of this step and the wait for it: what a step costs whether the device works alongside or not.
        seconds = step.seconds + time.perf_counter() - started
        self._check_finite(step, metrics)
        session.end_agreed = metrics.stop
        epoch = self._epoch_of(step.step)
        session.log.step(step_record(step.step, epoch, metrics, step.learning_rate, step.batch_digest, seconds))
        session.progress.show(step.step, epoch, metrics.loss)

    def _end_epoch_if_due(self, session: OpenSession) -> None:
        within = self.step % self._data.steps_per_epoch and self.step < self.total_steps
        if self._mllog.silent or within:
            return
        self._finish_step(session)
        self._mllog.epoch("epoch_stop", self._epoch_of(self.step), self.step)

    def _measure_sharpness_if_due(self, session: OpenSession) -> None:
        every, batch = self._config.sharpness_every, self._data.sharpness_batch
        if batch is None or not every or self.step % every:
            return
        self._finish_step(session)
        found = sharpness(self._engine, batch)
        session.log.sharpness({"kind": "sharpness", "step": self.step, **asdict(found)})

    def _evaluate_if_due(self, session: OpenSession) -> None:
        epochs, rest = divmod(self.step, self._data.steps_per_epoch)
        due = self.step == self.total_steps or (rest == 0 and epochs % self._config.evaluate_every == 0)
        if self._data.validate is None or not due or self.step == self.evaluated_step:
            return
        self._finish_step(session)
        epoch = self._epoch_of(self.step)
        self._mllog.epoch("eval_start", epoch, self.step)
        found = self._data.validate(session.check_between_batches)
        self._mllog.accuracy(found.score, found.name, epoch, self.step)
        self._mllog.epoch("eval_stop", epoch, self.step)
        record = {"kind": "evaluation", "step": self.step, "epoch": epoch, "split": "validation"}
        score = finite_or_none(found.score)
        session.log.evaluation({**record, found.name: score, **finite_or_none(found.details)})
        if found.score is not None or str(found) != self._said_undefined:  # what the split lacks is said once
            session.progress.say(f"epoch {epoch}: {found}")
            self._said_undefined = str(found) if found.score is None else ""
        self.evaluated_step = self.step
        if score is not None and (self._best is None or score > self._best.score):
            self._best = Best(self.step, found.name, score)
        self._save(session)

    def _save(self, session: OpenSession) -> None:
        """Begin a checkpoint of where the run stands, unless there is one already."""
        if self._saved == (self.step, self.evaluated_step):
            return
        self._finish_step(session)
        session.saver.begin(self._progress())
        self._saved = (self.step, self.evaluated_step)

    def _progress(self) -> Progress:
        return Progress(
            step=self.step,
            epoch=self._epoch_of(self.step),
            batches=self._data.batches.get_state(),
            evaluated_step=self.evaluated_step,
            best=self._best,
            framework=self._engine.name,
            versions=self._engine.device()["versions"],
        )

    def _epoch_of(self, step: int) -> int:
        """Return the epoch, from 1, in which the step of that number, from 1, is taken; 0 before the first."""
        return -(-step // self._data.steps_per_epoch)

    def _check_finite(self, step: _StepInFlight, metrics: StepMetrics) -> None:
        names = (self._data.case_id(int(index)) for index in step.case_index)
        what = what_is_not_finite(metrics, names, self._processes.alone)
        if what:
            raise AnatoBenchError(
                f"step {step.step}: {what}: look at the data, lower the learning rate or use precision "
                f"fp32{self._intact()}"
            )

    def _intact(self) -> str:
        """Return what remains, once what is on its way to the disk is there."""
        sealed = 0 if self._saver is None else self._saver.settle()
        newest = sealed or self._restored_step
        return f"; the checkpoint of step {newest} is intact" if newest else ""
