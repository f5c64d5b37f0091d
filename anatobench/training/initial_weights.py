"""The weights a run begins with: kept beside it, and taken from a file where the person names one.

Two frameworks draw different weights from the same seed. A run that starts from another's `initial.safetensors` starts
from the very same model, so that what differs afterwards is arithmetic alone. A run may also begin with the video
weights that torchvision publishes; its stem and heads are drawn all the same.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from anatobench.backbones import card_of
from anatobench.engine import Arrays, Engine
from anatobench.errors import AnatoBenchError
from anatobench.objectives.heads import CLASSIFIER, UNTRAINED, of_auxiliary
from anatobench.system.array_files import safetensors_bytes
from anatobench.system.atomic_files import write_atomically
from anatobench.system.processes import after_leader
from anatobench.training.checkpoints import STATE_FILE, read_best, read_checkpoint
from anatobench.training.pretrained.transfer import pretrained_weights
from anatobench.training.pretrained.weights_file import WeightsFile, find_or_download, read_weights_file
from anatobench.training.run_folder import CONFIG_FILE, RunConfig

INITIAL_WEIGHTS_FILE = "initial.safetensors"
Say = Callable[[str], None]
"""Takes a sentence for a person."""


def say_on_stderr(sentence: str) -> None:
    """Print it."""
    print(sentence, file=sys.stderr)


def begin_with(run: Path, config: RunConfig, engine: Engine, say: Say = say_on_stderr) -> None:
    """Load `config.initial_weights` or `config.pretrained` if there is one, then keep what the engine begins with in
    the run's folder; the header says by name and SHA-256 which published file that was. Where several processes train
    the run, the first one does this, and the others begin with what it kept."""
    if engine.processes.alone:
        _begin(run, config, engine, say)
        return
    after_leader(engine.processes, engine.gather, lambda: _begin(run, config, engine, say))
    if not engine.processes.leads:
        load_initial_weights(run / INITIAL_WEIGHTS_FILE, engine)


def _begin(run: Path, config: RunConfig, engine: Engine, say: Say) -> None:
    metadata = {"model": config.model, "size": config.size, "task": json.dumps(config.task.to_json())}
    if config.initial_weights is not None:
        load_initial_weights(Path(config.initial_weights), engine)
    if config.pretrained is not None:
        file = load_pretrained(config.pretrained, engine, say)
        metadata |= {"pretrained": file.path.name, "pretrained_sha256": file.sha256}
    write_atomically(run / INITIAL_WEIGHTS_FILE, safetensors_bytes(engine.weights(), metadata))


def load_initial_weights(path: Path, engine: Engine) -> None:
    """Weights in canonical form: a run's `initial.safetensors`, the folder of a checkpoint, an export, or a run's
    folder, of which its best checkpoint is taken.

    An export has no segmentation head: the engine keeps the one it drew. So it keeps its classifier where the file's
    has other outputs and was never trained. `AnatoBenchError` if the file is damaged or does not fit the model.
    """
    weights, classifier_trained = _read(path)
    own, classifier = engine.weights(), card_of(engine.spec.model).classifier
    mine = {name: array for name, array in own.items() if name.startswith(classifier)}
    if any(name in weights and weights[name].shape != array.shape for name, array in mine.items()):
        if classifier_trained:
            outputs = weights[f"{classifier}bias"].shape if f"{classifier}bias" in weights else ()
            raise AnatoBenchError(
                f"{path}: its classifier has {' x '.join(map(str, outputs)) or 'other'} outputs, task "
                f"{engine.spec.task.name} has {mine[f'{classifier}bias'].size}: begin with a run of the same task"
            )
        weights = {**weights, **mine}
    try:
        engine.load_weights(of_auxiliary(own) | weights)
    except AnatoBenchError as error:
        raise AnatoBenchError(f"{path}: {error}") from None


def load_pretrained(pretrained: str, engine: Engine, say: Say = say_on_stderr) -> WeightsFile:
    """Fill the engine's backbone from a file of torchvision's Kinetics-400 weights and say what was done.

    `pretrained` is a path, or the published file's bare name for wherever it is found or can be downloaded to.
    `AnatoBenchError` if there is no such file, it is damaged, or it is not the published one of the engine's model.
    """
    published = card_of(engine.spec.model).published_weights()
    file = read_weights_file(find_or_download(published) if pretrained == published.file else Path(pretrained))
    try:
        engine.load_weights(pretrained_weights(published, file.arrays, engine.weights()))
    except AnatoBenchError as error:
        raise AnatoBenchError(f"{file.path}: {error}") from None
    drawn = "; ".join(f"{name}* ({reason})" for name, reason in published.skipped.items())
    say(f"begins with {file.path}, SHA-256 {file.sha256}; drawn from the seed instead: {drawn}")
    return file


def _read(path: Path) -> tuple[Arrays, bool]:
    """Return the weights, and whether their classifier was trained as far as the file says."""
    if (path / CONFIG_FILE).is_file():
        return read_best(path).weights, RunConfig.read(path).trains_classifier
    if (path / STATE_FILE).is_file():
        return read_checkpoint(path).weights, True
    if path.is_dir():
        raise AnatoBenchError(
            f"{path}: neither a run's folder ({CONFIG_FILE} is missing) nor a checkpoint's ({STATE_FILE} is missing)"
        )
    if not path.is_file():
        raise AnatoBenchError(f"{path}: no such file of weights")
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            classifier_trained = (file.metadata() or {}).get(CLASSIFIER) != UNTRAINED
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise AnatoBenchError(f"{path}: cannot be read as weights: {error}") from None
    if arrays and all("/" in name for name in arrays):  # `<tree>/<name>`, and no parameter's name has a slash
        raise AnatoBenchError(
            f"{path}: holds the whole state of a run, as `export --state` writes it: begin with the run's folder, its "
            "initial.safetensors, or an export without --state"
        )
    return arrays, classifier_trained
