"""Which organs supervise, and how exact their boundaries are: what training batches change in a case's organ mask.

The paper's Table 3 trains with the masks of some organs only: the voxels of the others become background. Its Table 14
distorts the masks: x % of the boundary voxels go through an erosion or dilation. It does not say more, so here:

- a boundary voxel is a voxel of an organ with another label (background included) across one of its six faces;
- each is chosen with probability x %, on its own, and eroded or dilated with equal probability;
- an eroded voxel takes the label of one of its differing neighbours, a dilated one gives that neighbour its own label,
  which of them is drawn too; all look at the mask as it was. Where several want to write a voxel, dilation comes
  after erosion, and the later voxel of the volume after the earlier.

What is drawn for a voxel is a hash of the seed, the case and the voxel's place, so a case has the same distorted mask
in every epoch, in every crop, in both frameworks and in any number of processes. Voxels without mask stay as they are,
and so do the volume and all batches for evaluation. Distorting a full-size crop takes a thread about 0.3 s.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from anatobench.errors import UsageError
from anatobench.recipes import ALL_ORGANS, Recipe
from anatobench.store.reader import Store
from anatobench.tasks import IGNORED_ORGAN, Size, Task

REACH = 2
"""Voxels from a voxel to the farthest that decides over it: a neighbour dilates into it, looking at its own."""


@dataclass(frozen=True)
class MaskNoise:
    """What training batches change in a store's organ masks."""

    organs: tuple[str, ...]
    """The organs that supervise."""
    boundary_distortion: float
    """Percent of the boundary voxels."""
    seed: int

    @staticmethod
    def of(recipe: Recipe, task: Task) -> MaskNoise | None:
        """Return None where the masks supervise as they are; `UsageError` if the recipe names an organ the task has
        not."""
        organs = supervising_organs(recipe, task)
        if organs == task.organs and recipe.boundary_distortion == 0:
            return None
        return MaskNoise(organs, recipe.boundary_distortion, recipe.seed)

    def read_crop(
        self, store: Store, index: int, start: Size, out: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Store.read_crop`: volume int16 [d, h, w] as it is, organs uint8 [d, h, w] as they supervise."""
        volume, organs = out
        if self.boundary_distortion == 0:
            store.read_crop(index, start, volume.shape, out)
            organs[...] = self._kept(store.task)[organs]
            return out
        whole = store.geometry.padded_size
        low, high = np.maximum(np.subtract(start, REACH), 0), np.minimum(np.add(start, volume.shape) + REACH, whole)
        wide_volume, wide_organs = store.read_crop(index, _size(low), _size(high - low))
        wide_organs = distort_boundaries(
            self._kept(store.task)[wide_organs],
            _size(low),
            whole,
            self.boundary_distortion,
            case_key(self.seed, store.cases[index].case_id),
        )
        first = _size(start - low)
        inside = tuple(slice(begin, begin + size) for begin, size in zip(first, volume.shape, strict=True))
        volume[...], organs[...] = wide_volume[inside], wide_organs[inside]
        return out

    def _kept(self, task: Task) -> np.ndarray:
        """uint8 [256]: the label that each stored label supervises as."""
        table = np.arange(256, dtype=np.uint8)
        for label, organ in enumerate(task.organs, start=1):
            if organ not in self.organs:
                table[label] = 0
        return table


def _size(numbers: np.ndarray) -> Size:
    depth, height, width = numbers.tolist()
    return depth, height, width


def supervising_organs(recipe: Recipe, task: Task) -> tuple[str, ...]:
    """Return the organs that a recipe names, in the task's order; `UsageError` for one that the task does not have."""
    if recipe.supervising_organs == ALL_ORGANS:
        return task.organs
    named = recipe.supervising_organs.split(",")
    unknown = [organ for organ in named if organ not in task.organs]
    if unknown:
        raise UsageError(
            f"supervising_organs={recipe.supervising_organs}: task {task.name} has no organ {unknown[0]!r}: name "
            f"{ALL_ORGANS}, or some of {', '.join(task.organs)}, separated by commas (none at all: --no-seg)"
        )
    return tuple(organ for organ in task.organs if organ in named)


def case_key(seed: int, case_id: str) -> np.uint64:
    """Return what a case's draws begin with: of its name, not of its place in the store."""
    digest = hashlib.blake2b(f"{seed} {case_id}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def distort_boundaries(organs: np.ndarray, offset: Size, whole: Size, percent: float, key: np.uint64) -> np.ndarray:
    """Return a mask with `percent` of its boundary voxels eroded or dilated.

    organs uint8 [d, h, w] is the part at `offset` of a volume of size `whole`. Voxels nearer than `REACH` to a face
    that is not the volume's own are not to be trusted.
    """
    place = np.argwhere(_boundary(organs))
    words = _hash(np.ravel_multi_index(tuple((place + offset).T), whole).astype(np.uint64) ^ key)
    chosen = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53 < percent / 100  # uniform in [0, 1)
    place, words = place[chosen], _hash(words[chosen])
    neighbour, label = _drawn_neighbour(organs, place, words >> np.uint64(1))
    eroded = (words & np.uint64(1)).astype(bool)
    result = organs.copy()
    result[tuple(place[eroded].T)] = label[eroded]
    result[tuple(neighbour[~eroded].T)] = organs[tuple(place[~eroded].T)]  # of equal places numpy writes the last
    return result


def _boundary(organs: np.ndarray) -> np.ndarray:
    """bool [d, h, w]."""
    found = np.zeros(organs.shape, bool)
    for axis in range(3):
        before, after = (_without(organs, axis, side) for side in (-1, 0))
        differs = (before != after) & (before != IGNORED_ORGAN) & (after != IGNORED_ORGAN)
        _without(found, axis, -1)[...] |= differs & (before > 0)
        _without(found, axis, 0)[...] |= differs & (after > 0)
    return found


def _without(array: np.ndarray, axis: int, side: int) -> np.ndarray:
    """Return a view without the last (-1) or the first (0) slice."""
    part = [slice(None)] * 3
    part[axis] = slice(None, -1) if side else slice(1, None)
    return array[tuple(part)]


def _drawn_neighbour(organs: np.ndarray, place: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return one of the differing neighbours of each boundary voxel: int [n, 3] where it is, uint8 [n] its label."""
    steps = np.concatenate([np.eye(3, dtype=np.int64), -np.eye(3, dtype=np.int64)])
    around = place[:, None] + steps  # [n, 6, 3]
    inside = ((around >= 0) & (around < organs.shape)).all(2)
    labels = organs[tuple(np.where(inside[..., None], around, place[:, None]).transpose(2, 0, 1))]
    differs = inside & (labels != organs[tuple(place.T)][:, None]) & (labels != IGNORED_ORGAN)
    rank = (words % differs.sum(1).astype(np.uint64)).astype(np.int64)
    drawn = (differs.cumsum(1) == rank[:, None] + 1).argmax(1)  # argmax takes the first of equal ones
    row = np.arange(len(place))
    return around[row, drawn], labels[row, drawn]


def _hash(numbers: np.ndarray) -> np.ndarray:
    """Steele, Lea and Flood's SplitMix64 (2014): one step and its output for every number, uint64."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashed: np.ndarray = mixed ^ (mixed >> np.uint64(31))
    return hashed
