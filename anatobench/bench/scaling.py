"""Weak and strong scaling over processes, on this machine or wherever a launcher started them, and what the
communication model says of more."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.bench.all_reduce import measured_links, sums_of_point
from anatobench.bench.communication_model import Links, StepCost, prediction_record
from anatobench.bench.local_processes import pin, place, shared_environment
from anatobench.bench.rounds import median_with_interval
from anatobench.bench.scaling_process import POINT, StepSettings
from anatobench.errors import AnatoBenchError
from anatobench.system.json_text import parse_json
from anatobench.system.parent import child_environment
from anatobench.system.progress import progress_bar
from anatobench.system.worker_pool import usable_cores
from anatobench.tasks import get_task

POLL_SECONDS = 0.05
LARGEST_POINT = 1 << 20
"""Bytes; a file beyond it is none."""
PREDICTED = (8, 64, 512)
"""Devices, beside those that were measured."""

Point = Mapping[str, Any]


def local_points(settings: StepSettings, counts: Sequence[int]) -> list[Point]:
    """Measure with 1 and `counts` processes on this machine.

    Every process gets the same number of threads, and without a GPU cores of its own, so that a single one does not
    have the cores of all.
    """
    threads = max(1, usable_cores() // max(counts))
    wanted = sorted({1, *counts})
    points = []
    with progress_bar(len(wanted), "bench scaling", "run") as bar:
        for count in wanted:
            bar.set_postfix_str(f"{count} processes")
            points.append(run_processes(settings, count, threads))
            bar.update()
    return points


def read_points(paths: Sequence[Path], settings: StepSettings) -> list[Point]:
    """Read points that `bench scaling --together` wrote; `AnatoBenchError` if one is none, or of other settings."""
    wanted = {**asdict(settings), "modes": list(settings.modes)}
    points = []
    for path in paths:
        try:
            if path.stat().st_size > LARGEST_POINT:
                raise ValueError
            point = parse_json(path.read_text())
            if point["kind"] != POINT:
                raise ValueError
            found = dict(point["settings"])
        except OSError as error:
            raise AnatoBenchError(f"{path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise AnatoBenchError(f"{path}: no point that `bench scaling --together` wrote") from None
        if differs := [name for name, value in wanted.items() if found.get(name) != value]:
            name = differs[0]
            raise AnatoBenchError(f"{path}: was measured with {name} {found.get(name)}, here it is {wanted[name]}")
        points.append(point)
    if not any(point["processes"] == 1 for point in points):
        raise AnatoBenchError("no point of a single process, which efficiency is relative to: measure one, too")
    return points


def scaling_record(
    settings: StepSettings, points: Sequence[Point], given: Mapping[str, Any], step_s: float | None = None
) -> dict[str, Any]:
    """Return the record that `benchmarks/results/schemas/scaling.json` describes.

    The model of more devices starts from `step_s`, a step's seconds measured elsewhere, or else from the single
    process, and from the links as the points' sums say they are but where they are `given`.
    """
    points = sorted(points, key=lambda point: point["processes"])
    alone = points[0]
    seconds_alone = float(np.median(next(iter(alone["modes"].values()))["seconds"]))
    links, measured = measured_links(points, Links())
    links = replace(links, **given)
    sums = 2 * alone["batch_norms"]
    cost = StepCost(seconds_alone if step_s is None else step_s, alone["gradient_bytes"], sums)
    counts = [point["processes"] for point in points if point["processes"] > 1]
    shown = ("framework", "model", "size", "precision", "segmentation", "repeats", "seed", "batch_size")
    return {
        "kind": "scaling",
        **{name: getattr(settings, name) for name in shown},
        "geometry": get_task(settings.task).anatomy,
        "threads_per_process": points[-1]["threads_per_process"],
        "results": [_entry(mode, point, seconds_alone, settings) for mode in settings.modes for point in points],
        "all_reduce": [row for point in points for row in sums_of_point(point)],
        "measured_links": [name for name in measured if name not in given],
        "prediction": prediction_record(cost, links, tuple(sorted({*counts, *PREDICTED}))),
        "predicted_from": "this run's single process" if step_s is None else "a given step time",
        **{name: alone[name] for name in ("batch_digest", "device", "versions", "host", "code")},
    }


def _entry(mode: str, point: Point, seconds_alone: float, settings: StepSettings) -> dict[str, Any]:
    """Efficiency: in weak scaling a step should take as long as alone, in strong scaling a count-th of it."""
    count = point["processes"]
    seconds = median_with_interval((point["modes"].get(mode) or next(iter(point["modes"].values())))["seconds"])
    batch = settings.global_batch(mode, count)
    return {
        "mode": mode,
        "processes": count,
        "nodes": point["nodes"],
        "global_batch": batch,
        "median_s": seconds["median"],
        "ci95_s": seconds["ci95"],
        "samples_per_s": batch / seconds["median"],
        "efficiency": seconds_alone / seconds["median"] / (1 if mode == "weak" else count),
    }


def run_processes(settings: StepSettings, count: int, threads: int) -> Point:
    """Return what the first of `count` processes on this machine measured, each on `threads` cores where there is no
    GPU.

    `AnatoBenchError` with the last line of the first process that failed; the others are stopped.
    """
    environment = shared_environment(count, threads)
    command = [sys.executable, "-m", "anatobench.bench.scaling_process", json.dumps(asdict(settings))]
    with tempfile.TemporaryDirectory(prefix="anatobench-scaling-") as folder:
        logs = [Path(folder) / f"{index}.log" for index in range(count)]
        started: list[subprocess.Popen[bytes]] = []
        output = Path(folder) / "output"
        try:
            for index, log in enumerate(logs):
                with log.open("wb") as said, (output if index == 0 else log).open("ab") as printed:
                    own = child_environment({**environment, **place(index)})
                    started.append(subprocess.Popen(command, stdout=printed, stderr=said, env=own))
                pin(started[-1].pid, index, threads)
            _await_all(started, logs)
        finally:
            for process in started:
                process.kill()
                process.wait()
        result: Point = json.loads(output.read_text().splitlines()[-1])
    return result


def _await_all(started: list[subprocess.Popen[bytes]], logs: list[Path]) -> None:
    while True:
        statuses = [process.poll() for process in started]
        for index, status in enumerate(statuses):
            if status:
                said = logs[index].read_text(errors="replace").strip().splitlines()
                raise AnatoBenchError(f"process {index} of {len(started)}: {said[-1] if said else f'exit {status}'}")
        if all(status == 0 for status in statuses):
            return
        time.sleep(POLL_SECONDS)
