"""The paper's models by name, each with what the paper found: `anatobench train --named ratic/r3d_18`.

A name is a data set and a backbone of Table 6, trained from scratch with segmentation supervision unless more words say
otherwise: `ratic/r3d_18/pretrained/no_seg`.

Beside them MedMNIST's 3D sets, `organmnist3d/r3d_18`: a tiny backbone from scratch, without segmentation (the sets have
no masks), with the batch of 32, the rate of 0.001 and the 100 epochs of MedMNIST's own 3D benchmark
(MedMNIST/experiments, MedMNIST3D/train_and_eval_pytorch.py); optimizer and decay stay those of this suite (AdamW,
cosine) where that has Adam and two drops. Nobody has tuned them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from anatobench.backbones import CARDS
from anatobench.datasets.medmnist3d import BENCHMARK, SETS, task_of_set
from anatobench.errors import UsageError
from anatobench.experiments.grid import MACRO, TABLES, Condition
from anatobench.experiments.published import PublishedAuc
from anatobench.recipes import Recipe, override, paper_recipe
from anatobench.tasks import get_task

GPU_HOURS: Mapping[str, float] = {}
"""What training a named run has taken on one H100, by name. None has been trained whole: not measured."""
MEDMNIST_SETTINGS = ("batch_size=32", "learning_rate=0.001", "epochs=100")
_MEDMNIST_NOTES = {"vesselmnist3d": "a second copy of the benchmark's table has 90.5"}
NAMED_HEADER = ("name", "epochs", "batch", "rate", "its AUC, %", "source", "GPU-hours")


@dataclass(frozen=True)
class NamedRun:
    """One model of the paper, or of a public benchmark."""

    name: str
    condition: Condition
    expected: PublishedAuc
    """Macro AUC on the test split of real, full-size scans."""
    settings: tuple[str, ...] = ()
    """Changes of Table 6's recipe, as after `--set`."""
    size: str = "full"
    """What store it is meant for. (A tiny one may stand for a full one, to try whether all works.)"""

    @property
    def recipe(self) -> Recipe:
        """What it is trained with."""
        dataset = self.condition.dataset
        return override(paper_recipe(task_of_set(dataset) or get_task(dataset), self.condition.model), self.settings)

    def to_json(self) -> dict[str, Any]:
        """Return it with Table 6's recipe, the hours on one H100 (None where not measured) and what trains it."""
        recipe = self.recipe
        place = f"--store stores/{self.condition.dataset} --out runs/{self.name.replace('/', '_')}"
        return {
            "name": self.name,
            **asdict(self.condition),
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "learning_rate": recipe.learning_rate,
            "expected": asdict(self.expected),
            "gpu_hours": GPU_HOURS.get(self.name),
            "command": f"anatobench train --named {self.name} {place}",
        }

    @property
    def row(self) -> tuple[str, ...]:
        """Return the cells under `NAMED_HEADER`."""
        recipe, hours, mark = self.recipe, GPU_HOURS.get(self.name), " *" if self.expected.note else ""
        figures = (f"{value:g}" for value in (recipe.epochs, recipe.batch_size, recipe.learning_rate))
        auc = f"{100 * self.expected.auc:.2f}{mark}"
        return (self.name, *figures, auc, self.expected.source, "-" if hours is None else f"{hours:.3g}")


def _papers() -> Iterator[NamedRun]:
    for condition, published in TABLES["1"].items():
        words = {"pretrained": condition.pretrained, "no_seg": not condition.supervised}
        name = "/".join([condition.dataset, condition.model, *(word for word, said in words.items() if said)])
        yield NamedRun(name, condition, published[MACRO])


def _medmnist() -> Iterator[NamedRun]:
    """Yield every set with every backbone; what is expected is the benchmark's AUC, of another model."""
    for name, one in SETS.items():
        expected = PublishedAuc(one.published_auc, BENCHMARK, _MEDMNIST_NOTES.get(name, ""))
        for model in CARDS:
            condition = Condition(name, model, pretrained=False, segmentation_weight=0.0)
            yield NamedRun(f"{name}/{model}", condition, expected, MEDMNIST_SETTINGS, "tiny")


NAMED_RUNS: Mapping[str, NamedRun] = {run.name: run for run in (*_papers(), *_medmnist())}


def named_run(name: str) -> NamedRun:
    """Return the run of that name; `UsageError` says where the names are listed."""
    if name not in NAMED_RUNS:
        raise UsageError(
            f"--named {name}: no such run: write DATASET/MODEL[/pretrained][/no_seg], as "
            "`anatobench experiments named` lists them"
        )
    return NAMED_RUNS[name]
