"""The memory benchmark: the search finds the edge, recovers from real exhaustion, and says what else went wrong."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from anatobench.bench.memory import Probe, recommended, search, straight_line
from anatobench.cli.main import main

PEER = Path(__file__).parents[2] / "support" / "numpy_peer.py"
WORDS = ["bench", "memory", "--model", "r3d_18", "--geometry", "chest", "--size", "tiny", "--json"]


def device(fixed: int, per_case: int, limit: int, tells: bool = True) -> Callable[[int], Probe]:
    def probe(batch_size: int) -> Probe:
        peak = fixed + per_case * batch_size
        if peak > limit:
            return Probe(batch_size, False, None, limit, "out of memory")
        return Probe(batch_size, True, peak, limit if tells else None)

    return probe


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize(
    ("fixed", "per_case", "edge"), [(0, 100, 1000), (500, 1000, 99), (9_000, 30_000, 3), (0, 1, 1)]
)
def test_the_search_ends_at_the_edge(fixed: int, per_case: int, edge: int, tells: bool) -> None:
    probes = search(device(fixed, per_case, fixed + per_case * edge, tells), at_most=4096)
    fits = max(p.batch_size for p in probes if p.fits)
    beyond = min(p.batch_size for p in probes if not p.fits)
    assert fits <= edge < beyond
    assert beyond - fits <= max(1, 0.05 * fits)
    assert len({p.batch_size for p in probes}) == len(probes), "no size is tried twice"
    assert len(probes) <= (8 if tells else 24)


def test_the_search_survives_peaks_that_are_no_line() -> None:
    """Allocators round up, kernels change with the size: the line is wrong on both sides."""

    def probe(batch_size: int) -> Probe:
        peak = 1000 + 50 * batch_size**1.5 * (1.2 if batch_size % 2 else 1.0)
        return Probe(batch_size, peak <= 30_000, int(peak) if peak <= 30_000 else None, 30_000)

    probes = search(probe, at_most=4096)
    fits, beyond = max(p.batch_size for p in probes if p.fits), min(p.batch_size for p in probes if not p.fits)
    assert beyond - fits <= max(1, 0.05 * fits)
    assert len(probes) < 15


def test_not_even_one_and_no_end_within_reach() -> None:
    assert [p.fits for p in search(device(10, 1, 5), 4096)] == [False]
    probes = search(device(0, 1, 10**9), at_most=50)
    assert max(p.batch_size for p in probes) == 50
    assert all(p.fits for p in probes)


def test_the_search_begins_where_it_is_told_and_ends_when_the_time_is_up() -> None:
    tried = []

    def probe(batch_size: int) -> Probe | None:
        tried.append(batch_size)
        return device(500, 1000, 99_500)(batch_size) if len(tried) < 4 else None

    probes = search(probe, at_most=4096, first=10)
    assert tried[:3] == [10, 20, 99], "two points make a line"
    assert [p.batch_size for p in probes] == tried[:3]
    tried.clear()
    search(probe, at_most=4096, first=200)
    assert tried[:2] == [200, 100], "too large to begin with"
    assert search(lambda batch_size: None, at_most=4096) == []


@pytest.mark.slow
@pytest.mark.usefixtures("begins_at_once")
def test_a_probe_that_does_not_end_in_time_costs_no_figure(capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    assert main([*WORDS, "--peer", f"{PEER}:hangs_at_two", "--seconds", "6", "--limit", "1"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["largest_batch"], found["smallest_not_fitting"], found["complete"]) == (1, None, False)
    assert main([*WORDS, "--peer", f"{PEER}:hangs", "--seconds", "1"]) == 1
    assert "no batch that fits was found in 1 s" in capsys.readouterr().err
    assert time.monotonic() - start < 60


def test_a_margin_leaves_memory_free() -> None:
    probes = [Probe(n, True, 1000 + 100 * n, 11_000) for n in (1, 2, 100)]
    assert straight_line(probes) == pytest.approx((1000, 100))
    assert recommended(probes, margin=0.0) == 100
    assert recommended(probes, margin=0.1) == 89


@pytest.mark.slow
@pytest.mark.usefixtures("begins_at_once")
def test_processes_run_out_of_memory_and_the_search_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Allocations beyond the limit really fail, in a process that another one follows."""
    assert main([*WORDS, "--peer", f"{PEER}:hungry", "--limit", "0.35", "--at-most", "64"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    cases = 0.35 * 2**30 / 50e6
    assert cases - 2 <= found["largest_batch"] <= cases
    assert found["smallest_not_fitting"] == found["largest_batch"] + 1
    assert found["recommended_batch"] <= found["largest_batch"]
    assert found["bytes_per_case"] == pytest.approx(50e6, rel=0.1)
    assert any("MemoryError" in (p["error"] or "") for p in found["probes"])
    assert found["memory_of"] == "process"
    assert found["complete"] is True


@pytest.mark.slow
@pytest.mark.usefixtures("begins_at_once")
@pytest.mark.parametrize(("framework", "package"), [("torch", "torch"), ("jax", "flax")])
def test_a_framework_runs_out_of_memory(framework: str, package: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(package)
    assert main([*WORDS, "--framework", framework, "--limit", "0.02"]) == 1
    assert "not even one case fits" in capsys.readouterr().err


def test_another_failure_is_no_lack_of_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--peer", f"{PEER}:diverges"]) == 1
    assert "the loss of step 1 is nan" in capsys.readouterr().err


def test_not_one_case_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--peer", f"{PEER}:starved"]) == 1
    assert "not even one case fits" in capsys.readouterr().err
