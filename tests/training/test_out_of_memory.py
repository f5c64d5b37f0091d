"""A framework is refused memory in the middle of a run, for real: one line that says the batch and what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_store import write_store

RUN = """
import resource, sys, time
from pathlib import Path
from anatobench import session
from anatobench.cli.main import main

def limited(*given):
    engine = load(*given)
    train_step = engine.train_step

    def step(batch, rate, number, *rest):
        if number == 1:
            while not (out / "checkpoints" / "step_00000001" / "state.json").is_file():
                time.sleep(0.05)  # the save beside this step needs memory, too
            # What was compiled and connected stays; a step's own memory is no longer to be had.
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + 8_000_000
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        pending = train_step(batch, rate, number, *rest)
        pending.fetch()
        return pending

    engine.train_step = step
    return engine

out = Path(sys.argv[sys.argv.index("--out") + 1])
load, session.load_engine = session.load_engine, limited
sys.exit(main(sys.argv[1:]))
"""
# glibc's allocator gives a step's memory back to the system, so that it has to ask for it again; others do not.
GIVEN_BACK = {
    "LD_PRELOAD": "",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "0",
    "MALLOC_ARENA_MAX": "1",
}


@pytest.mark.parametrize(("framework", "package"), [("torch", "torch"), ("jax", "flax")])
def test_a_framework_that_lacks_memory_ends_with_one_line(framework: str, package: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    write_store(tmp_path / "store", sizes={"train": 8})
    words = ["train", "--task", "findings", "--store", str(tmp_path / "store"), "--model", "r3d_18",
             "--framework", framework, "--out", str(tmp_path / "run"), "--steps", "3", "--set", "batch_size=8",
             "--checkpoint-every", "1"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words],
        env={**os.environ, **GIVEN_BACK, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("anatobench train: out of memory in step 2 with batch_size=8 in fp32: begin a run with"), (
        done.stderr
    )
    assert "a smaller --set batch_size=, --set precision=bf16" in last
    assert "the checkpoint of step 1 is intact" in last
    assert "Traceback" not in done.stderr
