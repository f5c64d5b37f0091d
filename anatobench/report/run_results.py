"""A finished run, read back from its folder for tables and plots."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from anatobench.errors import AnatoBenchError
from anatobench.predictions import Predictions, read_predictions
from anatobench.runs import RunConfig

SPLIT = "test"


@dataclass(frozen=True)
class Examples:
    """A few slices of one case, with the organs as prepared and as the auxiliary head sees them."""

    case_id: str
    volume: np.ndarray
    """int16 [slices, H, W], HU."""
    organs: np.ndarray
    """uint8 [slices, H, W]."""
    predicted_organs: np.ndarray | None
    """uint8 [slices, H, W]; None for a run without the segmentation branch."""


@dataclass(frozen=True)
class RunResults:
    """Everything a report shows of one run."""

    path: Path
    config: RunConfig
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    test: dict[str, Any] | None
    """What `evaluate` found on the test split, None before it ran."""
    predictions: Predictions | None
    """Of the test split; None before `evaluate` ran."""
    examples: list[Examples]

    @property
    def label(self) -> str:
        """How tables and legends name the run."""
        framework = {"torch": "PyTorch", "jax": "JAX"}[self.config.framework]
        pretrained = ", pretrained" if self.config.pretrained else ""
        return f"{framework}{pretrained}, {'with' if self.config.segmentation else 'without'} segmentation"

    @property
    def median_step_seconds(self) -> float | None:
        """Median time of a step, the first ones (compilation, warm-up) left out."""
        seconds = [step["seconds"] for step in self.steps[3:]]
        return float(np.median(seconds)) if seconds else None

    @property
    def batch_digests(self) -> list[str]:
        return [step["batch_digest"] for step in self.steps]


def read_run(path: Path) -> RunResults:
    """Read a run's folder; `AnatoBenchError` if it is none. A run that was not evaluated has no test results."""
    config = RunConfig.read(path)
    steps: list[dict[str, Any]] = []
    evaluations: list[dict[str, Any]] = []
    metrics = path / "metrics.jsonl"
    if not metrics.is_file():
        raise AnatoBenchError(f"{path}: no metrics.jsonl, so nothing was trained here; run `anatobench train` first")
    for number, line in enumerate(metrics.read_text().splitlines(), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise AnatoBenchError(f"{metrics}, line {number}: not JSON ({error}); was the file edited?") from None
        (steps if record["kind"] == "step" else evaluations).append(record)
    evaluation = path / f"evaluation_{SPLIT}.json"
    predictions = path / f"predictions_{SPLIT}.csv"
    return RunResults(
        path=path,
        config=config,
        steps=steps,
        evaluations=evaluations,
        test=json.loads(evaluation.read_text()) if evaluation.is_file() else None,
        predictions=read_predictions(predictions, config.task) if predictions.is_file() else None,
        examples=_read_examples(path / f"examples_{SPLIT}.safetensors"),
    )


def _read_examples(path: Path) -> list[Examples]:
    if not path.is_file():
        return []
    arrays = load_file(path)
    case_ids = sorted({name.rsplit("/", 1)[0] for name in arrays})
    return [
        Examples(
            case_id,
            arrays[f"{case_id}/volume"],
            arrays[f"{case_id}/organs"],
            arrays.get(f"{case_id}/predicted_organs"),
        )
        for case_id in case_ids
    ]
