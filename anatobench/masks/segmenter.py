"""TotalSegmentator as a function from a scan's voxels to labels.

It is called in a worker process of its own place: its GPU, and a home folder with usage statistics off, so that
nothing is sent, the person's own configuration stays as it is, and workers do not write one file.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import nibabel
import numpy as np

from anatobench.errors import AnatoBenchError
from anatobench.masks.weights import Weights
from anatobench.system.worker_pool import WorkerPlace
from anatobench.volumes.label_maps import TOTALSEGMENTATOR_V2

USAGE_STATISTICS_OFF = {"totalseg_id": "", "send_usage_stats": False, "prediction_counter": 0,
                        "statistics_disclaimer_shown": True}  # fmt: skip


class Segmenter(Protocol):
    """Makes labels; crosses process boundaries."""

    @property
    def names(self) -> Mapping[int, str]:
        """Label to structure."""

    def description(self) -> dict[str, Any]:
        """Return what made the masks, in plain JSON types: the same description, the same masks."""

    def segment(self, voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """uint8 [D, H, W] labels of int16 [D, H, W] HU; `affine` [4, 4] maps (d, h, w) to RAS+ millimetres."""


@dataclass(frozen=True)
class TotalSegmentator:
    """Task `total`, `fast` (3 mm), one multilabel mask, as the AutoSeg paper makes its masks."""

    weights: Weights
    gpu: bool
    threads: int
    """Of PyTorch on the CPU."""

    @property
    def names(self) -> Mapping[int, str]:
        return TOTALSEGMENTATOR_V2

    def description(self) -> dict[str, Any]:
        return {"segmenter": "TotalSegmentator", "version": self.weights.version, "task": "total", "fast": True,
                "weights_sha256": self.weights.sha256()}  # fmt: skip

    def segment(self, voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
        totalsegmentator = _totalsegmentator(self.gpu, self.threads)
        image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]])
        mask = totalsegmentator(
            image, ml=True, task="total", fast=True, device="gpu" if self.gpu else "cpu", quiet=True, nr_thr_saving=1
        )
        return np.asarray(mask.dataobj, dtype=np.uint8).transpose(2, 1, 0)


def worker_places(weights: Weights, gpus: Sequence[str], scratch: Path, per_device: int) -> list[WorkerPlace]:
    """Return one place per GPU (or the CPU) and scan at once, each with a home folder for TotalSegmentator in
    `scratch`."""
    places = []
    for number, gpu in enumerate((list(gpus) or [""]) * per_device):
        home = scratch / f"home-{number}"
        home.mkdir()
        (home / "config.json").write_text(json.dumps(USAGE_STATISTICS_OFF))
        environment = {
            "CUDA_VISIBLE_DEVICES": gpu,
            "TOTALSEG_HOME_DIR": str(home),
            "TOTALSEG_WEIGHTS_PATH": str(weights.folder.absolute()),
            "TMPDIR": str(scratch),
            "PYTHONWARNINGS": "ignore",
        }
        places.append(WorkerPlace(environment, starts_processes=True))
    return places


@cache
def _totalsegmentator(gpu: bool, threads: int) -> Callable[..., Any]:
    """Return the package's function, once per process."""
    sys.stdout.flush()
    os.dup2(2, 1)  # what the package and its processes print is no figure of ours
    # On the CPU the package takes a thread for each core of the machine, of which a job may have few.
    multiprocessing.cpu_count = lambda: threads
    api = importlib.import_module("totalsegmentator.python_api")
    if gpu and not sys.modules["torch"].cuda.is_available():  # else it computes on the CPU and says so in passing
        raise AnatoBenchError(
            f"PyTorch cannot use GPU {os.environ.get('CUDA_VISIBLE_DEVICES')}: is the driver too old for it? "
            "--gpus 0 computes on the CPU"
        )
    function: Callable[..., Any] = api.totalsegmentator
    return function
