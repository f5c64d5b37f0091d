"""What validation watches while a run trains, by name: each judge gives the score that chooses the best checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from anatobench.engine import Engine
from anatobench.errors import UsageError
from anatobench.evaluation.metrics import auc_per_class, undefined_classes
from anatobench.evaluation.organ_dice import dice_of_split
from anatobench.evaluation.predictions import classify, default_aggregation
from anatobench.evaluation.run_evaluation import predict_split
from anatobench.objectives.heads import PARTIAL_MASKS
from anatobench.objectives.registry import plan_of
from anatobench.store.reader import Store
from anatobench.training.judgement import Judgement

Judge = Callable[[Engine, Store, int, Callable[[], None], bool], Judgement]
"""Engine, store, batch size, what is called between batches, and whether no bar is shown."""
NAMED = 3
"""Findings of a kind that a message names."""


def macro_auc(
    engine: Engine, store: Store, batch_size: int, check: Callable[[], None], silent: bool = False
) -> Judgement:
    """Return the mean AUC over the task's classes, and the AUC of each; None where undefined."""
    predictions = predict_split(engine, store, "validation", batch_size, check, silent)
    judged = classify(predictions, default_aggregation(store.task))
    macro, per_class = auc_per_class(judged)
    why = "" if macro is not None else _why_undefined(undefined_classes(judged))
    return Judgement("auc_macro", "AUC", macro, {"auc": per_class}, why)


def _why_undefined(reasons: Mapping[str, str]) -> str:
    """Say which findings lack which labels, the first few of each by name."""
    told = []
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, its in reasons.items() if its == reason]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        told.append(f"{reason} of {', '.join(names[:NAMED])}{more}")
    return f"in the validation split no finding has both values ({'; '.join(told)})"


def mask_dice(
    engine: Engine, store: Store, batch_size: int, check: Callable[[], None], silent: bool = False
) -> Judgement:
    """Return the mean over classes of the mean Dice over the cases for which a class is annotated, and that of each
    class; None where undefined."""
    found = dice_of_split(engine, store, "validation", batch_size, PARTIAL_MASKS, check, silent).to_json()
    return Judgement("mask_dice", "organ Dice", found.pop("macro"), {"dice": found})


JUDGES: dict[str, Judge] = {
    "auc_macro": macro_auc,
    "mask_dice": mask_dice,
}


def check_judge(name: str) -> None:
    """Raise `UsageError` if there is no judge of that name."""
    if name not in JUDGES:
        raise UsageError(
            f"judge {name!r}: add a line to `JUDGES` of anatobench/evaluation/judges.py, or choose of "
            f"{', '.join(JUDGES)}"
        )


def validator(
    engine: Engine, store: Store, batch_size: int, silent: bool = False
) -> Callable[[Callable[[], None]], Judgement] | None:
    """Return what the training loop calls to judge the model; None if the store has no validation cases. A terminal
    shows a bar, unless `silent`."""
    name = plan_of(engine.recipe, store.task).judge
    check_judge(name)
    if not store.split("validation"):
        return None
    return lambda check: JUDGES[name](engine, store, batch_size, check, silent)
