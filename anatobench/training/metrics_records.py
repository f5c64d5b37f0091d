"""Reads `RUN/metrics.jsonl`, without what writing it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anatobench.errors import AnatoBenchError
from anatobench.system.json_text import parse_json

METRICS_FILE = "metrics.jsonl"


def read_records(run: Path) -> list[dict[str, Any]]:
    """What was logged while the run trained; `AnatoBenchError` names the line that is no record."""
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
