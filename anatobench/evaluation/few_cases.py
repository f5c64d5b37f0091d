"""A word about figures that rest on too little: a percentile interval knows no patient that was not drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FEW = 10
"""Patients with a positive or a negative; below it a note stands beside the interval."""


def few_cases_note(*evaluations: Mapping[str, Any]) -> str:
    """Name the classes whose AUC has an interval of width zero, or of whose positives or negatives fewer than `FEW`
    patients have one, in any of the evaluations (evaluation_file.py); empty where there are none. What no file says is
    passed by; an older one counts rows alone."""
    few, flat = dict[str, None](), dict[str, None]()  # in the order of the classes, each once
    for figures in evaluations:
        counts = [
            figures.get(f"{label}_patients") or figures.get(f"{label}s") or {} for label in ("positive", "negative")
        ]
        for name, interval in figures["ci95"]["auc"].items():
            if interval is None:
                continue
            if any(count.get(name, FEW) < FEW for count in counts):
                few[name] = None
            if interval[0] == interval[1]:
                flat[name] = None
    said = []
    if few:
        said.append(f"fewer than {FEW} patients with a positive or a negative: {', '.join(few)}")
    if flat:
        said.append(f"an interval of width zero: {', '.join(flat)}")
    return f"These intervals look more certain than they are: {'; '.join(said)}." if said else ""
