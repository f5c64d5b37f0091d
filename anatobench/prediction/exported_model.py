"""One file with all that prediction needs: a run's weights without the segmentation head, and what they are for.

The names are torchvision's, so `load_state_dict(safetensors.torch.load_file(path))`, which is strict, fills a
torchvision model that was changed as the AutoSeg paper's Table 7 says. The header's metadata says which model, size and
task it is, and what the model is given; docs/exported_models.md predicts with it and without this repository.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from anatobench import __version__
from anatobench.backbones import card_of
from anatobench.engine import Arrays, ModelSpec, is_unread
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.evaluation.predictions import output_names
from anatobench.objectives.heads import CLASSIFIER, SEGMENTATION, UNTRAINED, diagnosis_heads, without_auxiliary
from anatobench.recipes import MODELS, SIZES
from anatobench.system.array_files import safetensors_bytes
from anatobench.system.atomic_files import write_atomically
from anatobench.system.json_text import parse_json
from anatobench.tasks import STORED_HU, Task
from anatobench.training.checkpoints import read_best
from anatobench.training.run_folder import RunConfig
from anatobench.volumes.volume import AIR_HU

AXES = "D from superior to inferior, H from anterior to posterior, W from the patient's right to left"


@dataclass(frozen=True)
class ExportedModel:
    """A model that predicts, without optimizer and, unless it was asked for, segmentation head."""

    spec: ModelSpec
    weights: Arrays
    """In canonical form."""
    step: int | None = None
    """Of the checkpoint; None for an exported file, which does not say."""
    classifier_trained: bool = True
    """Whether there is anything to predict a finding with; a classifier as it was drawn is there for its shape."""


def read_model(weights: Path, segmentation: bool = False) -> ExportedModel:
    """Return a run's best checkpoint or an exported file, to predict with, as `read_run_model` and `read_exported` do;
    `UsageError` if its classifier was never trained."""
    model = read_run_model(weights, segmentation) if weights.is_dir() else read_exported(weights)
    if not model.classifier_trained:
        raise UsageError(
            f"{weights}: its classifier was never trained, so it predicts no finding: train one that begins with it "
            "(train --initial-weights takes an export)"
        )
    return model


def read_run_model(run: Path, segmentation: bool = False) -> ExportedModel:
    """Return the best checkpoint of a run, ready to predict or to export; with the auxiliary head on request,
    `UsageError` if the run has none."""
    config = RunConfig.read(run)
    checkpoint = read_best(run)
    if segmentation:
        if SEGMENTATION not in config.spec.heads:
            raise UsageError(f"{run}: was trained without the segmentation branch, so it predicts no organs")
        spec, kept = config.spec, dict(checkpoint.weights)
    else:
        spec, kept = _spec(config.model, config.size, config.task), without_auxiliary(checkpoint.weights)
    return ExportedModel(spec, kept, checkpoint.progress.step, config.trains_classifier)


def export_run(run: Path, path: Path) -> dict[str, Any]:
    """Write a run's best checkpoint as one file; what its metadata says, and its size."""
    model = read_run_model(run)
    spec, card = model.spec, card_of(model.spec.model)
    metadata = {
        "anatobench_version": __version__,
        "model": spec.model,
        "size": spec.size,
        "task": json.dumps(spec.task.to_json()),
        **_of_input(spec),
        "pooling": card.pooling,
        "outputs": json.dumps(output_names(spec.task)),
        **({} if model.classifier_trained else {CLASSIFIER: UNTRAINED}),
    }
    buffers = card.fixed_buffers(card.layout(spec.size)) if card.fixed_buffers else {}
    content = safetensors_bytes({**model.weights, **buffers}, metadata)
    write_export(path, content)
    return {"file": str(path), "bytes": len(content), **metadata, "task": spec.task.name}


def write_export(path: Path, content: bytes) -> None:
    """Write an exported file whole or not at all; `AnatoBenchError` if the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise AnatoBenchError(f"{path}: cannot be written ({error.strerror}): choose another --to") from None


def _of_input(spec: ModelSpec) -> dict[str, str]:
    """Return what the model is given, for those who have only the file: lists as JSON, the rest in words."""
    geometry = spec.task.geometry(spec.size)
    return {
        "axes": AXES,
        "input": "[B, 1, D, H, W]: HU clipped to window_hu, whose ends are mapped to -1 and 1",
        "spacing_mm": json.dumps(geometry.spacing),
        "padded_size": json.dumps(geometry.padded_size),
        "crop_size": json.dumps(geometry.crop_size),
        "crop": f"trilinear on the scan's own axes about its centre, rounded to whole HU and clipped to {STORED_HU[0]} "
        f"to {STORED_HU[1]}; padded with {AIR_HU} or cropped to padded_size; from there crop_size at (padded_size - "
        "crop_size) // 2",
        "window_hu": json.dumps(spec.task.window),
    }


def read_exported(path: Path) -> ExportedModel:
    """Read what `export_run` wrote, in this version or an older one; `AnatoBenchError` if the file is something else or
    damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata["model"] not in MODELS or metadata["size"] not in SIZES:
                raise ValueError(f"no such model: {metadata['model']}, {metadata['size']}")
            spec = _spec(metadata["model"], metadata["size"], Task.from_json(parse_json(metadata["task"])))
            names = [name for name in file.keys() if not is_unread(name)]  # noqa: SIM118
            weights = {name: file.get_tensor(name) for name in names}
            return ExportedModel(spec, weights, classifier_trained=metadata.get(CLASSIFIER) != UNTRAINED)
    except KeyError as error:
        raise AnatoBenchError(
            f"{path}: its metadata does not say {error.args[0]}: give a file that `anatobench export` wrote"
        ) from None
    except (OSError, ValueError, TypeError, SafetensorError, AnatoBenchError) as error:
        raise AnatoBenchError(f"{path}: cannot be read as exported weights: {error}") from None


def _spec(model: str, size: str, task: Task) -> ModelSpec:
    return ModelSpec(model, size, task, task.geometry(size).crop_size, diagnosis_heads(segmentation=False))
