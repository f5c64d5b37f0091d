"""What a checkpoint says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from anatobench.engine import Arrays

MODEL = "model"
"""The tree that every run has: what evaluation and export read."""


@dataclass(frozen=True)
class Best:
    """The evaluation that the best checkpoint stands for."""

    step: int
    name: str
    """Of the score."""
    score: float

    def to_json(self) -> dict[str, Any]:
        """`step` and the score under its name."""
        return {"step": self.step, self.name: self.score}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Best:
        """Return the inverse; raises KeyError, TypeError or ValueError on anything else."""
        ((name, score),) = [(name, value) for name, value in data.items() if name != "step"]
        return Best(int(data["step"]), str(name), float(score))


@dataclass(frozen=True)
class Progress:
    """Where a run stands, besides its arrays."""

    step: int
    """Steps completed."""
    epoch: int
    """Of the last step, from 1; 0 before the first."""
    batches: Mapping[str, Any]
    """State of the training batches' iterator, plain JSON types."""
    evaluated_step: int
    """Step of the last evaluation that is logged; 0 before the first."""
    best: Best | None
    framework: str
    versions: Mapping[str, Any]
    """Of the framework and its parts that trained up to here."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "best": None if self.best is None else self.best.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Progress:
        """Return the inverse, whatever else `data` holds; raises KeyError, TypeError, ValueError or OverflowError on
        anything else."""
        return Progress(
            step=int(data["step"]),
            epoch=int(data["epoch"]),
            batches=data["batches"],
            evaluated_step=int(data["evaluated_step"]),
            best=None if data["best"] is None else Best.from_json(data["best"]),
            framework=str(data["framework"]),
            versions=data["versions"],
        )


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on."""

    progress: Progress
    trees: Mapping[str, Arrays]
    """The engine's `state`, in canonical form."""

    @property
    def weights(self) -> Arrays:
        """The model's, in canonical form."""
        return self.trees[MODEL]
