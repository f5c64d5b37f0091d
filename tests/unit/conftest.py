"""Fixtures for more than one test file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from anatobench.datasets.case import Case, Listing
from anatobench.store.reader import Store
from anatobench.store.writer import CaseOrigin, PreparedCase, StoreWriter
from anatobench.tasks import get_task
from anatobench.volumes.nifti import write_nifti

SPLIT_OF = {0: "validation", 1: "test"}


def write_noise_store(root: Path, cases: int, task_name: str = "ct_rate") -> Store:
    """Return a tiny store of seeded noise: every third case has no mask; cases 0 and 1 of every ten are not for
    training."""
    task = get_task(task_name)
    writer = StoreWriter(root)
    writer.create(task, "tiny", "noise", {})
    size = task.geometry("tiny").padded_size
    for number in range(cases):
        rng = np.random.default_rng(number)
        volume = rng.integers(-1000, 1000, size, dtype=np.int16)
        organs = None if number % 3 == 0 else rng.integers(0, task.segmentation_classes, size, dtype=np.uint8)
        targets = tuple(int(rng.integers(-1, len(group.grades))) for group in task.groups)
        split = SPLIT_OF.get(number % 10, "train")
        origin = CaseOrigin(f"case_{number:03}", f"patient_{number}", split, targets, f"{number}.nii.gz", None)
        writer.write(origin, PreparedCase(volume, organs, np.diag([-12.0, -6.0, -6.0, 1.0])))
    writer.finish()
    return Store.open(root)


@pytest.fixture
def make_noise_store(tmp_path: Path) -> Callable[..., Store]:
    """`make_noise_store(cases)` writes a store into the test's folder."""
    return lambda cases, **options: write_noise_store(tmp_path / "store", cases, **options)


@pytest.fixture(scope="session")
def noise_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store of 23 cases, 17 of them for training, that tests only read."""
    return write_noise_store(tmp_path_factory.mktemp("noise") / "store", 23)


RAW_SIZE = (30, 40, 40)
RAW_AFFINE = np.array([[0, 0, -9.0, 180], [0, -9.0, 0, 180], [-15.0, 0, 0, 225], [0, 0, 0, 1]])
"""Index (d, h, w) to RAS+ millimetres: 450 x 360 x 360 mm."""


def write_raw_case(folder: Path, number: int) -> Case:
    """Return a seeded scan of 150 KB with an abdominal mask: liver right, spleen left, kidneys on their sides."""
    rng = np.random.default_rng(number)
    scan, mask = folder / "scans" / f"case_{number:02}.nii.gz", folder / "masks" / f"case_{number:02}.nii.gz"
    voxels = rng.integers(-3000, 3000, RAW_SIZE, dtype=np.int16)
    labels = np.zeros(RAW_SIZE, np.uint8)
    labels[5:14, 10:24, 4:18] = 1
    labels[6:12, 20:28, 30:36] = 2
    labels[12:18, 22:28, 25:29] = 3
    labels[12:18, 22:28, 10:14] = 4
    labels[18:26, 10:22, 12:28] = 5
    write_nifti(scan, np.where(labels > 0, 40 + voxels // 100, voxels), RAW_AFFINE)
    write_nifti(mask, labels, RAW_AFFINE)
    split = "test" if number % 4 == 0 else "train"
    return Case(f"case_{number:02}", f"patient_{number}", scan, split, (0, 1, 2, number % 3, -1), mask, "ratic")


@pytest.fixture
def make_raw_cohort(tmp_path: Path) -> Callable[[int], Listing]:
    """`make_raw_cohort(cases)` writes that many scans with masks into the test's folder `raw`."""
    return lambda count: Listing(get_task("ratic"), tuple(write_raw_case(tmp_path / "raw", n) for n in range(count)))
