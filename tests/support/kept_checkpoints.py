"""Runs with a checkpoint, and the newest that a run has, for tests that know of one."""

from __future__ import annotations

from pathlib import Path

from numpy_engine import NumpyEngine

from anatobench.training.checkpoints import Checkpoint, Progress, read_newest, save_checkpoint
from anatobench.training.run_folder import RunConfig, begin_run


def begun_run(run: Path, config: RunConfig) -> Path:
    """Return the folder of a new run whose only checkpoint, of step 3, has the weights of a new engine."""
    begin_run(run, config, resume=False)
    engine = NumpyEngine(config.spec, config.recipe)
    save_checkpoint(run, Checkpoint(Progress(3, 0, {}, 0, None, "torch", {}), engine.state()))
    return run


def newest_checkpoint(run: Path) -> Checkpoint:
    """Return what `read_newest` finds; a run without any is a failure."""
    found = read_newest(run)
    assert found is not None, f"{run} holds no checkpoint"
    return found
