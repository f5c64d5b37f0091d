"""What validation watches while a run trains, by name: each judge gives the score that chooses the best checkpoint."""

from __future__ import annotations

from collections.abc import Callable

from anatobench.engine import Engine
from anatobench.errors import UsageError
from anatobench.evaluation.metrics import auc_per_class
from anatobench.evaluation.predictions import classify, default_aggregation
from anatobench.evaluation.run_evaluation import predict_split
from anatobench.objectives.registry import plan_of
from anatobench.store.reader import Store
from anatobench.training.loop import Judgement

Judge = Callable[[Engine, Store, int, Callable[[], None], bool], Judgement]
"""Engine, store, batch size, what is called between batches, and whether no bar is shown."""


def macro_auc(
    engine: Engine, store: Store, batch_size: int, check: Callable[[], None], silent: bool = False
) -> Judgement:
    """The mean AUC over the task's classes, and the AUC of each; None where undefined."""
    predictions = predict_split(engine, store, "validation", batch_size, check, silent)
    macro, per_class = auc_per_class(classify(predictions, default_aggregation(store.task)))
    return Judgement("auc_macro", "AUC", macro, {"auc": per_class})


JUDGES: dict[str, Judge] = {
    "auc_macro": macro_auc,
}


def validator(
    engine: Engine, store: Store, batch_size: int, silent: bool = False
) -> Callable[[Callable[[], None]], Judgement] | None:
    """What the training loop calls to judge the model; None if the store has no validation cases. A terminal shows a
    bar, unless `silent`."""
    name = plan_of(engine.recipe, store.task).judge
    if name not in JUDGES:
        raise UsageError(f"judge {name!r}: choose one of {', '.join(JUDGES)}")
    if not store.split("validation"):
        return None
    return lambda check: JUDGES[name](engine, store, batch_size, check, silent)
