"""Few training cases: nested, with a finding of every label group as early as there can be, other splits whole."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from tiny_store import write_store

from anatobench.errors import UsageError
from anatobench.session import Introduction, configure, train_run
from anatobench.store.reader import Store
from anatobench.store.training_cases import drawn_order, with_training_cases
from anatobench.tasks import RATIC


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("few") / "store", RATIC)


def ids(store: Store, split: str) -> set[str]:
    return {store.cases[index].case_id for index in store.split(split)}


def test_fewer_cases_are_among_more_and_a_draw_is_repeated(store: Store) -> None:
    count = len(store.split("train"))
    for draw in range(5):
        nested = [ids(with_training_cases(store, size, draw), "train") for size in range(1, count + 1)]
        assert [len(found) for found in nested] == list(range(1, count + 1))
        assert all(fewer < more for fewer, more in pairwise(nested))
        assert nested[-1] == ids(store, "train")
    first = [drawn_order(store, draw)[:3] for draw in range(10)]
    assert first == [drawn_order(store, draw)[:3] for draw in range(10)]
    assert len({tuple(sorted(order)) for order in first}) > 1


def test_as_many_cases_as_groups_have_a_finding_of_each(store: Store) -> None:
    train = store.split("train")
    findable = {group for index in train for group, grade in enumerate(store.cases[index].targets) if grade > 0}
    assert len(findable) > 1
    for draw in range(20):
        few = with_training_cases(store, len(findable), draw)
        found = {g for index in few.split("train") for g, grade in enumerate(few.cases[index].targets) if grade > 0}
        assert found == findable


def test_the_other_splits_stay_and_too_many_are_refused(store: Store) -> None:
    few = with_training_cases(store, 1, 0)
    for split in ("validation", "test"):
        assert ids(few, split) == ids(store, split)
    assert with_training_cases(store, 0, 3) is store
    with pytest.raises(UsageError, match="training cases, not cases=1000"):
        with_training_cases(store, 1000, 0)


def test_a_run_is_trained_with_these_cases_alone(store: Store, tmp_path: Path) -> None:
    told: list[Introduction] = []
    settings = ["cases=2", "draw=1", "batch_size=2", "segmentation_weight=0"]
    config = configure(store.root, "r3d_18", "torch", settings, max_steps=2)
    outcome = train_run(tmp_path / "run", config, introduce=told.append)
    assert told[0].training_cases == 2
    assert (outcome.steps, outcome.epochs) == (2, 2)
