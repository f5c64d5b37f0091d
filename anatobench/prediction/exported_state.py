"""One file with all that training goes on from: weights, moments, step count and teacher, for those who go on
elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anatobench import __version__
from anatobench.errors import AnatoBenchError
from anatobench.prediction.exported_model import write_export
from anatobench.system.array_files import safetensors_bytes
from anatobench.training.checkpoints import read_newest
from anatobench.training.run_folder import RunConfig


def export_state(run: Path, path: Path) -> dict[str, Any]:
    """Write a run's newest intact checkpoint as one file, whichever form it has; what the file holds.

    Arrays are named `<tree>/<canonical name>`, in torch's layouts: `model/<parameter>`,
    `optimizer/exp_avg/<parameter>`, `optimizer/exp_avg_sq/<parameter>`, `optimizer/step` and, where the run has one,
    `teacher/<parameter>`. The metadata says which run it was and where it stood. `AnatoBenchError` if there is no
    checkpoint or the file cannot be written.
    """
    config = RunConfig.read(run)
    checkpoint = read_newest(run)
    if checkpoint is None:
        raise AnatoBenchError(f"{run}: no checkpoint yet: train it first")
    progress, trees = checkpoint.progress, checkpoint.trees
    metadata = {
        "anatobench_version": __version__,
        "model": config.model,
        "size": config.size,
        "task": json.dumps(config.task.to_json()),
        "framework": progress.framework,
        "step": str(progress.step),
        "epoch": str(progress.epoch),
    }
    arrays = {f"{tree}/{name}": array for tree, named in trees.items() for name, array in named.items()}
    content = safetensors_bytes(arrays, metadata)
    write_export(path, content)
    return {
        "file": str(path),
        "bytes": len(content),
        **metadata,
        "task": config.task.name,
        "step": progress.step,
        "epoch": progress.epoch,
        "trees": sorted(trees),
    }
