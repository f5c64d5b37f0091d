"""The grid on disk: one folder with the runs, what they have in common, and which are done.

OUT/grid.json       the settings that all runs share
OUT/runs/<cell>     a run of `anatobench train`, with the evaluation that ends it
OUT/logs            what the runs said
OUT/plans           what was submitted to Slurm (grid_jobs.py)
OUT/record.json     what `collect` found, also as results.csv and report.html (grid_results.py)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anatobench.backbones import card_of
from anatobench.bench.flops import count
from anatobench.engine import ModelSpec
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.experiments.child_processes import Chain, Command
from anatobench.experiments.grid import OWN_SETTINGS, Cell
from anatobench.objectives.registry import plan_of
from anatobench.recipes import Recipe, override, paper_recipe
from anatobench.store.reader import INDEX_FILE, Store, read_description
from anatobench.system.atomic_files import write_atomically
from anatobench.system.json_text import parse_json
from anatobench.tasks import get_task
from anatobench.training.metrics_records import METRICS_FILE
from anatobench.training.pretrained.weights_file import find, how_to_fetch
from anatobench.training.run_folder import CONFIG_FILE, evaluation_file

GRID_FILE = "grid.json"
ABSENT, BEGUN, DONE = "absent", "begun", "done"
STATES = (ABSENT, BEGUN, DONE)
"""A run that is begun may be running or may have been stopped: both go on the same way."""
_LAST_BYTES = 65536
"""Enough of a metrics file for its last record."""


@dataclass(frozen=True)
class GridSettings:
    """What all runs of a folder share; `OUT/grid.json`."""

    stores: str
    """Absolute path of the folder with a store per data set: `ratic`, `ct_rate`, `rad_chestct`."""
    from_scratch: bool = False
    steps: int | None = None
    """Ends every run early; None trains as long as the paper."""
    settings: tuple[str, ...] = ()
    """Changes of the paper's recipes, `field=value`."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"--steps {self.steps}: at least 1")
        override(Recipe(), self.settings)
        taken = [text for text in self.settings if text.partition("=")[0] in OWN_SETTINGS]
        if taken:
            raise UsageError(f"--set {taken[0]}: the grid itself sets {', '.join(OWN_SETTINGS)}")

    def recipe(self, cell: Cell) -> Recipe:
        """What a cell is trained with."""
        own = [f"{name}={value}" for name, value in cell.condition.settings.items()]
        base = paper_recipe(get_task(cell.condition.dataset), cell.condition.model)
        return override(base, [*self.settings, *own, f"seed={cell.seed}"])

    def store_of(self, dataset: str) -> Path:
        """Where a data set's store lies."""
        return Path(self.stores) / dataset

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "settings": list(self.settings)}


def read_settings(out: Path) -> GridSettings | None:
    """Those of an existing folder; None where there is none yet, `AnatoBenchError` if the file is damaged."""
    path = out / GRID_FILE
    if not path.exists():
        return None
    try:
        data = parse_json(path.read_text())
        return GridSettings(**{**data, "settings": tuple(data["settings"])})
    except (OSError, ValueError, KeyError, TypeError, AnatoBenchError) as error:
        raise AnatoBenchError(f"{path}: not a grid's settings ({error}): choose another --out") from None


def settings_for(out: Path, asked: Mapping[str, Any], default_stores: str = "stores") -> GridSettings:
    """The folder's settings, or in a new folder those asked for; `AnatoBenchError` names what is asked otherwise.

    `asked` has the fields of `GridSettings` that a person named.
    """
    saved = read_settings(out)
    if saved is None:
        return GridSettings(**{**asked, "stores": str(Path(asked.get("stores", default_stores)).resolve())})
    changed = []
    for name, value in asked.items():
        now, was = str(Path(value).resolve()) if name == "stores" else value, getattr(saved, name)
        if now != was:
            changed.append(f"{name}: {was} -> {now}")
    if changed:
        raise AnatoBenchError(f"{out}: its runs have other settings: {'; '.join(changed)}: choose another --out")
    return saved


def begin(out: Path, settings: GridSettings) -> None:
    """Keep the settings of a new folder; `AnatoBenchError` if it holds something else."""
    if read_settings(out) == settings:
        return
    if out.exists() and any(out.iterdir()):
        raise AnatoBenchError(f"{out}: not empty and not this grid: choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / GRID_FILE, (json.dumps(settings.to_json(), indent=1) + "\n").encode())
    except OSError as error:
        raise AnatoBenchError(f"{out}: cannot be written ({error.strerror}): choose another --out") from None


def run_folder(out: Path, cell: Cell) -> Path:
    """Where a cell's run lies."""
    return out / "runs" / cell.name


def logs_folder(out: Path) -> Path:
    """Where what the runs said lies."""
    return out / "logs"


def state_of(out: Path, cell: Cell) -> str:
    """One of `STATES`."""
    run = run_folder(out, cell)
    if (run / evaluation_file("test")).is_file():
        return DONE
    return BEGUN if (run / CONFIG_FILE).is_file() else ABSENT


def last_step(run: Path) -> int:
    """The last step that a run has logged, 0 if none."""
    try:
        with (run / METRICS_FILE).open("rb") as file:
            file.seek(max(file.seek(0, 2) - _LAST_BYTES, 0))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(parse_json(line)["step"])
        except (ValueError, KeyError, TypeError):  # the line is being written, or was cut
            continue
    return 0


def what_is_missing(cells: Sequence[Cell], settings: GridSettings) -> list[str]:
    """A sentence for everything that the cells need and that is not there: stores and pretrained weights."""
    found = []
    tiny = set()
    for dataset in dict.fromkeys(cell.condition.dataset for cell in cells):
        path = settings.store_of(dataset)
        try:
            description = read_description(path)
        except AnatoBenchError as error:
            found.append(f"{dataset}: {error}")
            continue
        if not (path / INDEX_FILE).is_file():
            found.append(f"{dataset}: {path}: preparing was not finished: run `anatobench prepare` again")
        elif description["task"] != get_task(dataset):
            found.append(f"{dataset}: {path}: is a store of task {description['task'].name}: prepare another")
        if description["size"] == "tiny":
            tiny.add(dataset)
    pretrained = [cell.condition for cell in cells if cell.condition.pretrained]
    for dataset in dict.fromkeys(condition.dataset for condition in pretrained if condition.dataset in tiny):
        path = settings.store_of(dataset)
        found.append(f"{path}: is of size tiny, for which there are no pretrained weights: give --from-scratch")
    for model in dict.fromkeys(condition.model for condition in pretrained if condition.dataset not in tiny):
        published = card_of(model).published_weights()
        if find(published) is None:
            found.append(how_to_fetch(published))
    return found


def train_options(cell: Cell, settings: GridSettings) -> list[str]:
    """`anatobench train`'s options but --task and --out."""
    store = settings.store_of(cell.condition.dataset)
    words = ["--store", str(store), "--model", cell.condition.model, "--framework", cell.framework]
    if settings.steps is not None:
        words += ["--steps", str(settings.steps)]
    if cell.condition.pretrained:
        words += ["--pretrained", "auto"]
    own = [f"{name}={value}" for name, value in cell.condition.settings.items()]
    for setting in (*settings.settings, *own, f"seed={cell.seed}"):
        words += ["--set", setting]
    return words


def training_chain(cell: Cell, settings: GridSettings, out: Path) -> Chain:
    """Train a cell, or go on, and evaluate it."""
    run = str(run_folder(out, cell))
    train: Command = ["train", "--task", cell.condition.dataset, "--out", run, "--resume"]
    return Chain(cell.name, [[*train, *train_options(cell, settings)], ["evaluate", run]])


@dataclass(frozen=True)
class Work:
    """What a run takes."""

    steps: int
    batch_size: int
    flop: float
    """Floating-point operations of all its training steps, a multiply and an add counted as two."""


class WorkOf:
    """Counts the work of cells, opening each store once."""

    def __init__(self, settings: GridSettings) -> None:
        self._settings = settings
        self._stores: dict[str, Store | None] = {}

    def __call__(self, cell: Cell) -> Work | None:
        """None where there is no store yet, or too few cases in it for one batch."""
        store = self._store(cell.condition.dataset)
        recipe = self._settings.recipe(cell)
        steps_per_epoch = 0 if store is None else len(store.split("train")) // recipe.batch_size
        if store is None or steps_per_epoch == 0:
            return None
        steps = recipe.epochs * steps_per_epoch
        steps = steps if self._settings.steps is None else min(steps, self._settings.steps)
        heads = plan_of(recipe, store.task).heads
        spec = ModelSpec(cell.condition.model, store.size, store.task, store.geometry.crop_size, heads)
        return Work(steps, recipe.batch_size, float(count(spec).training) * recipe.batch_size * steps)

    def _store(self, dataset: str) -> Store | None:
        if dataset not in self._stores:
            path = self._settings.store_of(dataset)
            self._stores[dataset] = Store.open(path) if (path / INDEX_FILE).is_file() else None
        return self._stores[dataset]
