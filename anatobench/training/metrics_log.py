"""What a run measured while it trained: `RUN/metrics.jsonl` for programs, TensorBoard events for eyes."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from anatobench.errors import AnatoBenchError
from anatobench.system.atomic_files import write_atomically
from anatobench.system.json_text import parse_json
from anatobench.training.metrics_records import METRICS_FILE

TENSORBOARD_FOLDER = "tensorboard"
_NOT_PLOTTED = ("kind", "step", "epoch", "batch_digest")


class MetricsLog:
    """Appends records; opened at the step a run goes on from, it forgets what was logged after it."""

    def __init__(self, run: Path, step: int, evaluated_step: int, held: bool = False) -> None:
        """With `held`, what the disk refuses is kept in `failure`, not raised: several processes end together."""
        self._path, events = run / METRICS_FILE, run / TENSORBOARD_FOLDER
        self._held = held
        self.failure: AnatoBenchError | None = None
        with self._disk_named(), ExitStack() as opened:
            if self._path.exists():
                _forget_later(self._path, step, evaluated_step)
            self._file = opened.enter_context(self._path.open("a", encoding="utf-8"))
            events.mkdir(exist_ok=True)
            # TensorBoard's own writer is a thread that prints a traceback when the disk is full.
            self._events = opened.enter_context((events / _events_file()).open("xb"))
            self._records = RecordWriter(self._events)
            self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))
            if step:  # tells TensorBoard to forget, too
                log = SessionLog(status=SessionLog.START)
                self._add(Event(wall_time=time.time(), step=step + 1, session_log=log))
            opened.pop_all()

    def step(self, record: Mapping[str, Any]) -> None:
        """Log a training step: a flat JSON object with `kind` "step"."""
        self._write(record, {f"train/{name}": value for name, value in record.items() if name not in _NOT_PLOTTED})

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Log an evaluation: `kind` "evaluation", `split`, `epoch`, the judge's score under its name and its details,
        None where undefined."""
        values: dict[str, float | None] = {}
        for name, value in record.items():
            if isinstance(value, Mapping):
                values |= {f"{name}/{part}": figure for part, figure in value.items()}
            elif name not in ("kind", "step", "epoch", "split"):
                values[name] = value
        defined = {f"{record['split']}/{name}": value for name, value in values.items() if value is not None}
        self._write(record, defined)

    def sharpness(self, record: Mapping[str, Any]) -> None:
        """Log a measurement of sharpness: `kind` "sharpness", `largest_eigenvalue`, `iterations`, `converged`."""
        self._write(record, {"train/sharpness": record["largest_eigenvalue"]})

    def sync(self) -> None:
        """Wait until everything logged is on the disk, so that a checkpoint is never ahead of its log."""
        if self.failure is not None:
            raise self.failure
        with self._disk_named():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close both files."""
        with self._disk_named(), self._events, self._file:  # the second one, too, if the first one cannot be
            pass

    def _write(self, record: Mapping[str, Any], plotted: Mapping[str, float]) -> None:
        """Add a record to both files; nothing comes after a line that the disk may have cut off."""
        try:
            if self.failure is None:
                self._append(record)
                self._plot(record["step"], plotted)
        except AnatoBenchError as error:
            if not self._held:
                raise
            self.failure = error

    def _append(self, record: Mapping[str, Any]) -> None:
        with self._disk_named():
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()

    def _plot(self, step: int, values: Mapping[str, float]) -> None:
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._add(Event(wall_time=time.time(), step=step, summary=summary))

    def _add(self, event: Event) -> None:
        with self._disk_named():
            self._records.write(event.SerializeToString())
            self._events.flush()

    @contextmanager
    def _disk_named(self) -> Iterator[None]:
        """Name a full disk; a line that it cuts off is forgotten when the run goes on."""
        try:
            yield
        except OSError as error:
            raise AnatoBenchError(
                f"{error.filename or self._path}: cannot be written ({error.strerror}): make room and resume; earlier "
                "checkpoints are intact"
            ) from None


class NoLog(MetricsLog):
    """For the processes of a run that do not write."""

    def __init__(self) -> None:
        self.failure = None

    def sync(self) -> None:
        """Wait for nothing."""

    def close(self) -> None:
        """Close nothing."""

    def _append(self, record: Mapping[str, Any]) -> None:
        pass

    def _plot(self, step: int, values: Mapping[str, float]) -> None:
        pass


def _events_file() -> str:
    """Return a name of TensorBoard's form: files are read in the order of their names, so of their seconds."""
    seconds, rest = divmod(time.time_ns(), 10**9)
    return f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}.{rest:09d}"


def _forget_later(path: Path, step: int, evaluated_step: int) -> None:
    """Drop steps after `step`, evaluations after `evaluated_step`, and a last line that a kill cut off;
    `AnatoBenchError` names a line that is JSON and no record."""
    last = {"step": step, "evaluation": evaluated_step, "sharpness": step or -1}  # a run that begins measures anew
    kept = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        try:
            record = parse_json(line)
        except ValueError:
            continue
        try:
            wanted = record["step"] <= last[record["kind"]]
        except (KeyError, TypeError):
            raise AnatoBenchError(f"{path}, line {number}: not a record: delete the line and resume") from None
        if line.endswith(b"\n") and wanted:
            kept.append(line)
    write_atomically(path, b"".join(kept))
