"""Reading checkpoints: verified, either form in either framework, the older one where the newest is damaged."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

from anatobench.engine import Arrays
from anatobench.errors import AnatoBenchError
from anatobench.system.state_files import ORBAX
from anatobench.training.checkpoints.folder import FOLDER, best_step, step_folder, steps_of
from anatobench.training.checkpoints.orbax_form import read_orbax
from anatobench.training.checkpoints.progress import MODEL, Checkpoint
from anatobench.training.checkpoints.state_file import STATE_FILE, State, read_state, verify

_TREE_FILE = re.compile(r"([a-z_]+)\.safetensors")


def read_newest(run: Path) -> Checkpoint | None:
    """Return the newest intact checkpoint, or None if there is no checkpoint at all.

    A damaged one is named on stderr and passed over; `AnatoBenchError` if all are damaged.
    """
    steps = steps_of(run)
    for step in reversed(steps):
        try:
            return read_checkpoint(step_folder(run, step))
        except AnatoBenchError as error:
            print(f"anatobench: warning: {error}; looking for an older checkpoint", file=sys.stderr)
    if steps:
        raise AnatoBenchError(f"{run / FOLDER}: every checkpoint is damaged: delete the folder to start again")
    return None


def read_best(run: Path) -> Checkpoint:
    """Return the best checkpoint, or the newest of a run that has no validated one; `AnatoBenchError` if it is
    damaged."""
    step = best_step(run)
    if step is not None:
        return read_checkpoint(step_folder(run, step))
    newest = read_newest(run)
    if newest is None:
        raise AnatoBenchError(f"{run}: no checkpoint yet: train it first")
    return newest


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint and verify it; `AnatoBenchError` names the damaged file."""
    path = folder / STATE_FILE
    try:
        state = read_state(path)
        for name, expected in state.files.items():
            path = folder / name
            verify(path, expected)
        path = folder / STATE_FILE
        trees = _read_trees(folder, state)
        if MODEL not in trees:
            raise ValueError(f"{MODEL} is missing")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, SafetensorError) as error:
        raise AnatoBenchError(f"{path}: damaged checkpoint ({error})") from None
    return Checkpoint(state.progress, trees)


def _read_trees(folder: Path, state: State) -> dict[str, Arrays]:
    if state.form == ORBAX:
        return read_orbax(folder, sum(int(expected["bytes"]) for expected in state.files.values()))
    trees = {}
    for name in state.files:
        named = _TREE_FILE.fullmatch(name)
        if named is None:
            raise ValueError(f"{name!r} is no file of a checkpoint")
        trees[named[1]] = load_file(folder / name)
    return trees
