"""The records of `RUN/metrics.jsonl`: what they hold, and how they are read, without what writing them needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from anatobench.engine import StepMetrics
from anatobench.errors import AnatoBenchError
from anatobench.system.json_text import parse_json

METRICS_FILE = "metrics.jsonl"
_WORDS = ("kind", "batch_digest")
_FIGURES = {"step": ("loss", "gradient_norm", "learning_rate", "seconds"), "sharpness": ("largest_eigenvalue",)}
"""What every record of a kind has beside its step."""
_FINITE = ("step", "seconds")
"""What is counted and timed, while a loss may be anything."""
_NO_TERMS = ("kind", "step", "epoch", "loss", "gradient_norm", "learning_rate", "batch_digest", "seconds")


def step_record(
    step: int, epoch: int, metrics: StepMetrics, learning_rate: float, batch_digest: str, seconds: float
) -> dict[str, Any]:
    """Return the record of a training step; each term of the loss stands under its name."""
    return {
        "kind": "step",
        "step": step,
        "epoch": epoch,
        "loss": metrics.loss,
        **metrics.terms,
        "gradient_norm": metrics.gradient_norm,
        "learning_rate": learning_rate,
        "batch_digest": batch_digest,
        "seconds": seconds,
    }


def what_is_not_finite(metrics: StepMetrics, cases: Iterable[str], alone: bool) -> str:
    """Say which figure of a step is not finite, and of which cases; "" where all are. `alone` is a process without
    others, whose cases are all there were."""
    if math.isfinite(metrics.loss) and math.isfinite(metrics.gradient_norm):
        return ""
    names = list(cases)
    broken = [name for name, loss in zip(names, metrics.case_losses, strict=True) if not math.isfinite(loss)]
    if broken:
        return f"the loss of {'case' if len(broken) == 1 else 'cases'} {', '.join(broken)} is not finite"
    if alone:
        return f"the gradient is not finite; its cases are {', '.join(names)}"
    return f"the loss or the gradient is not finite; this process's cases are {', '.join(names)}"


def finite_or_none(value: Any) -> Any:
    """Return plain JSON in which every figure that is not finite is None: what is undefined chooses nothing."""
    if isinstance(value, Mapping):
        return {name: finite_or_none(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def term_names(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the terms of the loss that step records hold, in order; one that is 0 throughout was not part of it."""
    names = dict.fromkeys(name for step in steps for name in step if name not in _NO_TERMS)
    return [name for name in names if any(step.get(name) for step in steps)]


def _check(record: Mapping[str, Any]) -> None:
    """Raise ValueError, KeyError, TypeError or OverflowError if a record lacks a figure that its kind has, or one is no
    number."""
    kind = record["kind"]
    needed = ("step", *_FIGURES.get(kind, ()))
    told = [name for name in record if name not in _WORDS] if kind == "step" else needed
    for name in dict.fromkeys((*needed, *told)):
        if isinstance(record[name], bool) or not isinstance(record[name], (int, float)):
            raise ValueError(f"{name} is {record[name]!r:.80}, not a number")
        if name in _FINITE and not math.isfinite(record[name]):
            raise ValueError(f"{name} is {record[name]}, not a finite number")
    if not isinstance(record.get("auc_macro"), (int, float, NoneType)):
        raise ValueError(f"auc_macro is {record['auc_macro']!r:.80}, not a number")


def read_records(run: Path) -> list[dict[str, Any]]:
    """Return what was logged while the run trained; `AnatoBenchError` names the line that is no record."""
    metrics = run / METRICS_FILE
    if not metrics.is_file():
        raise AnatoBenchError(f"{run}: no {METRICS_FILE}, so nothing was trained here; run `anatobench train` first")
    records = []
    try:
        lines = metrics.read_bytes().splitlines()
    except OSError as error:
        raise AnatoBenchError(f"{metrics}: cannot be read ({error.strerror})") from None
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line)
            _check(record)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise AnatoBenchError(f"{metrics}, line {number}: not a record ({error}); was the file edited?") from None
        records.append(record)
    return records
