"""`RUN/sessions.jsonl`: every start of a run."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anatobench.engine import Engine
from anatobench.errors import AnatoBenchError
from anatobench.recipes import Recipe
from anatobench.system.host import cpu_name, describe_code
from anatobench.system.json_text import parse_json

SESSIONS_FILE = "sessions.jsonl"
"""One line per start: when, from which step, in which framework, on which device, with which code, and whether the
cohort is synthetic. Older runs say less."""


def note_session(run: Path, recipe: Recipe, engine: Engine, step: int, synthetic: bool) -> None:
    """Add the record of a start that goes on after a step, 0 at a run's beginning."""
    session = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
        "framework": engine.name,
        "device": engine.device(),
        "cpu": cpu_name(),
        **describe_code(),
        "synthetic": synthetic,
        "fast": recipe.fast,
        "compile": recipe.compile,
    }
    with (run / SESSIONS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(session) + "\n")


def read_sessions(run: Path) -> tuple[dict[str, Any], ...]:
    """Return a record per start; none where the run does not say. `AnatoBenchError` if the file is damaged."""
    path = run / SESSIONS_FILE
    if not path.is_file():
        return ()
    try:
        found = tuple(parse_json(line) for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise AnatoBenchError(f"{path}: damaged ({error}): copy the run again") from None
    if not all(isinstance(session, dict) and _is_device(session.get("device")) for session in found):
        raise AnatoBenchError(f"{path}: a line is no record: copy the run again")
    return found


def _is_device(device: object) -> bool:
    return device is None or isinstance(device, dict)


def trained_on_synthetic(run: Path) -> bool:
    """Return whether the run says that its cohort is synthetic."""
    return any(session.get("synthetic") for session in read_sessions(run))
