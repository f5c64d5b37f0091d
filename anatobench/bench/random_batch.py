"""Random scans of the right statistics, for measurements that need no data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anatobench.engine import ModelSpec
from anatobench.store.batch import DIAGNOSIS, Batch
from anatobench.store.batches import TABLES

CASE_INDEX = "case_index"


def random_batch(spec: ModelSpec, size: int, seed: int) -> Batch:
    """Return scans with a soft-tissue body in air, noise and block-shaped organs: never zeros, which some kernels run
    faster.

    Every grade of every label group occurs if the batch is large enough.
    """
    rng = np.random.default_rng(seed)
    shape = (size, *spec.crop_size)
    d, h, w = (np.linspace(-1, 1, n, dtype=np.float32) for n in spec.crop_size)
    body = (h[:, None] ** 2 + w[None, :] ** 2 < 0.8)[None, None] & (np.abs(d) <= 1)[None, :, None, None]
    noise = rng.standard_normal(shape, dtype=np.float32)
    volume = np.where(body, 40 + 60 * noise, -990 + 12 * noise).round()
    organ = ((d[:, None, None] > 0) * 1 + (h[:, None] > 0) * 2 + (w > 0) * 4) % spec.task.segmentation_classes
    organs = np.where(body, organ[None], 0).astype(np.uint8)
    arrays: dict[str, np.ndarray] = {
        "volume": np.clip(volume, -1000, 1000).astype(np.int16),
        "organs": np.array(np.broadcast_to(organs, shape)),
    }
    for name in DIAGNOSIS[len(arrays) :]:
        arrays[name] = TABLES[name].drawn(rng, spec.task, size).astype(TABLES[name].dtype)
    return Batch(arrays, np.arange(size, dtype=np.int32))


def write_batch(batch: Batch, folder: Path) -> None:
    """Write one .npy file per array, for processes that are to see the same bytes."""
    for name, array in (*batch.arrays.items(), (CASE_INDEX, batch.case_index)):
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def read_batch(folder: Path) -> Batch:
    """Read what `write_batch` wrote."""
    arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in (*DIAGNOSIS, CASE_INDEX)}
    return Batch(arrays, arrays.pop(CASE_INDEX))
