"""The AUC of runs on the same test patients, and in replicates in which those patients are drawn anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.errors import AnatoBenchError
from anatobench.evaluation.metrics import BOOTSTRAP_REPLICATES, auc_values, mean_of_known, patient_draws, resampled_auc
from anatobench.evaluation.predictions import classify, default_aggregation, read_predictions
from anatobench.experiments.grid import Cell
from anatobench.experiments.statistics import interval_of, seeds_and_patients
from anatobench.system.progress import progress_bar
from anatobench.tasks import Task


@dataclass(frozen=True)
class Samples:
    """Of one run, or of a difference or mean of runs."""

    names: tuple[str, ...]
    """The classes whose AUC is defined."""
    values: np.ndarray
    """float64 [classes]"""
    resampled: np.ndarray
    """float64 [replicates, classes], the same patients in a replicate of every run; NaN where a class is undefined."""

    def mean(self, names: Sequence[str] | None = None) -> float:
        """Return the mean over these classes, all by default."""
        return float(self.values[self._columns(names)].mean())

    def means(self, names: Sequence[str] | None = None) -> np.ndarray:
        """Return the same of every replicate, float64 [replicates], over the classes that are defined there; NaN where
        none is."""
        return mean_of_known(self.resampled[:, self._columns(names)])

    def _columns(self, names: Sequence[str] | None) -> list[int]:
        return [place for place, name in enumerate(self.names) if names is None or name in names]


def read_samples(runs: Mapping[Cell, Path], task: Task) -> dict[Cell, Samples]:
    """Read the test predictions of these runs; `AnatoBenchError` if they judge other patients."""
    found: dict[Cell, Samples] = {}
    cases: tuple[str, ...] | None = None
    with progress_bar(len(runs), "bootstrap", "run") as bar:
        for cell, run in runs.items():
            predictions = read_predictions(run / "predictions_test.csv", task)
            if cases is not None and cases != predictions.case_ids:
                raise AnatoBenchError(f"{run}: judges other test cases than the runs before it: evaluate it again")
            cases = predictions.case_ids
            judged = classify(predictions, default_aggregation(task))
            values = auc_values(judged)
            defined = np.flatnonzero(np.isfinite(values))
            draws = patient_draws(judged.patient_ids, BOOTSTRAP_REPLICATES, seed=0)
            names = tuple(task.class_names[place] for place in defined)
            found[cell] = Samples(names, values[defined], resampled_auc(judged, *draws)[:, defined])
            bar.update()
    return found


def difference(minuend: Mapping[int, Samples], subtrahend: Mapping[int, Samples]) -> dict[int, Samples]:
    """Return the first minus the second, by seed, for every seed that both have."""
    return {
        seed: Samples(one.names, one.values - other.values, one.resampled - other.resampled)
        for seed, one in minuend.items()
        if (other := subtrahend.get(seed)) is not None
    }


def mean_sample(samples: Sequence[Samples]) -> Samples:
    """Return the mean of runs on the same patients."""
    return Samples(
        samples[0].names,
        np.mean([one.values for one in samples], axis=0),
        np.mean([one.resampled for one in samples], axis=0),
    )


def mean_row(by_seed: Mapping[int, Samples], names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the mean over seeds and classes with both of its intervals, as a record has it."""
    values = [one.mean(names) for one in by_seed.values()]
    replicates = np.array([one.means(names) for one in by_seed.values()])
    defined = replicates[:, np.isfinite(replicates).all(axis=0)]
    both = seeds_and_patients(defined) if min(defined.shape) > 1 else None
    return {**asdict(interval_of(values)), "seeds_patients": None if both is None else list(both)}
