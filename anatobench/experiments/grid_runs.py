"""The grid's runs: the settings that all of a folder share (`OUT/grid.json`), what each is trained with and takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anatobench.backbones import card_of
from anatobench.bench.flops import count
from anatobench.engine import ModelSpec
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.experiments.grid import OWN_SETTINGS, Cell
from anatobench.experiments.runs import PlannedRun, check_changes, settings_asked
from anatobench.objectives.registry import plan_of
from anatobench.recipes import Recipe, override, paper_recipe
from anatobench.store.reader import INDEX_FILE, Store, read_description
from anatobench.tasks import get_task
from anatobench.training.pretrained.weights_file import find, how_to_fetch
from anatobench.training.run_folder import AUTO, configure

GRID_FILE = "grid.json"


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
        check_changes(self.settings, OWN_SETTINGS, "the grid")

    def recipe(self, cell: Cell) -> Recipe:
        """Return what a cell is trained with."""
        return override(paper_recipe(get_task(cell.condition.dataset), cell.condition.model), self.settings_of(cell))

    def settings_of(self, cell: Cell) -> tuple[str, ...]:
        """Return the changes of the paper's recipe for a cell."""
        return (*self.settings, *cell.condition.settings, f"seed={cell.seed}")

    def store_of(self, dataset: str) -> Path:
        """Return where a data set's store lies."""
        return Path(self.stores) / dataset


def settings_for(out: Path, asked: Mapping[str, Any], default_stores: str = "stores") -> GridSettings:
    """Return the folder's settings, or in a new folder those asked for, the fields of `GridSettings` that a person
    named; `AnatoBenchError` names what is asked otherwise."""
    given = {name: str(Path(value).resolve()) if name == "stores" else value for name, value in asked.items()}
    return settings_asked(out / GRID_FILE, GridSettings, given, {"stores": str(Path(default_stores).resolve())})


def what_is_missing(cells: Sequence[Cell], settings: GridSettings) -> list[str]:
    """Return a sentence for everything that the cells need and that is not there: stores and pretrained weights."""
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


def planned(cells: Iterable[Cell], settings: GridSettings) -> list[PlannedRun]:
    """Return what the cells are trained with, their stores being there."""
    return [
        PlannedRun(cell.name, configure(
            settings.store_of(cell.condition.dataset), cell.condition.model, cell.framework, settings.settings_of(cell),
            pretrained=AUTO if cell.condition.pretrained else None, max_steps=settings.steps))
        for cell in cells
    ]  # fmt: skip


def work_of(cells: Sequence[Cell], settings: GridSettings) -> Iterator[tuple[int, float] | None]:
    """Yield of each cell the steps that training takes and their floating-point operations, a multiply and an add
    counted as two; None where there is no store yet, or too few cases in it for one batch."""
    paths = {cell.condition.dataset: settings.store_of(cell.condition.dataset) for cell in cells}
    stores = {dataset: Store.open(path) for dataset, path in paths.items() if (path / INDEX_FILE).is_file()}
    for cell in cells:
        condition, recipe = cell.condition, settings.recipe(cell)
        store = stores.get(condition.dataset)
        steps = 0 if store is None else recipe.epochs * (len(store.split("train")) // recipe.batch_size)
        if store is None or steps == 0:
            yield None
            continue
        steps = steps if settings.steps is None else min(steps, settings.steps)
        heads = plan_of(recipe, store.task).heads
        spec = ModelSpec(condition.model, store.size, store.task, store.geometry.crop_size, heads)
        yield steps, float(count(spec).training) * recipe.batch_size * steps
