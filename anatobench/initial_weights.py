"""The weights a run begins with: kept beside it, and taken from a file where the person names one.

Two frameworks draw different weights from the same seed. A run that starts from another's `initial.safetensors` starts
from the very same model, so that what differs afterwards is arithmetic alone.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from anatobench.array_files import safetensors_bytes
from anatobench.atomic_files import write_atomically
from anatobench.engine import SEGMENTATION_HEAD, Arrays, Engine
from anatobench.errors import AnatoBenchError
from anatobench.runs import RunConfig

INITIAL_WEIGHTS_FILE = "initial.safetensors"


def begin_with(run: Path, config: RunConfig, engine: Engine) -> None:
    """Load `config.initial_weights` if it names a file, then keep what the engine begins with in the run's folder."""
    if config.initial_weights is not None:
        load_initial_weights(Path(config.initial_weights), engine)
    metadata = {"model": config.model, "size": config.size, "task": json.dumps(config.task.to_json())}
    write_atomically(run / INITIAL_WEIGHTS_FILE, safetensors_bytes(engine.weights(), metadata))


def load_initial_weights(path: Path, engine: Engine) -> None:
    """Weights in canonical form: a run's `initial.safetensors`, a checkpoint's `model.safetensors`, or an export.

    An export has no segmentation head: the engine keeps the one it drew. `AnatoBenchError` if the file is damaged or
    does not fit the model.
    """
    weights = _read(path)
    head = {name: array for name, array in engine.weights().items() if name.startswith(SEGMENTATION_HEAD)}
    try:
        engine.load_weights(head | weights)
    except AnatoBenchError as error:
        raise AnatoBenchError(f"{path}: {error}") from None


def _read(path: Path) -> Arrays:
    if not path.is_file():
        raise AnatoBenchError(f"{path}: no such file of weights")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise AnatoBenchError(f"{path}: cannot be read as weights: {error}") from None
