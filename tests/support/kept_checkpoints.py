"""A run's newest checkpoint, for tests that know of one."""

from __future__ import annotations

from pathlib import Path

from anatobench.training.checkpoints import Checkpoint, read_newest


def newest_checkpoint(run: Path) -> Checkpoint:
    """Return what `read_newest` finds; a run without any is a failure."""
    found = read_newest(run)
    assert found is not None, f"{run} holds no checkpoint"
    return found
