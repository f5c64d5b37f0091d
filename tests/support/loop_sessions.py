"""Runs of the training loop with an engine that needs no framework, and what they leave."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kept_checkpoints import newest_checkpoint
from numpy_engine import Measured, NumpyEngine
from tiny_store import FINDINGS

from anatobench.evaluation.judges import validator
from anatobench.recipes import Recipe
from anatobench.store.batch import Batch
from anatobench.store.batches import steps_per_epoch, training_batches
from anatobench.store.reader import Store
from anatobench.training.checkpoints import Progress
from anatobench.training.loop import TrainingData, train
from anatobench.training.run_folder import RunConfig, begin_run

RECIPE = Recipe(epochs=3, batch_size=2, learning_rate=0.05)
CONFIG = RunConfig(FINDINGS, "store", "torch", "r3d_18", "tiny", RECIPE, checkpoint_every=3)
TOTAL = 12  # 8 cases in batches of 2, 3 epochs


Outcome = tuple[dict[str, bytes], Progress, list[dict[str, Any]], dict[str, Any]]


class Session:
    """One process's worth of training."""

    def __init__(self, run: Path, store: Store, config: RunConfig = CONFIG) -> None:
        self.run, self.store, self.config = run, store, begin_run(run, config, resume=True)
        self.engine = NumpyEngine(config.spec, config.recipe)

    def train(self, before_step: Callable[[int], None] = lambda step: None) -> Progress:
        recipe, take_step = self.config.recipe, self.engine.train_step

        def noticed(batch: Batch, rate: float, step: int, *rest: Any) -> Measured:
            before_step(step)
            return take_step(batch, rate, step, *rest)

        setattr(self.engine, "train_step", noticed)  # noqa: B010
        with training_batches(self.store, recipe.seed, recipe.batch_size) as batches:
            data = TrainingData(
                batches,
                steps_per_epoch(self.store, recipe.batch_size),
                lambda index: self.store.cases[index].case_id,
                validator(self.engine, self.store, recipe.batch_size),
                self._first_batch(),
            )
            return train(self.run, self.config, self.engine, data)

    def _first_batch(self) -> Batch:
        with training_batches(self.store, self.config.recipe.seed, self.config.recipe.batch_size) as batches:
            return next(batches)


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def outcome(run: Path) -> Outcome:
    """Return everything that must not depend on how often a run was stopped: weights and moments by their bytes, the
    log without its times."""
    newest = newest_checkpoint(run)
    arrays = {**newest.weights, **newest.trees["optimizer"]}
    log = [
        {name: value for name, value in json.loads(line).items() if name != "seconds"}
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    best = json.loads((run / "checkpoints" / "best.json").read_text())
    return {name: array.tobytes() for name, array in arrays.items()}, newest.progress, log, best


class Killed(BaseException):
    """Stands for a kill: nothing of the loop's own handling runs."""


def kill_at(moment: int) -> Callable[[int], None]:
    def kill(step: int) -> None:
        if step == moment:
            raise Killed

    return kill
