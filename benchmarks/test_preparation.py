"""CPU-sized preparation: `pytest benchmarks`. One synthetic chest scan with its mask, and its parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anatobench.datasets.case import Case
from anatobench.datasets.registry import list_cases
from anatobench.phantom.cohort import write_cohort
from anatobench.phantom.plan import CohortPlan
from anatobench.store.prepare import prepare_case
from anatobench.tasks import get_task
from anatobench.volumes.read import read_volume
from anatobench.volumes.resample import resample_volume, resampled_grid

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

pytest.importorskip("pytest_benchmark")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    root: Path = tmp_path_factory.mktemp("cohort") / "raw"
    write_cohort(root, CohortPlan(format="ct_rate", size="tiny", seed=0, cases=1, injuries="typical"))
    return list_cases("ct_rate", root).cases[0]


def test_whole_case(benchmark: BenchmarkFixture, case: Case) -> None:
    task = get_task("ct_rate")
    prepared = benchmark(lambda: prepare_case(case, task, "tiny"))
    assert prepared.organs is not None


def test_reading(benchmark: BenchmarkFixture, case: Case) -> None:
    benchmark(lambda: read_volume(case.scan, case.header))


def test_resampling(benchmark: BenchmarkFixture, case: Case) -> None:
    volume = read_volume(case.scan, case.header)
    grid = resampled_grid(volume.grid, get_task("ct_rate").geometry("tiny").spacing)
    benchmark(lambda: resample_volume(volume, grid))
