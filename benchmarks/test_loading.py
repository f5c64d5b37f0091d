"""CPU-sized loading: `pytest benchmarks`. Batches of tiny crops, and one full-size crop, from the page cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from anatobench.bench.loading import PlainCopy, first_batch
from anatobench.bench.random_store import write_random_store
from anatobench.store.batches import training_batches
from anatobench.store.reader import Store
from anatobench.tasks import get_task

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

pytest.importorskip("pytest_benchmark")


@pytest.fixture(scope="module", params=["tiny", "full"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_random_store(
        tmp_path_factory.mktemp("store") / "store", get_task("ct_rate"), request.param, cases=400, scans=4
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_four(benchmark: BenchmarkFixture, store: Store, workers: int) -> None:
    with training_batches(store, 0, 4, workers=workers) as batches:
        batch = benchmark(lambda: next(batches))
    assert batch["volume"].shape == (4, *store.geometry.crop_size)


def test_plain_copy_of_four(benchmark: BenchmarkFixture, store: Store) -> None:
    benchmark(PlainCopy(store, first_batch(store, 4), 1))


def test_one_crop(benchmark: BenchmarkFixture, store: Store) -> None:
    crop = store.geometry.crop_size
    out = (np.empty(crop, np.int16), np.empty(crop, np.uint8))
    benchmark(lambda: store.read_crop(0, (1, 2, 3), crop, out=out))
