"""Weak and strong scaling over local processes, and what the communication model says of more."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.bench.communication_model import Links, StepCost, prediction_record
from anatobench.bench.host import describe_code, host_record
from anatobench.bench.rounds import median_with_interval
from anatobench.bench.scaling_process import StepSettings
from anatobench.errors import AnatoBenchError
from anatobench.system.gpus import visible_gpus
from anatobench.system.parent import child_environment
from anatobench.system.progress import progress_bar
from anatobench.system.worker_pool import NATIVE_THREAD_VARIABLES, usable_cores
from anatobench.tasks import get_task

WEAK, STRONG = "weak", "strong"
POLL_SECONDS = 0.05


def bench_scaling(
    settings: StepSettings, counts: tuple[int, ...], modes: tuple[str, ...], links: Links, step_s: float | None = None
) -> dict[str, Any]:
    """Return the record that `benchmarks/results/schemas/scaling.json` describes.

    `settings.global_batch` is the batch of one process in weak scaling and of all together in strong scaling. The
    model of more devices starts from `step_s`, a step's seconds measured elsewhere, or else from the single process.
    Every process gets the same number of threads, and without a GPU cores of its own, so that a single one does not
    have the cores of all.
    """
    threads = max(1, usable_cores() // max(counts))
    one = {1} if 1 not in counts else set()
    wanted = [(mode, count) for mode in modes for count in sorted({*counts, *one}) if mode == modes[0] or count > 1]
    found: dict[tuple[str, int], dict[str, Any]] = {}
    with progress_bar(len(wanted), "bench scaling", "run") as bar:
        for mode, count in wanted:
            bar.set_postfix_str(f"{mode}, {count} processes")
            batch = settings.global_batch * (count if mode == WEAK else 1)
            found[mode, count] = run_processes(replace(settings, global_batch=batch), count, threads)
            bar.update()
    alone = found[modes[0], 1]
    results = [
        _entry(mode, count, found[(modes[0], 1) if count == 1 else (mode, count)], alone, settings)
        for mode in modes
        for count in sorted(counts)
    ]
    single = float(np.median(alone["seconds"])) if step_s is None else step_s
    sums = 2 * alone["batch_norms"]
    return {
        "kind": "scaling",
        **{name: value for name, value in asdict(settings).items() if name not in ("task", "global_batch")},
        "geometry": get_task(settings.task).anatomy,
        "batch_size": settings.global_batch,
        "threads_per_process": threads,
        "results": results,
        "prediction": prediction_record(StepCost(single, alone["gradient_bytes"], sums), links),
        "predicted_from": "this run's single process" if step_s is None else "a given step time",
        "batch_digest": alone["batch_digest"],
        "device": alone["device"],
        "versions": alone["versions"],
        "host": host_record(),
        "code": describe_code(),
    }


def _entry(
    mode: str, count: int, found: dict[str, Any], alone: dict[str, Any], settings: StepSettings
) -> dict[str, Any]:
    """Efficiency: in weak scaling a step should take as long as alone, in strong scaling a count-th of it."""
    seconds = median_with_interval(found["seconds"])
    single = float(np.median(alone["seconds"]))
    batch = settings.global_batch * (count if mode == WEAK else 1)
    return {
        "mode": mode,
        "processes": count,
        "global_batch": batch,
        "median_s": seconds["median"],
        "ci95_s": seconds["ci95"],
        "samples_per_s": batch / seconds["median"],
        "efficiency": single / seconds["median"] / (1 if mode == WEAK else count),
    }


def run_processes(settings: StepSettings, count: int, threads: int) -> dict[str, Any]:
    """Return what the first of `count` processes on this machine measured, each on `threads` cores where there is no
    GPU.

    `AnatoBenchError` with the last line of the first process that failed; the others are stopped.
    """
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
        **dict.fromkeys(NATIVE_THREAD_VARIABLES, str(threads)),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(_free_port()),
    }
    pinned = not visible_gpus() and hasattr(os, "sched_setaffinity")
    command = [sys.executable, "-m", "anatobench.bench.scaling_process", json.dumps(asdict(settings))]
    with tempfile.TemporaryDirectory(prefix="anatobench-scaling-") as folder:
        logs = [Path(folder) / f"{index}.log" for index in range(count)]
        started: list[subprocess.Popen[bytes]] = []
        output = Path(folder) / "output"
        try:
            for index, log in enumerate(logs):
                place = {"RANK": str(index), "LOCAL_RANK": str(index)}
                with log.open("wb") as said, (output if index == 0 else log).open("ab") as printed:
                    started.append(
                        subprocess.Popen(
                            command, stdout=printed, stderr=said, env=child_environment(environment | place)
                        )
                    )
                if pinned:  # XLA takes every core it sees, whatever the variables of other libraries say
                    os.sched_setaffinity(started[-1].pid, own_cores(index, threads))
            _await_all(started, logs)
        finally:
            for process in started:
                process.kill()
                process.wait()
        result: dict[str, Any] = json.loads(output.read_text().splitlines()[-1])
    return result


def own_cores(index: int, threads: int) -> set[int]:
    """Cores of this process that its child `index` may use; children share them where there are not enough."""
    cores = sorted(os.sched_getaffinity(0))
    return {cores[(index * threads + offset) % len(cores)] for offset in range(threads)}


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])
