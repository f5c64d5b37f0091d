"""A segmenter without a network, for tests of what goes on around it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from anatobench.volumes.label_maps import TOTALSEGMENTATOR_V2


@dataclass(frozen=True)
class ThresholdSegmenter:
    """Calls what is brighter than `threshold` liver (5)."""

    threshold: int = 100
    fault: str = ""
    """`raise` for every scan, `die` takes the process along, `wait` for a minute."""

    @property
    def names(self) -> Mapping[int, str]:
        return TOTALSEGMENTATOR_V2

    def description(self) -> dict[str, Any]:
        return {"segmenter": "threshold", "threshold": self.threshold}

    def segment(self, voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
        if self.fault == "raise":
            raise RuntimeError("no space left for tensors")
        if self.fault == "die":
            os._exit(9)
        if self.fault == "wait":
            time.sleep(60)
        return np.where(voxels > self.threshold, 5, 0).astype(np.uint8)
