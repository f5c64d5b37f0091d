"""Tells synthetic raw data from patients'."""

from __future__ import annotations

from pathlib import Path

MARK = "phantom.json"
"""Stands in the folder of every synthetic cohort and names what it was made with."""


def is_synthetic(raw_root: Path) -> bool:
    """Return whether `anatobench phantom` wrote this raw data."""
    return (raw_root / MARK).is_file()
