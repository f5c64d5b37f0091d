"""What it takes until an arm's steps are compiled, one arm after the other, each in a process of its own.

It fills the arms' caches and measures nothing else: the GPU may be shared with others that compile.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anatobench.bench.arm_cache import ArmCache, arm_cache
from anatobench.bench.arms import Arm, ArmError, ArmProcess
from anatobench.bench.random_batch import random_batch, write_batch
from anatobench.bench.step import StepBenchmark, build_request, spec_record
from anatobench.system.host import describe_code, describe_host

WARM_UP = 1
"""A second step: frameworks may compile again when the optimizer has its state."""


def bench_compilation(asked: StepBenchmark, progress: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """Return the record of `anatobench bench step --compile-only --json` (benchmarks/results/schemas/compile.json).

    Arms that fail are named in `failed` and do not stop the others.
    """
    started, clock, host = datetime.now(UTC), time.monotonic(), describe_host()
    deadline = None if asked.seconds is None else clock + asked.seconds
    compiled: list[dict[str, Any]] = []
    failed: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="anatobench-bench-") as name:
        folder = Path(name)
        write_batch(random_batch(asked.spec, asked.recipe.batch_size, asked.recipe.seed), folder)
        for number, arm in enumerate(asked.arms):
            progress(arm.name)
            cache = arm_cache(asked.cache, arm)
            try:
                with ArmProcess(arm, folder, number, cache.environment) as process:
                    told = process.ask("describe", deadline, **build_request(arm, asked.spec, asked.recipe, folder))
                    told |= process.ask("prepare", deadline, warm_up=WARM_UP)
            except ArmError as error:
                failed[arm.name] = error.to_json()
            else:
                compiled.append(_arm_record(arm, cache, told))
    return {
        "kind": "compile",
        "passed": not failed,
        **spec_record(asked.spec),
        "batch_size": asked.recipe.batch_size,
        "arms": compiled,
        "failed": failed,
        "machine": {**host, "load_1m_after": os.getloadavg()[0]},
        "code": describe_code(),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 1),
    }


def _arm_record(arm: Arm, cache: ArmCache, told: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": arm.name,
        "framework": arm.framework,
        "peer": arm.peer_name,
        "segmentation": arm.segmentation,
        "compile_cache": cache.state,
        **{key: told[key] for key in ("precision", "build_s", "compile_s", "warm_up_s", "device", "versions")},
    }
