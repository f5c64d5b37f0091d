"""What a run measured while it trained: `RUN/metrics.jsonl` for programs, TensorBoard events for eyes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from anatobench.system.atomic_files import write_atomically
from anatobench.system.json_text import parse_json
from anatobench.training.metrics_records import METRICS_FILE

TENSORBOARD_FOLDER = "tensorboard"
_NOT_PLOTTED = ("kind", "step", "epoch", "batch_digest")


class MetricsLog:
    """Appends records; opened at the step a run goes on from, it forgets what was logged after it."""

    def __init__(self, run: Path, step: int, evaluated_step: int) -> None:
        path = run / METRICS_FILE
        if path.exists():
            _forget_later(path, step, evaluated_step)
        self._file = path.open("a", encoding="utf-8")
        self._events = EventFileWriter(str(run / TENSORBOARD_FOLDER))
        if step:  # tells TensorBoard to forget, too
            log = SessionLog(status=SessionLog.START)
            self._events.add_event(Event(wall_time=time.time(), step=step + 1, session_log=log))

    def step(self, record: Mapping[str, Any]) -> None:
        """Log a training step: a flat JSON object with `kind` "step"."""
        self._append(record)
        self._plot(
            record["step"], {f"train/{name}": value for name, value in record.items() if name not in _NOT_PLOTTED}
        )

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Log an evaluation: `kind` "evaluation", `split`, `epoch`, the judge's score under its name and its details,
        None where undefined."""
        self._append(record)
        values: dict[str, float | None] = {}
        for name, value in record.items():
            if isinstance(value, Mapping):
                values |= {f"{name}/{part}": figure for part, figure in value.items()}
            elif name not in ("kind", "step", "epoch", "split"):
                values[name] = value
        defined = {f"{record['split']}/{name}": value for name, value in values.items() if value is not None}
        self._plot(record["step"], defined)

    def sharpness(self, record: Mapping[str, Any]) -> None:
        """Log a measurement of sharpness: `kind` "sharpness", `largest_eigenvalue`, `iterations`, `converged`."""
        self._append(record)
        self._plot(record["step"], {"train/sharpness": record["largest_eigenvalue"]})

    def sync(self) -> None:
        """Wait until everything logged is on the disk, so that a checkpoint is never ahead of its log."""
        self._events.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close both files."""
        self._events.close()
        self._file.close()

    def _append(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()

    def _plot(self, step: int, values: Mapping[str, float]) -> None:
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._events.add_event(Event(wall_time=time.time(), step=step, summary=summary))


class NoLog(MetricsLog):
    """For the processes of a run that do not write."""

    def __init__(self) -> None:
        pass

    def sync(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing is open."""

    def _append(self, record: Mapping[str, Any]) -> None:
        pass

    def _plot(self, step: int, values: Mapping[str, float]) -> None:
        pass


def _forget_later(path: Path, step: int, evaluated_step: int) -> None:
    """Drop steps after `step`, evaluations after `evaluated_step`, and a last line that a kill cut off."""
    last = {"step": step, "evaluation": evaluated_step, "sharpness": step or -1}  # a run that begins measures anew
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if line.endswith(b"\n") and record["step"] <= last[record["kind"]]:
            kept.append(line)
    write_atomically(path, b"".join(kept))
