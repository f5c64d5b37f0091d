"""How well the auxiliary head finds the organs: Dice per case and organ, in the crop that evaluation sees."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.engine import Engine
from anatobench.errors import AnatoBenchError
from anatobench.evaluation.metrics import mean_of_known
from anatobench.objectives.heads import HEADS, SEGMENTATION, auxiliary_heads
from anatobench.store.batches import PADDING, evaluation_batches
from anatobench.store.reader import Store
from anatobench.system.atomic_files import write_atomically
from anatobench.system.progress import SharedProgress
from anatobench.tasks import IGNORED_ORGAN, Task


@dataclass(frozen=True)
class OrganDice:
    """Of the cases of one split that have a mask."""

    organs: tuple[str, ...]
    """Or the task's classes, where they may overlap."""
    case_ids: tuple[str, ...]
    dice: np.ndarray
    """float64 [cases, organs], 0 to 1; NaN where an organ is neither in the mask nor predicted, or not annotated."""

    @property
    def mean_of_case(self) -> np.ndarray:
        """float64 [cases]: over the organs that count; NaN where none does."""
        return mean_of_known(self.dice, axis=1)

    def to_json(self) -> dict[str, float | None]:
        """Mean over cases per organ, and `macro`, the mean over organs; None where nothing counts."""
        per_organ = mean_of_known(self.dice, axis=0)
        named = zip(("macro", *self.organs), [*mean_of_known(per_organ[None], axis=1), *per_organ], strict=True)
        return {name: float(value) if np.isfinite(value) else None for name, value in named}


def dice_of_organs(organs: np.ndarray, predicted: np.ndarray, count: int) -> np.ndarray:
    """2 |A and B| / (|A| + |B|) of organs 1 to `count`, float64 [count], from uint8 indices of the same shape.

    Voxels of `IGNORED_ORGAN` count on neither side; NaN for an organ that is on neither side.
    """
    known = organs != IGNORED_ORGAN
    pairs = organs[known].astype(np.intp) * (count + 1) + predicted[known]
    table = np.bincount(pairs, minlength=(count + 1) ** 2).reshape(count + 1, count + 1)
    sizes = (table.sum(axis=0) + table.sum(axis=1))[1:].astype(np.float64)
    dice: np.ndarray = np.divide(2.0 * np.diagonal(table)[1:], sizes, out=np.full(count, np.nan), where=sizes > 0)
    return dice


def dice_of_classes(
    organs: np.ndarray, predicted: np.ndarray, organ_sets: Sequence[Sequence[int]], annotated: Sequence[int]
) -> np.ndarray:
    """2 |A and B| / (|A| + |B|) of classes that may overlap, float64 [classes], from organ indices uint8 [D, H, W] and
    `predicted` uint8 [classes, D, H, W], 1 inside.

    Voxels of `IGNORED_ORGAN` count on neither side; NaN for a class that is on neither side or not annotated.
    """
    known = organs != IGNORED_ORGAN
    dice = np.full(len(organ_sets), np.nan)
    for place, labels in enumerate(organ_sets):
        given, found = np.isin(organs, labels), known & (predicted[place] == 1)
        size = int(given.sum()) + int(found.sum())
        if annotated[place] and size:
            dice[place] = 2.0 * int((given & found).sum()) / size
    return dice


def dice_of_split(
    engine: Engine,
    store: Store,
    split: str,
    batch_size: int,
    head: str = SEGMENTATION,
    check: Callable[[], None] = lambda: None,
    silent: bool = False,
) -> OrganDice:
    """Return every case of a split that has a mask, from the same centre crops as its predictions: the Dice of each
    organ, or of each of the task's classes by a head whose classes may overlap. `check` is called between batches.

    Several processes share out the cases; all of them get all figures.
    """
    task, processes = store.task, engine.processes
    overlapping = HEADS[head].overlapping
    names = tuple(one.name for one in task.mask_classes) if overlapping else task.organs
    place = {"process_index": processes.index, "process_count": processes.count}
    indices: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    with (
        evaluation_batches(store, split, batch_size, **place) as batches,
        SharedProgress(len(store.split(split)), f"{split}, organs", "case", silent or not processes.leads) as progress,
    ):
        for batch in batches:
            check()
            has_mask = np.array([index != PADDING and store.cases[index].has_mask for index in batch.case_index])
            found = np.full((len(has_mask), len(names)), np.nan)
            if has_mask.any():
                predicted = engine.segment(batch["volume"], head)
                for row in np.flatnonzero(has_mask):
                    truth, index = batch["organs"][row], int(batch.case_index[row])
                    if overlapping:
                        found[row] = dice_of_classes(truth, predicted[row], task.organ_sets, store.annotated(index))
                    else:
                        of_organs = dice_of_organs(truth, predicted[row], len(names))
                        found[row] = np.where(store.annotated_organs(index), of_organs, np.nan)
            indices.append(np.where(has_mask, batch.case_index, PADDING))
            rows.append(found)
            progress.update(int((batch.case_index != PADDING).sum()) * processes.count)
    gathered = zip(_of_all(engine, indices), _of_all(engine, rows), strict=True)
    dice = {int(index): row for index, row in gathered if index != PADDING}
    case_ids = tuple(store.cases[index].case_id for index in sorted(dice))
    return OrganDice(names, case_ids, np.array([dice[i] for i in sorted(dice)]).reshape(len(dice), len(names)))


def dice_head(heads: Sequence[str]) -> str | None:
    """Return the head whose masks are measured, of those that a model has; None if it has none on its feature map."""
    return next(iter(auxiliary_heads(tuple(heads))), None)


def _of_all(engine: Engine, parts: list[np.ndarray]) -> np.ndarray:
    """[cases of all processes, ...]"""
    gathered = engine.gather(np.concatenate(parts))
    rows: np.ndarray = gathered.reshape(-1, *gathered.shape[2:])
    return rows


def write_organ_dice(path: Path, found: OrganDice) -> None:
    """CSV: case_id and a column per organ, empty where undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case_id", *found.organs])
    for case_id, row in zip(found.case_ids, found.dice, strict=True):
        writer.writerow([case_id, *("" if np.isnan(value) else repr(float(value)) for value in row)])
    write_atomically(path, text.getvalue().encode())


def read_organ_dice(path: Path, task: Task) -> OrganDice:
    """Return the inverse of `write_organ_dice`; `AnatoBenchError` if the file is not one of this task."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
        organs = tuple(header[1:])
        if organs not in (task.organs, tuple(one.name for one in task.mask_classes)) or header[0] != "case_id":
            raise ValueError("other columns")
        if any(len(row) != len(header) for row in rows):
            raise ValueError("rows of other lengths")
        dice = [[float(cell) if cell else float("nan") for cell in row[1:]] for row in rows]
    except (OSError, ValueError) as error:
        raise AnatoBenchError(f"{path}: not organ Dice of task {task.name} ({error}): run evaluate again") from None
    values = np.array(dice, dtype=np.float64).reshape(len(rows), len(organs))
    return OrganDice(organs, tuple(row[0] for row in rows), values)


def lowest_dice(found: OrganDice, count: int) -> Sequence[tuple[str, dict[str, Any]]]:
    """Return the cases with the lowest mean Dice, the lowest first: their ids, `mean` and the Dice of each organ."""
    means = found.mean_of_case
    order = [int(row) for row in np.argsort(means, kind="stable") if np.isfinite(means[row])][:count]
    return [
        (found.case_ids[row], {"mean": means[row], **dict(zip(found.organs, found.dice[row], strict=True))})
        for row in order
    ]
