"""A few slices of a few cases, kept with a run so that a report needs neither the store nor the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anatobench.engine import Engine
from anatobench.objectives.heads import SEGMENTATION
from anatobench.store.crops import centre_crop_start
from anatobench.store.reader import Store
from anatobench.tasks import IGNORED_ORGAN

EXAMPLE_CASES = 4
EXAMPLE_SLICES = (0.25, 0.5, 0.75)
"""Where the slices lie, as fractions of the organs' extent from top to bottom."""


def example_cases(store: Store, split: str) -> list[int]:
    """Places in the store of the first few cases of a split, those with a mask first."""
    return sorted(store.split(split), key=lambda index: not store.cases[index].has_mask)[:EXAMPLE_CASES]


def case_slices(engine: Engine, store: Store, indices: Sequence[int]) -> dict[str, np.ndarray]:
    """Slices of the centre crops of these cases: `<case_id>/volume` int16 [slices, H, W], `<case_id>/organs` uint8
    likewise, and `<case_id>/predicted_organs` if the model has the auxiliary head."""
    start = centre_crop_start(store.geometry.padded_size, store.geometry.crop_size)
    arrays: dict[str, np.ndarray] = {}
    for index in indices:
        case_id = store.cases[index].case_id
        volume, organs = store.read_crop(index, start, store.geometry.crop_size)
        slices = slices_through_organs(organs)
        arrays[f"{case_id}/volume"] = volume[slices]
        arrays[f"{case_id}/organs"] = organs[slices]
        if SEGMENTATION in engine.spec.heads:
            arrays[f"{case_id}/predicted_organs"] = engine.segment(volume[None])[0][slices]
    return arrays


def slices_through_organs(organs: np.ndarray, fractions: Sequence[float] = EXAMPLE_SLICES) -> list[int]:
    """Slice numbers at these fractions of the organs' extent, or of the whole of uint8 [D, H, W] without any."""
    marked = np.flatnonzero(((organs > 0) & (organs != IGNORED_ORGAN)).any(axis=(1, 2)))
    first, last = (int(marked[0]), int(marked[-1])) if len(marked) else (0, len(organs) - 1)
    return [first + round(fraction * (last - first)) for fraction in fractions]
