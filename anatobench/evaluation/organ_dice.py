"""How well the auxiliary head finds the organs: Dice per case and organ, in the crop that evaluation sees."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from anatobench.engine import Predictor
from anatobench.errors import AnatoBenchError
from anatobench.store.batches import PADDING, evaluation_batches
from anatobench.store.reader import Store
from anatobench.system.atomic_files import write_atomically
from anatobench.tasks import IGNORED_ORGAN, Task


@dataclass(frozen=True)
class OrganDice:
    """Of the cases of one split that have a mask."""

    organs: tuple[str, ...]
    case_ids: tuple[str, ...]
    dice: np.ndarray
    """float64 [cases, organs], 0 to 1; NaN where an organ is neither in the mask nor predicted."""

    @property
    def mean_of_case(self) -> np.ndarray:
        """float64 [cases]: over the organs that count; NaN where none does."""
        return _mean(self.dice, axis=1)

    def to_json(self) -> dict[str, float | None]:
        """Mean over cases per organ, and `macro`, the mean over organs; None where nothing counts."""
        per_organ = _mean(self.dice, axis=0)
        named = zip(("macro", *self.organs), [*_mean(per_organ[None], axis=1), *per_organ], strict=True)
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


def dice_of_split(engine: Predictor, store: Store, split: str, batch_size: int) -> OrganDice:
    """Every case of a split that has a mask, from the same centre crops as its predictions."""
    organs = store.task.organs
    case_ids: list[str] = []
    rows: list[np.ndarray] = []
    with (
        evaluation_batches(store, split, batch_size) as batches,
        tqdm(total=len(store.split(split)), unit="case", desc=f"{split}, organs", leave=False,
             disable=not sys.stderr.isatty()) as bar,
    ):  # fmt: skip
        for batch in batches:
            has_mask = [index != PADDING and store.cases[index].has_mask for index in batch.case_index]
            if any(has_mask):
                predicted = engine.segment(batch["volume"])
                for place in np.flatnonzero(has_mask):
                    case_ids.append(store.cases[int(batch.case_index[place])].case_id)
                    rows.append(dice_of_organs(batch["organs"][place], predicted[place], len(organs)))
            bar.update(int((batch.case_index != PADDING).sum()))
    return OrganDice(organs, tuple(case_ids), np.array(rows, dtype=np.float64).reshape(len(rows), len(organs)))


def write_organ_dice(path: Path, found: OrganDice) -> None:
    """CSV: case_id and a column per organ, empty where undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case_id", *found.organs])
    for case_id, row in zip(found.case_ids, found.dice, strict=True):
        writer.writerow([case_id, *("" if np.isnan(value) else repr(float(value)) for value in row)])
    write_atomically(path, text.getvalue().encode())


def read_organ_dice(path: Path, task: Task) -> OrganDice:
    """The inverse of `write_organ_dice`; `AnatoBenchError` if the file is not one of this task."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
        if header != ["case_id", *task.organs] or any(len(row) != len(header) for row in rows):
            raise ValueError("other columns")
        dice = [[float(cell) if cell else float("nan") for cell in row[1:]] for row in rows]
    except (OSError, ValueError) as error:
        raise AnatoBenchError(f"{path}: not organ Dice of task {task.name} ({error}): run evaluate again") from None
    values = np.array(dice, dtype=np.float64).reshape(len(rows), len(task.organs))
    return OrganDice(task.organs, tuple(row[0] for row in rows), values)


def lowest_dice(found: OrganDice, count: int) -> Sequence[tuple[str, dict[str, Any]]]:
    """The cases with the lowest mean Dice, the lowest first: their ids, `mean` and the Dice of each organ."""
    means = found.mean_of_case
    order = [int(row) for row in np.argsort(means, kind="stable") if np.isfinite(means[row])][:count]
    return [
        (found.case_ids[row], {"mean": means[row], **dict(zip(found.organs, found.dice[row], strict=True))})
        for row in order
    ]


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Without NaN; NaN where nothing is left."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total: np.ndarray = np.where(known, values, 0.0).sum(axis=axis)
    mean: np.ndarray = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return mean
