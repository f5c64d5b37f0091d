"""Whether a log has MLPerf's keys, as often and in the order that its compliance checker wants in training
(`mlperf_logging`, `training_6.0.0/common.yaml`): the form of each line, what must be there, and what comes after what.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anatobench.errors import AnatoBenchError
from anatobench.system.json_text import MAX_BYTES, parse_json
from anatobench.training.mllog import END, POINT, START, TOKEN

EXACTLY_ONE = (
    "submission_benchmark", "submission_org", "submission_division", "submission_status", "submission_platform",
    "global_batch_size", "train_samples", "eval_samples", "init_stop", "run_start", "run_stop",
)  # fmt: skip
AT_LEAST_ONE = (
    "cache_clear", "seed", "init_start", "epoch_start", "epoch_stop", "eval_start", "eval_stop", "eval_accuracy",
)  # fmt: skip
FIELDS = ("namespace", "time_ms", "event_type", "key", "value", "metadata")
BEFORE_THE_RUN = ("cache_clear", "seed", *EXACTLY_ONE[:8])
STATUSES = ("success", "aborted")


@dataclass(frozen=True)
class Event:
    """A line of the log."""

    line: int
    time_ms: int
    event_type: str
    key: str
    value: Any
    metadata: dict[str, Any]


def check_mllog(path: Path) -> dict[str, Any]:
    """Return `passed`, `problems` (a sentence each, with its line) and how often each key is there."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise AnatoBenchError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > MAX_BYTES:
        raise AnatoBenchError(f"{path}: more than {MAX_BYTES} bytes: is it the right file?")
    events, problems = _parsed(content.decode(errors="replace").splitlines())
    counts = Counter(event.key for event in events)
    none = any(event.key == "eval_samples" and event.value == 0 for event in events)
    why = " (the store had no validation cases: prepare one with some)" if none else ""
    problems += [
        f"{key} is missing{why if key.startswith('eval_') else ''}"
        for key in (*EXACTLY_ONE, *AT_LEAST_ONE)
        if not counts[key]
    ]
    problems += [f"{key} is there {counts[key]} times, not once" for key in EXACTLY_ONE if counts[key] > 1]
    problems += _values(events)
    problems += _order(events)
    return {"passed": not problems, "problems": problems, "keys": dict(counts)}


def _parsed(lines: Sequence[str]) -> tuple[list[Event], list[str]]:
    """Return the events, and what is wrong with the form of lines. Lines without the token are somebody else's."""
    events, problems = [], []
    for number, line in enumerate(lines, 1):
        _, token, text = line.partition(TOKEN)
        if not token:
            continue
        try:
            data = parse_json(text)
        except ValueError as error:
            problems.append(f"line {number}: no JSON after {TOKEN.strip()} ({error})")
            continue
        if not isinstance(data, dict) or set(data) != set(FIELDS):
            problems.append(f"line {number}: its fields must be {', '.join(FIELDS)}")
            continue
        wanted = START if str(data["key"]).endswith("_start") else END if str(data["key"]).endswith("_stop") else POINT
        if type(data["time_ms"]) is not int or not isinstance(data["key"], str):
            problems.append(f"line {number}: time_ms must be a whole number and key a text")
        elif data["event_type"] != wanted:
            problems.append(f"line {number}: {data['key']} is {data['event_type']!r:.40}, not {wanted}")
        elif not isinstance(data["metadata"], dict):
            problems.append(f"line {number}: metadata must be an object")
        else:
            events.append(Event(number, *(data[name] for name in FIELDS[1:])))
    return events, problems


def _values(events: Sequence[Event]) -> Iterator[str]:
    for event in events:
        where = f"line {event.line}: {event.key}"
        if event.key in EXACTLY_ONE[:8] and event.value in ("", None):
            yield f"{where} has no value"
        if event.key == "submission_division" and event.value not in ("closed", "open"):
            yield f"{where} is {event.value!r:.40}: closed or open"
        if event.key == "eval_accuracy" and not (type(event.value) in (int, float) and math.isfinite(event.value)):
            yield f"{where} is {event.value!r:.40}: a number"
        if event.key == "run_stop" and event.metadata.get("status") not in STATUSES:
            yield f"{where}: its metadata must have a status, {' or '.join(STATUSES)}"
        epoch = event.metadata.get("epoch_num")
        if event.key in AT_LEAST_ONE[3:] and (type(epoch) is not int or epoch < 1):
            yield f"{where}: its metadata must have an epoch_num, from 1"


def _order(events: Sequence[Event]) -> Iterator[str]:
    """Yield each step back in time, and each event that comes where its state does not allow it."""
    done: set[str] = set()
    last_time, open_epoch, open_eval, last_epoch = 0, None, None, 0
    for event in events:
        key, epoch, where = event.key, event.metadata.get("epoch_num"), f"line {event.line}: {event.key}"
        if event.time_ms < last_time:
            yield f"{where} is {last_time - event.time_ms} ms before the line above"
        last_time = max(last_time, event.time_ms)
        if "run_stop" in done:
            yield f"{where} comes after run_stop"
        if key in BEFORE_THE_RUN and "run_start" in done:
            yield f"{where} comes after run_start"
        if key == "init_start" and "init_stop" in done:
            yield f"{where} comes after init_stop"
        for earlier in {"init_stop": ["init_start"], "run_start": ["init_stop"]}.get(key, []):
            if earlier not in done:
                yield f"{where} comes before {earlier}"
        if (key in AT_LEAST_ONE[3:] or key == "run_stop") and "run_start" not in done:
            yield f"{where} comes before run_start"
        if key == "epoch_start":
            if open_epoch is not None:
                yield f"{where}: epoch {open_epoch} has not stopped"
            if type(epoch) is int and epoch <= last_epoch:
                yield f"{where}: epoch {epoch} after epoch {last_epoch}"
            open_epoch = epoch
        if key == "epoch_stop":
            if open_epoch is None or epoch != open_epoch:
                yield f"{where}: epoch {epoch} stops, but {open_epoch or 'none'} has started"
            last_epoch, open_epoch = epoch if type(epoch) is int else last_epoch, None
        if key == "eval_start":
            if open_eval is not None:
                yield f"{where}: the evaluation of epoch {open_eval} has not stopped"
            open_eval = epoch
        if key in ("eval_accuracy", "eval_stop") and (open_eval is None or epoch != open_eval):
            yield f"{where}: of epoch {epoch}, but the evaluation of {open_eval or 'none'} has started"
        if key == "eval_stop":
            open_eval = None
        if key == "run_stop" and event.metadata.get("status") == "success":
            for what, number in (("epoch", open_epoch), ("evaluation of epoch", open_eval)):
                if number is not None:
                    yield f"{where}: {what} {number} has not stopped"
        done.add(key)
