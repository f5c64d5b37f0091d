"""A small store of noise whose findings are visible, written in a second."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from anatobench.store.reader import Store
from anatobench.store.writer import CaseOrigin, PreparedCase, StoreWriter
from anatobench.tasks import Geometry, Task, multi_label_task

FINDINGS = multi_label_task("findings", "chest", ("calcification", "effusion"))
SMALL = Geometry((24.0, 15.0, 15.0), (15, 24, 24), (12, 16, 16))
"""An eighteenth of what tiny models see, for what is trained only to be stopped, moved or compared with itself."""
SMALL_FINDINGS = replace(FINDINGS, own_geometry=SMALL)
SPLIT_SIZES = {"train": 8, "validation": 4, "test": 5}


def write_store(
    root: Path, task: Task = FINDINGS, sizes: dict[str, int] | None = None, seed: int = 0, size: str = "tiny"
) -> Store:
    """Cases `<split>_0`, ... of that many per split; a positive finding brightens an octant of its own."""
    rng = np.random.default_rng(seed)
    writer = StoreWriter(root)
    writer.create(task, size, "synthetic", {})
    shape = task.geometry(size).padded_size
    for split, count in (sizes or SPLIT_SIZES).items():
        for number in range(count):
            targets = tuple((number >> position) % len(group.grades) for position, group in enumerate(task.groups))
            volume = rng.normal(-300, 100, shape).astype(np.int16)
            for position, grade in enumerate(targets):
                half = shape[position % 3] // 2
                region = [slice(None)] * 3
                region[position % 3] = slice(half, None)
                volume[tuple(region)] += np.int16(250 * grade)
            organs = np.zeros(shape, np.uint8)
            organs[shape[0] // 4 : shape[0] // 2, 10:30, 10:30] = 1
            origin = CaseOrigin(f"{split}_{number}", f"patient_{split}_{number}", split, targets, "scan", None)
            writer.write(origin, PreparedCase(volume, organs if number % 2 else None, np.eye(4)))
    writer.finish()
    return Store.open(root)
