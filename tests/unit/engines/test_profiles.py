"""`train --profile`: both frameworks' traces hold five steps after the warm-up, with their named ranges."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny_store import SMALL_FINDINGS, write_store

from anatobench.cli.main import main
from anatobench.store.reader import Store
from anatobench.training.step_trace import TRACED, WARM_UP

STEPS = WARM_UP + TRACED + 2


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"), SMALL_FINDINGS)


def trained(store: Store, run: Path, framework: str, *more: str) -> int:
    return main(["train", "--task", "findings", "--store", str(store.root), "--model", "r3d_18", "--framework",
                 framework, "--out", str(run), "--set", "batch_size=2", "--steps", str(STEPS), *more])  # fmt: skip


def ranges(file: Path) -> list[dict[str, Any]]:
    """Return the events that last, of a trace that Perfetto opens."""
    with gzip.open(file, "rt") as trace:
        return [event for event in json.load(trace)["traceEvents"] if event.get("ph") == "X"]


def test_pytorchs_trace(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    assert trained(store, tmp_path / "run", "torch", "--profile") == 0
    (file,) = (tmp_path / "run" / "profile").iterdir()
    assert file.name == f"steps_{WARM_UP + 1}_to_{WARM_UP + TRACED}.json.gz"
    found = ranges(file)
    counts = Counter(event["name"] for event in found)
    wanted = ("data", "step", "forward", "backward", "optimizer")
    assert {name: counts[name] for name in wanted} == dict.fromkeys(wanted, TRACED)
    assert counts["aten::conv3d"] >= TRACED, "and the operations inside"
    steps = [event for event in found if event["name"] == "step"]
    for name in wanted[2:]:
        for event in (event for event in found if event["name"] == name):
            assert any(
                step["ts"] <= event["ts"] and event["ts"] + event["dur"] <= step["ts"] + step["dur"] for step in steps
            ), f"{name} is a part of a step"
    assert f"a trace lies in {tmp_path / 'run' / 'profile'}" in capsys.readouterr().err


@contextmanager
def nothing_compiled_before() -> Iterator[None]:
    """Let JAX compile: a program from a cache has the names that it was compiled with."""
    import jax

    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def test_jaxs_trace(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("flax")
    with nothing_compiled_before():
        assert trained(store, tmp_path / "run", "jax", "--profile") == 0
    (folder,) = (tmp_path / "run" / "profile" / "plugins" / "profile").iterdir()
    (perfetto,) = folder.glob("*.trace.json.gz")
    counts = Counter(event["name"] for event in ranges(perfetto))
    assert (counts["data"], counts["step"]) == (TRACED, TRACED)
    (planes,) = folder.glob("*.xplane.pb")
    programs = planes.read_bytes()
    for name in (b"/jvp(forward)/", b"/transpose(jvp(forward))/", b"/optimizer/"):
        assert name in programs, "the compiled step's operations carry the ranges' names"


def test_what_cannot_be_profiled_is_told_before_a_step(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    assert trained(store, tmp_path / "run", "torch", "--profile", "nsys") == 2
    assert "--profile nsys: this framework has no such profile on this device: choose trace" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert trained(store, tmp_path / "short", "torch", "--profile", "--set", "batch_size=2", "--steps", "2") == 0
    assert "no trace: it begins after 3 steps, and this session had 2" in capsys.readouterr().err
