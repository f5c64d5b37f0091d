"""A finished run, read back from its folder for tables and plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from anatobench.errors import AnatoBenchError
from anatobench.evaluation.evaluation_file import read_evaluation
from anatobench.evaluation.organ_dice import OrganDice, read_organ_dice
from anatobench.evaluation.predictions import Predictions, default_aggregation, read_predictions
from anatobench.experiments.results import FRAMEWORK_NAMES
from anatobench.system.array_files import arrays_digest
from anatobench.training.initial_weights import INITIAL_WEIGHTS_FILE
from anatobench.training.metrics_records import read_records
from anatobench.training.run_folder import RunConfig, evaluation_file
from anatobench.training.sessions import read_sessions

SPLIT = "test"
SHOWN = ("auc", "ci95", "sensitivity", "specificity")
"""What a report cannot do without of an evaluation."""


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
    """What `evaluate` found on the test split; None before it ran, and where the classifier was not trained."""
    predictions: Predictions | None
    """Of the test split; None where `test` is."""
    examples: list[Examples]
    worst: list[Examples]
    """The scans that evaluation found worst; see worst_cases.py."""
    sharpness: list[dict[str, Any]]
    """Measurements with `step` and `largest_eigenvalue`; empty where none was asked for."""
    organ_dice: OrganDice | None
    """Of the test split; None before `evaluate` ran, and for a model without the auxiliary head."""
    beginning: str = ""
    """A digest of the weights it began with; "" where they were not kept."""
    sessions: tuple[dict[str, Any], ...] = ()
    """A record per start of the run; see training/sessions.py."""
    distinction: str = ""
    """What sets the run apart from others of the same label in one report."""

    @property
    def label(self) -> str:
        """How tables and legends name the run."""
        framework = FRAMEWORK_NAMES[self.config.framework]
        pretrained = ", pretrained" if self.config.pretrained else ""
        return f"{framework}{pretrained}, {self.config.plan.label}{self.distinction}"

    @property
    def macro_auc(self) -> float | None:
        """Of the test split; None before it was evaluated, and where no class has one."""
        return None if self.test is None else self.test["auc"]["macro"]

    @property
    def aggregation(self) -> str:
        """How the test split is judged; see evaluation/predictions.py."""
        return (self.test or {}).get("aggregation") or default_aggregation(self.config.task)

    @property
    def synthetic(self) -> bool:
        """Whether it was trained on a synthetic cohort, as far as the run says."""
        return any(session.get("synthetic") for session in self.sessions)

    @property
    def step_seconds(self) -> list[float]:
        """Time of every step, the first ones (compilation, warm-up) left out."""
        return [step["seconds"] for step in self.steps[3:]]

    @property
    def median_step_seconds(self) -> float | None:
        """Median of `step_seconds`."""
        return float(np.median(self.step_seconds)) if self.step_seconds else None


def read_runs(paths: Sequence[Path]) -> list[RunResults]:
    """Return runs that are shown together. What differs among them and no label says (model, seed) is added to the
    labels, and where that is not enough the folder's name."""
    runs = [read_run(path) for path in paths]
    distinctions: tuple[Callable[[RunResults], str], ...] = (
        lambda run: f", {run.config.model}",
        lambda run: f", seed {run.config.recipe.seed}",
        lambda run: f", {_readable(run.path.name)}",
        lambda run: f", {_readable(str(run.path))}",
    )
    for describe in distinctions:
        labels = Counter(run.label for run in runs)
        if max(labels.values()) > 1 and len({describe(run) for run in runs}) > 1:
            runs = [replace(run, distinction=run.distinction + describe(run)) for run in runs]
    if len({run.label for run in runs}) < len(runs):
        raise AnatoBenchError(f"{paths[0]}: one of the runs was given twice: name each once")
    return runs


def _readable(name: str) -> str:
    """Escape what nobody sees: line breaks, marks of direction, bytes that are no text."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode() for letter in name
    )


def read_run(path: Path) -> RunResults:
    """Read a run's folder; `AnatoBenchError` if it is none. A run that was not evaluated has no test results."""
    config = RunConfig.read(path)
    records = read_records(path)
    classifies = config.trains_classifier
    evaluated = classifies and (path / evaluation_file(SPLIT)).is_file()
    predictions = path / f"predictions_{SPLIT}.csv"
    organ_dice = path / f"organ_dice_{SPLIT}.csv"
    return RunResults(
        path=path,
        config=config,
        steps=[record for record in records if record["kind"] == "step"],
        evaluations=[record for record in records if record["kind"] == "evaluation"],
        sharpness=[record for record in records if record["kind"] == "sharpness"],
        test=dict(read_evaluation(path, SPLIT, config.task, SHOWN)) if evaluated else None,
        predictions=read_predictions(predictions, config.task) if classifies and predictions.is_file() else None,
        organ_dice=read_organ_dice(organ_dice, config.task) if organ_dice.is_file() else None,
        examples=_read_examples(path / f"examples_{SPLIT}.safetensors"),
        worst=_read_examples(path / f"worst_cases_{SPLIT}.safetensors"),
        beginning=_digest_of_weights(path / INITIAL_WEIGHTS_FILE),
        sessions=read_sessions(path),
    )


def _digest_of_weights(path: Path) -> str:
    """Digest the arrays alone: the header of a file says where they came from."""
    if not path.is_file():
        return ""
    try:
        weights = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise AnatoBenchError(f"{path}: cannot be read ({error}): copy the run again") from None
    return arrays_digest(weights)


def _read_examples(path: Path) -> list[Examples]:
    if not path.is_file():
        return []
    try:
        arrays = load_file(path)
        return [
            Examples(case, arrays[f"{case}/volume"], arrays[f"{case}/organs"], arrays.get(f"{case}/predicted_organs"))
            for case in sorted({name.rsplit("/", 1)[0] for name in arrays})
        ]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise AnatoBenchError(f"{path}: damaged ({error}): run `anatobench evaluate` again") from None
