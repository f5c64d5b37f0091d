"""The paper's models by name, each with what the paper found: `anatobench train --named ratic/r3d_18`.

A name is a data set and a backbone of Table 6, trained from scratch with segmentation supervision unless more words say
otherwise: `ratic/r3d_18/pretrained/no_seg`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from anatobench.errors import UsageError
from anatobench.experiments.grid import Condition
from anatobench.experiments.published import TABLE_1, PublishedAuc
from anatobench.recipes import Recipe, paper_recipe
from anatobench.session import AUTO
from anatobench.tasks import get_task

GPU_HOURS: Mapping[str, float] = {}
"""What training a named run has taken on one H100, by name. None has been trained whole: not measured."""
NAMED_HEADER = ("name", "epochs", "batch", "learning rate", "the paper's AUC, %", "source", "GPU-hours", "command")


@dataclass(frozen=True)
class NamedRun:
    """One model of the paper."""

    name: str
    condition: Condition
    expected: PublishedAuc
    """Macro AUC on the test split of real, full-size scans."""

    @property
    def task(self) -> str:
        return self.condition.dataset

    @property
    def model(self) -> str:
        return self.condition.model

    @property
    def pretrained(self) -> str | None:
        """As `configure` takes it."""
        return AUTO if self.condition.pretrained else None

    @property
    def no_seg(self) -> bool:
        """Whether it is the paper's baseline."""
        return self.condition.segmentation_weight == 0

    @property
    def recipe(self) -> Recipe:
        """Table 6's."""
        return paper_recipe(get_task(self.task), self.model)

    @property
    def command(self) -> str:
        """What trains it."""
        place = self.name.replace("/", "_")
        return f"anatobench train --named {self.name} --store stores/{self.task} --out runs/{place}"

    @property
    def hours(self) -> float | None:
        """On one H100; None where not measured."""
        return GPU_HOURS.get(self.name)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        recipe = self.recipe
        return {
            "name": self.name,
            **asdict(self.condition),
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "learning_rate": recipe.learning_rate,
            "expected": asdict(self.expected),
            "gpu_hours": self.hours,
            "command": self.command,
        }


def _named(condition: Condition, expected: PublishedAuc) -> NamedRun:
    words = [condition.dataset, condition.model]
    words += ["pretrained"] if condition.pretrained else []
    words += ["no_seg"] if condition.segmentation_weight == 0 else []
    return NamedRun("/".join(words), condition, expected)


NAMED_RUNS: Mapping[str, NamedRun] = {
    run.name: run
    for (dataset, model, pretrained, segmentation), auc in TABLE_1.items()
    for run in (_named(Condition(dataset, model, pretrained, 1.0 if segmentation else 0.0), auc),)
}


def named_run(name: str) -> NamedRun:
    """The run of that name; `UsageError` says where the names are listed."""
    if name not in NAMED_RUNS:
        raise UsageError(
            f"--named {name}: no such run: write DATASET/MODEL[/pretrained][/no_seg], as "
            "`anatobench experiments named` lists them"
        )
    return NAMED_RUNS[name]


def named_rows() -> list[tuple[str, ...]]:
    """Under `NAMED_HEADER`."""
    return [
        (
            run.name,
            str(run.recipe.epochs),
            str(run.recipe.batch_size),
            f"{run.recipe.learning_rate:g}",
            f"{100 * run.expected.auc:.2f}{' *' if run.expected.note else ''}",
            run.expected.source,
            "not measured" if run.hours is None else f"{run.hours:.3g}",
            run.command,
        )
        for run in NAMED_RUNS.values()
    ]
