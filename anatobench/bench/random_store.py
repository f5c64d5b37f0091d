"""A store of random scans, to measure loading where there are no data."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from anatobench.bench.random_batch import random_batch
from anatobench.engine import ModelSpec
from anatobench.store.reader import Store, data_file
from anatobench.store.writer import CaseOrigin, PreparedCase, StoreWriter
from anatobench.system.progress import progress_bar
from anatobench.tasks import Task


def write_random_store(root: Path, task: Task, size: str, cases: int, scans: int, seed: int = 0) -> Store:
    """Return a store of `cases` training cases on `scans` different files: the step benchmark's scans, each rolled to
    another place, with masks and labels.

    A store can so have as many cases as a data set and still fit into memory: case i + scans is another name of case i.
    """
    geometry = task.geometry(size)
    spec = ModelSpec("r3d_18", size, task, geometry.padded_size)
    scan = random_batch(spec, 1, seed)
    rng = np.random.default_rng(seed)
    writer = StoreWriter(root)
    writer.create(task, size, "random", {"seed": seed})
    affine = np.diag([-geometry.spacing[0], -geometry.spacing[1], -geometry.spacing[2], 1.0])
    with progress_bar(scans, "write random scans", "scan") as bar:
        for number in range(min(scans, cases)):
            shift = tuple(int(rng.integers(0, length)) for length in geometry.padded_size)
            volume, organs = (np.roll(array[0], shift, (0, 1, 2)) for array in (scan["volume"], scan["organs"]))
            targets = tuple(int(rng.integers(0, len(group.grades))) for group in task.groups)
            origin = CaseOrigin(_case_id(number), f"patient_{number}", "train", targets, "random", "random")
            record = writer.write(origin, PreparedCase(volume, organs, affine))
            for copy in range(number + scans, cases, scans):
                os.link(data_file(root, record.case_id), data_file(root, _case_id(copy)))
                writer.write_record(replace(record, case_id=_case_id(copy)))
            bar.update()
    writer.finish()
    return Store.open(root)


def _case_id(number: int) -> str:
    return f"random_{number:06}"
