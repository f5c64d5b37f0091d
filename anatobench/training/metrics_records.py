"""Reads `RUN/metrics.jsonl`, without what writing it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anatobench.errors import AnatoBenchError
from anatobench.system.json_text import parse_json

METRICS_FILE = "metrics.jsonl"
_NO_TERMS = ("kind", "step", "epoch", "loss", "gradient_norm", "learning_rate", "batch_digest", "seconds")


def term_names(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the terms of the loss that step records hold, in order; one that is 0 throughout was not part of it."""
    names = dict.fromkeys(name for step in steps for name in step if name not in _NO_TERMS)
    return [name for name in names if any(step.get(name) for step in steps)]


def read_records(run: Path) -> list[dict[str, Any]]:
    """Return what was logged while the run trained; `AnatoBenchError` names the line that is no record."""
    metrics = run / METRICS_FILE
    if not metrics.is_file():
        raise AnatoBenchError(f"{run}: no {METRICS_FILE}, so nothing was trained here; run `anatobench train` first")
    records = []
    for number, line in enumerate(metrics.read_text().splitlines(), start=1):
        try:
            record = parse_json(line)
            record["kind"], record["step"]
        except (ValueError, KeyError, TypeError) as error:
            raise AnatoBenchError(f"{metrics}, line {number}: not a record ({error}); was the file edited?") from None
        records.append(record)
    return records
