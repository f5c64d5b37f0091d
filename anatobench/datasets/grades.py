"""The grades of an own cohort's findings, and what each grade weighs in training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from anatobench.datasets.case import Case
from anatobench.errors import UsageError
from anatobench.tasks import MISSING_TARGET, LabelGroup

EXAMPLE = "liver=healthy,low,high or liver=healthy:1,low:2,high:4"


def parse_grades(text: str) -> LabelGroup:
    """`FINDING=GRADE,GRADE,...`, the healthy or absent grade first, each with `:WEIGHT` behind it or none."""
    name, equals, rest = text.rpartition("=")
    name, parts = name.strip(), [part.strip() for part in rest.split(",")]
    if not equals or not name or not all(parts):
        raise UsageError(f"grades {text!r}: write the finding's name and its grades, as {EXAMPLE}")
    weighted = [":" in part for part in parts]
    if not any(weighted):
        return LabelGroup(name, tuple(parts), (1.0,) * len(parts))
    if not all(weighted):
        raise UsageError(f"grades {text!r}: {parts[weighted.index(False)]!r} has no weight: give each one, or none")
    grades, numbers = zip(*((grade.strip(), number) for grade, _, number in (p.rpartition(":") for p in parts)),
                          strict=True)  # fmt: skip
    if not all(grades):
        raise UsageError(f"grades {text!r}: a grade has no name: write {EXAMPLE}")
    return LabelGroup(name, grades, tuple(_weight(text, number) for number in numbers))


def _weight(text: str, number: str) -> float:
    try:
        return float(number)  # the group says whether it may be that
    except ValueError:
        raise UsageError(f"grades {text!r}: {number!r} is no weight: write {EXAMPLE}") from None


def grade_of(group: LabelGroup, text: str) -> int | None:
    """Return the grade that a table's field names, by name or by number from 0; None if it names none.

    Where a grade's own name is a number (BI-RADS 1 to 5), names alone count.
    """
    if text in group.grades:
        return group.grades.index(text)
    if any(grade.isdecimal() for grade in group.grades):
        return None
    for grade in range(len(group.grades)):
        if text in (str(grade), f"{grade}.0"):
            return grade
    return None


def allowed_grades(group: LabelGroup) -> str:
    """Say what a field may hold."""
    named = ", ".join(group.grades)
    if any(grade.isdecimal() for grade in group.grades):
        return named
    return f"{named}, or {', '.join(map(str, range(len(group.grades))))}"


def balanced(groups: Sequence[LabelGroup], cases: Sequence[Case]) -> tuple[tuple[LabelGroup, ...], list[str]]:
    """Return the groups with weights that give each grade the same part in the loss, and a sentence on each.

    Over the training cases whose grade is known: weight = cases / (grades x cases of that grade), so that the mean
    weight of a training case is 1 (scikit-learn's "balanced"). A grade that no training case has keeps the weight 1.
    """
    found, notes = [], []
    for position, group in enumerate(groups):
        counts = Counter(case.targets[position] for case in cases if case.split == "train")
        del counts[MISSING_TARGET]
        present = len(counts)
        weights = tuple(
            counts.total() / (present * counts[grade]) if counts[grade] else 1.0 for grade in range(len(group.grades))
        )
        found.append(replace(group, sample_weights=weights))
        said = ", ".join(
            f"{grade} {weight:.3g} ({counts[index]} in training)"
            for index, (grade, weight) in enumerate(zip(group.grades, weights, strict=True))
        )
        notes.append(f"balanced weights of {group.name}: {said}")
    return tuple(found), notes


def parse_case_weight(text: str) -> float | None:
    """Return the weight in a table's field, 1 if it is empty; None if it is no number above 0 that float32 holds."""
    if not text:
        return 1.0
    try:
        weight = float(text)
    except ValueError:
        return None
    return weight if 1e-6 <= weight <= 1e6 and "_" not in text and math.isfinite(weight) else None
