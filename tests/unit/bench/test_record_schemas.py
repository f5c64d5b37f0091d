"""Every committed record, and what the commands write now, is what benchmarks/results/README.md documents."""

import json
from pathlib import Path
from typing import Any

import pytest
from record_schema import assert_valid

from anatobench.bench.arms import Arm
from anatobench.bench.compilation import bench_compilation
from anatobench.bench.memory import MemoryBenchmark, bench_memory
from anatobench.bench.step import StepBenchmark, bench_step
from anatobench.engine import ModelSpec
from anatobench.recipes import Recipe
from anatobench.tasks import TASKS

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
PEER = Path(__file__).parents[2] / "support" / "numpy_peer.py"
SPEC = ModelSpec("r3d_18", "tiny", TASKS["ct_rate"], (24, 48, 48))


def check(record: dict[str, Any]) -> None:
    # Through JSON: what a file holds has no tuples and no numpy numbers.
    assert_valid(json.loads(json.dumps(record, allow_nan=False)), record.get("kind") or record["name"])


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_committed_records(path: Path) -> None:
    record = json.loads(path.read_text())
    check(record)
    if record.get("kind") == "gpu_suite":
        for part in record["parts"].values():
            parts = part["record"] if isinstance(part["record"], list) else [part["record"]]
            for found in parts:
                if found and "kind" in found:
                    check(found)


@pytest.mark.slow
def test_what_the_commands_write_now() -> None:
    arms = (Arm(None, PEER, "plain"), Arm(None, PEER, "slow"), Arm(None, PEER, "starved"))
    record = bench_step(StepBenchmark(arms, SPEC, Recipe(batch_size=1), rounds=2))
    check(record)
    assert {"passed", "warnings", "mfu_data_sheet", "mfu_measured", "compile_cache"} <= set(record), (
        "all are documented"
    )
    check(bench_compilation(StepBenchmark(arms, SPEC, Recipe(batch_size=1))))
    check(bench_memory(MemoryBenchmark(Arm(None, PEER, "plain"), SPEC, Recipe(), limit=2**30, at_most=2)))
    del record["arms"][1]["median_s"]
    jsonschema = pytest.importorskip("jsonschema")
    with pytest.raises(jsonschema.ValidationError, match="median_s"):
        check(record)


def test_every_schema_is_in_the_documentation() -> None:
    text = (RESULTS / "README.md").read_text()
    for path in (RESULTS / "schemas").glob("*.json"):
        assert f"schemas/{path.name}" in text
