"""What an evaluation on the validation split found, which chooses the best checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anatobench.training.metrics_records import finite_or_none


@dataclass(frozen=True)
class Judgement:
    """What an evaluation on the validation split found."""

    name: str
    """Of the score that chooses the best checkpoint; higher is better."""
    in_words: str
    score: float | None
    """None where it is undefined."""
    details: Mapping[str, Any]
    """What is logged besides, plain JSON types."""
    why_undefined: str = ""
    """What the split lacks, where there is no score for that."""

    def __str__(self) -> str:
        shown = "undefined" if self.score is None else f"{self.score:.4f}"
        shown += f": {self.why_undefined}" if self.why_undefined else ""
        if finite_or_none(self.score) != self.score:
            shown += f": no checkpoint is the best by it: look at the judge {self.name}"
        return f"validation {self.in_words} {shown}"
