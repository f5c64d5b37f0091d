"""What `anatobench evaluate` writes, for tests that evaluate nothing."""

from __future__ import annotations

from typing import Any

from anatobench.evaluation.metrics import RATES
from anatobench.tasks import Task


def figures_of(task: Task, macro: float | None = 0.7, step: int = 3) -> dict[str, Any]:
    """Return the fields that commands read back; every class has the same AUC."""
    by_class = dict.fromkeys(("macro", *task.class_names), macro)
    interval = None if macro is None else [macro - 0.1, macro + 0.1]
    return {
        **dict.fromkeys(("auc", *RATES), by_class),
        "ci95": dict.fromkeys(("auc", *RATES), dict.fromkeys(by_class, interval)),
        "thresholds": dict.fromkeys(task.class_names, 0.4),
        "threshold_rule": "youden",
        "threshold_split": "test",
        "undefined": {},
        "aggregation": "none",
        "organ_dice": {"macro": 0.5, "liver": None},
        "step": step,
    }
