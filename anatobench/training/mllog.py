"""`train --mllog`: what a run did, as lines of MLPerf's logging (`mlperf_logging.mllog`) in `RUN/mlperf.log`.

A line is `:::MLLOG ` and one JSON object: namespace, time_ms, event_type, key, value, metadata. Keys are those of its
`constants.py`; the order is that of its compliance checker's rules for training (`training_6.0.0/common.yaml`), which
`anatobench bench mllog` checks here. It is no submission: the benchmark is none of MLPerf's.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anatobench.errors import AnatoBenchError
from anatobench.recipes import Recipe
from anatobench.system.atomic_files import write_atomically
from anatobench.system.json_text import parse_json

MLLOG_FILE = "mlperf.log"
TOKEN = ":::MLLOG "
START, END, POINT = "INTERVAL_START", "INTERVAL_END", "POINT_IN_TIME"


@dataclass(frozen=True)
class Submission:
    """What stands at the head of a log."""

    benchmark: str
    platform: str
    train_samples: int
    eval_samples: int
    recipe: Recipe

    def events(self) -> list[tuple[str, Any]]:
        """Return keys and values, in order."""
        recipe = self.recipe
        return [
            ("submission_benchmark", self.benchmark),
            ("submission_org", "AnatoBench"),
            ("submission_division", "open"),
            ("submission_status", "research"),
            ("submission_platform", self.platform),
            ("seed", recipe.seed),
            ("global_batch_size", recipe.batch_size),
            ("gradient_accumulation_steps", 1),
            ("train_samples", self.train_samples),
            ("eval_samples", self.eval_samples),
            ("opt_name", "adamw"),
            ("opt_base_learning_rate", recipe.learning_rate),
            ("opt_adamw_beta_1", recipe.adam_beta1),
            ("opt_adamw_beta_2", recipe.adam_beta2),
            ("opt_adamw_epsilon", recipe.adam_epsilon),
            ("opt_adamw_weight_decay", recipe.weight_decay),
            ("opt_gradient_clip_norm", recipe.clip_norm),
            ("opt_learning_rate_warmup_steps", recipe.warmup_steps),
        ]


class MlLog:
    """The log of one run: a run that goes on goes on with its log, from the checkpoint's step; without a path it is
    silent."""

    def __init__(self, path: Path | None, submission: Submission | None = None, began: float | None = None) -> None:
        """`began` is when the session did, in seconds since the epoch; by default now."""
        self._path, self._submission = path, submission
        self._began = time.time() if began is None else began

    @property
    def silent(self) -> bool:
        return self._path is None

    def begin(self, step: int, evaluated_step: int, epoch: int | None) -> None:
        """Write the head and start the run's clock, or forget what came after the checkpoint. `epoch` is the one that
        a session without earlier log begins in the middle of."""
        if self._path is None or self._submission is None:
            return
        if step and self._path.exists():
            self._forget_later(step, evaluated_step)
            return
        self._write(b"", append=False)
        self._log(START, "init_start", None, step, self._began)
        self._log(POINT, "cache_clear", False, step)  # nobody clears the system's caches here
        for key, value in self._submission.events():
            self._log(POINT, key, value, step)
        self._log(END, "init_stop", None, step)
        self._log(START, "run_start", None, step)
        if epoch is not None:
            self.epoch("epoch_start", epoch, step)

    def epoch(self, key: str, number: int, step: int) -> None:
        """`epoch_start` and `epoch_stop`, `eval_start` and `eval_stop`; epochs count from 1."""
        self._log(START if key.endswith("_start") else END, key, None, step, epoch_num=number)

    def accuracy(self, value: float | None, name: str, number: int, step: int) -> None:
        """`eval_accuracy`: the score that chooses the best checkpoint; nothing where it is undefined."""
        if value is not None and math.isfinite(value):
            self._log(POINT, "eval_accuracy", value, step, epoch_num=number, metric=name)

    def stop(self, status: str, step: int) -> None:
        """`run_stop`, with status `success` or `aborted`."""
        self._log(END, "run_stop", None, step, status=status)

    def _log(self, event: str, key: str, value: Any, step: int, seconds: float | None = None, **metadata: Any) -> None:
        if self._path is None:
            return
        caller = sys._getframe(1)
        where = {"file": Path(caller.f_code.co_filename).name, "lineno": caller.f_lineno}
        line = {
            "namespace": "",
            "time_ms": int(1000 * (time.time() if seconds is None else seconds)),
            "event_type": event,
            "key": key,
            "value": value,
            "metadata": {**where, "step": step, **metadata},
        }
        self._write((TOKEN + json.dumps(line) + "\n").encode(), append=True)

    def _write(self, content: bytes, append: bool) -> None:
        assert self._path is not None
        try:
            with self._path.open("ab" if append else "wb") as file:
                file.write(content)
        except OSError as error:
            raise AnatoBenchError(f"{self._path}: cannot be written ({error.strerror}): make room and resume") from None

    def _forget_later(self, step: int, evaluated_step: int) -> None:
        """Drop the run's end, what came after the checkpoint, and a last line that a kill cut off."""
        assert self._path is not None
        kept = []
        for line in self._path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n") and _is_before(line, step, evaluated_step):
                kept.append(line)
        write_atomically(self._path, b"".join(kept))


def _is_before(line: bytes, step: int, evaluated_step: int) -> bool:
    with suppress(ValueError, KeyError, TypeError):
        event: Mapping[str, Any] = parse_json(line.removeprefix(TOKEN.encode()))
        key, at = event["key"], event["metadata"]["step"]
        if key == "run_stop":
            return False
        if key.startswith("eval_") and key != "eval_samples":
            return bool(at <= evaluated_step)
        # An epoch that begins at the checkpoint's step is begun again by who goes on there.
        return bool(at < step) if key == "epoch_start" else bool(at <= step)
    return False


NO_MLLOG = MlLog(None)
