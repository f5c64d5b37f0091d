"""The word about intervals that rest on too few cases."""

from typing import Any

from anatobench.evaluation.few_cases import few_cases_note

ENOUGH = {"a": 10, "b": 10, "c": 10}


def figures(**changed: Any) -> dict[str, Any]:
    ends = {"macro": [0.4, 0.6], "a": [0.4, 0.6], "b": [0.4, 0.6], "c": None}
    return {"ci95": {"auc": ends}, "positives": ENOUGH, "negatives": ENOUGH, **changed}


def test_few_positives_or_negatives_and_flat_intervals_are_named() -> None:
    assert few_cases_note(figures()) == ""
    few = few_cases_note(figures(positives={**ENOUGH, "a": 9, "c": 0}), figures(negatives={**ENOUGH, "b": 9}))
    assert few.endswith("fewer than 10 patients with a positive or a negative: a, b."), "c has no interval"
    flat = few_cases_note(figures(ci95={"auc": {"macro": [0.4, 0.6], "a": [1.0, 1.0], "b": None, "c": None}}))
    assert flat == "These intervals look more certain than they are: an interval of width zero: a."


def test_many_scans_of_few_patients_are_few() -> None:
    """Intervals are drawn over patients."""
    of_one = figures(positive_patients={**ENOUGH, "b": 1}, negative_patients=ENOUGH)
    assert few_cases_note(of_one).endswith(": b.")


def test_an_old_file_without_counts_is_not_guessed_at() -> None:
    old = figures()
    del old["positives"], old["negatives"]
    assert few_cases_note(old) == ""
