"""The paper's experiments as data: which models are trained for which table, and what the paper found.

A condition is what the paper compares: data set, model, initial weights, supervision. A cell is one run of it: a
condition in one framework from one seed. A condition that several tables share exists once.

Tables 8, 9 and 11 show other metrics, or other classes, of Table 1's models, so they need no runs of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from anatobench.experiments.published import (
    TABLE_1,
    TABLE_3,
    TABLE_10,
    TABLE_12,
    TABLE_13,
    TABLE_14,
    ClassRow,
    PublishedAuc,
)
from anatobench.experiments.runs import check_choices
from anatobench.recipes import ALL_ORGANS, FRAMEWORKS, MODELS, SEGMENTATION_LOSSES
from anatobench.tasks import TASKS

MACRO = "macro"


@dataclass(frozen=True)
class Condition:
    """One model of the paper, to be trained from several seeds in both frameworks."""

    dataset: str
    model: str
    pretrained: bool
    segmentation_weight: float = 1.0
    """0 trains without the segmentation branch."""
    organs: tuple[str, ...] = ()
    """The organs that supervise; () for all."""
    boundary_distortion: float = 0.0
    """Percent."""
    segmentation_loss: str = SEGMENTATION_LOSSES[0]

    @property
    def name(self) -> str:
        """Of folders and job logs: letters, digits, `.`, `-` and `_`."""
        weights = "pretrained" if self.pretrained else "scratch"
        return f"{self.dataset}_{self.model}_{weights}_{self.supervision_name}"

    @property
    def supervision_name(self) -> str:
        """What of the supervision differs from the paper's usual one."""
        if not self.supervised:
            return "no_seg"
        parts = (
            "seg",
            "" if self.segmentation_weight == 1 else f"weight{self.segmentation_weight:g}",
            "-".join(self.organs),
            f"distortion{self.boundary_distortion:g}" if self.boundary_distortion else "",
            "" if self.segmentation_loss == SEGMENTATION_LOSSES[0] else self.segmentation_loss,
        )
        return "_".join(part for part in parts if part)

    @property
    def supervised(self) -> bool:
        """Whether the auxiliary head is trained."""
        return self.segmentation_weight > 0

    @property
    def settings(self) -> tuple[str, ...]:
        """The recipe's fields that make the condition, each `field=value`."""
        return (
            f"segmentation_weight={self.segmentation_weight:g}",
            f"supervising_organs={','.join(self.organs) or ALL_ORGANS}",
            f"boundary_distortion={self.boundary_distortion:g}",
            f"segmentation_loss={self.segmentation_loss}",
        )


OWN_SETTINGS = (*(text.partition("=")[0] for text in Condition("", "", False).settings), "seed", "objective")
"""The recipe's fields that the grid sets, which nobody else may."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    condition: Condition
    framework: str
    seed: int
    nudged: bool = False
    """Whether it is a control: its learning rate is larger by as good as nothing."""

    @property
    def name(self) -> str:
        """Stable and unique: a run lies in the folder of that name."""
        return f"{self.condition.name}_{self.arm}_seed{self.seed}"

    @property
    def arm(self) -> str:
        """What trains it."""
        return f"{self.framework}_nudged" if self.nudged else self.framework


Published = Mapping[str, PublishedAuc]
"""By class, and `macro`."""


def _per_class(rows: Iterable[ClassRow]) -> dict[Condition, Published]:
    return {
        Condition(row.dataset, row.model, row.pretrained, row.segmentation_weight): {**row.classes, MACRO: row.average}
        for row in rows
    }


_ABLATED = Condition("ratic", "swin3d_t", pretrained=True)
"""The model of all ablations."""
_DISTORTED = replace(_ABLATED, segmentation_weight=10.0)
"""Table 14's. Its first number is that of Table 13's weight 10, so that its other two can only be compared with runs of
weight 10; the text says nothing of it."""


def _table_3() -> dict[Condition, Published]:
    every_organ = set(TASKS[_ABLATED.dataset].organs)
    found: dict[Condition, Published] = {}
    for organs, auc in TABLE_3.items():
        condition = replace(_ABLATED, organs=() if set(organs) == every_organ else organs)
        found[condition if organs else replace(_ABLATED, segmentation_weight=0.0)] = {MACRO: auc}
    return found


TABLES: Mapping[str, Mapping[Condition, Published]] = {
    "1": {
        Condition(dataset, model, pretrained, float(segmentation)): {MACRO: auc}
        for (dataset, model, pretrained, segmentation), auc in TABLE_1.items()
    },
    "2": {condition: {MACRO: classes[MACRO]} for condition, classes in _per_class(TABLE_13).items()},
    "3": _table_3(),
    "10": _per_class(TABLE_10),
    "12": _per_class(TABLE_12),
    "13": _per_class(TABLE_13),
    "14": {replace(_DISTORTED, boundary_distortion=percent): {MACRO: auc} for percent, auc in TABLE_14.items()},
    "losses": {replace(_ABLATED, segmentation_loss=loss): {} for loss in SEGMENTATION_LOSSES},
}
"""The paper's numbers by table and condition. `losses` has none: section 2 says that Dice and both do "similar"."""


@dataclass(frozen=True)
class Selection:
    """A part of the grid."""

    tables: tuple[str, ...] = tuple(TABLES)
    datasets: tuple[str, ...] = tuple(TASKS)
    models: tuple[str, ...] = tuple(MODELS)
    frameworks: tuple[str, ...] = FRAMEWORKS
    seeds: int = 3
    """Repetitions: seeds 0, 1, ..."""
    from_scratch: bool = False
    """Take pretrained conditions from scratch: what stores of size tiny can do, not what the paper did."""

    def __post_init__(self) -> None:
        allowed = {"tables": TABLES, "datasets": TASKS, "models": MODELS, "frameworks": FRAMEWORKS}
        check_choices(self, allowed, "seeds")

    def conditions(self, table: str) -> tuple[Condition, ...]:
        """Return those of a table, in the paper's order."""
        found = (one for one in TABLES[table] if one.dataset in self.datasets and one.model in self.models)
        return tuple(dict.fromkeys(replace(one, pretrained=one.pretrained and not self.from_scratch) for one in found))

    @property
    def all_conditions(self) -> tuple[Condition, ...]:
        """Those of all tables, each once."""
        return tuple(dict.fromkeys(condition for table in self.tables for condition in self.conditions(table)))

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every run once, the first seed of all conditions before the second of any."""
        return tuple(
            Cell(condition, framework, seed)
            for seed in range(self.seeds)
            for condition in self.all_conditions
            for framework in self.frameworks
        )

    def tables_of(self, condition: Condition) -> tuple[str, ...]:
        """Return the selected tables that show it."""
        return tuple(table for table in self.tables if condition in self.conditions(table))
