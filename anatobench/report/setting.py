"""What a reader must know before the first figure: what ran where, when, of which code and how fast; and on whose
scans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anatobench.bench.intervals import median_interval
from anatobench.report.benchmark_plots import Bar, bars
from anatobench.report.html_parts import paragraph, pictures, table
from anatobench.report.plots import COLOURS
from anatobench.report.run_results import RunResults

HEADER = ("run", "device", "began (UTC)", "commit", "batch", "precision", "steps")
SYNTHETIC = (
    "Synthetic cohort: drawn by a program, no patient's. Its figures show that the suite works; they say nothing about "
    "patients, and cannot be set beside the paper's."
)
SPEED = (
    "Median over the steps of the training itself, without the first three, loading included; the lines are 95 % "
    "bootstrap intervals. The runs took place one after the other, so what else the machine did meanwhile shows in one "
    "and not in the other: anatobench bench step times the frameworks in turns."
)
PLOT_REM = 24.0


def synthetic_notice(runs: Sequence[RunResults]) -> str:
    """Say whose scans these are not; nothing where no run is known to be of a synthetic cohort."""
    named = [run.label for run in runs if run.synthetic]
    if not named:
        return ""
    of = "" if len(named) == len(runs) else f" ({'; '.join(named)})"
    return SYNTHETIC.replace(":", of + ":", 1)


def setting(runs: Sequence[RunResults]) -> str:
    """Return a row per run: device, date, commit, batch, precision."""
    rows = []
    for run in runs:
        devices, commits = (", ".join(dict.fromkeys(map(said, run.sessions))) for said in (_device, _commit))
        where = (devices or "not recorded", _began(run.sessions), commits or "not recorded")
        recipe = run.config.recipe
        rows.append((run.label, *where, str(recipe.batch_size), recipe.precision, str(len(run.steps))))
    return table(HEADER, rows)


def speed(runs: Sequence[RunResults]) -> str:
    """Return a plot of the median time of a step with its interval."""
    entries = [
        Bar(run.label, median, median_interval(np.array(run.step_seconds)), COLOURS[run.config.framework])
        for run in runs
        if (median := run.median_step_seconds) is not None
    ]
    plot = f"<figure>{bars(entries, 'time of a step', 'seconds')}</figure>"
    return pictures([plot], PLOT_REM) + paragraph(SPEED) if entries else ""


def _device(session: dict[str, Any]) -> str:
    device = session.get("device") or {}
    gpu = device.get("kind") == "gpu"
    name = str((device.get("name") if gpu else session.get("cpu") or device.get("name")) or "unknown")
    count = device.get("count", 1)
    return name if count == 1 else f"{count} x {name}" if gpu else f"{name}, {count} processes"


def _began(sessions: Sequence[dict[str, Any]]) -> str:
    if not sessions:
        return "not recorded"
    again = len(sessions) - 1
    began = str(sessions[0].get("started", "not recorded")).replace("T", " ")[:16]
    return began + (f", resumed {'once' if again == 1 else f'{again} times'}" if again else "")


def _commit(session: dict[str, Any]) -> str:
    commit = session.get("commit")
    return "not recorded" if not commit else str(commit)[:12] + (" with changes" if session.get("dirty") else "")
