"""A part of a store's training cases, for runs that ask what few labelled cases are enough for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from anatobench.errors import UsageError
from anatobench.store.reader import Store


def with_training_cases(store: Store, count: int, draw: int) -> Store:
    """Return the store with `count` of its training cases, 0 for all; the other splits stay whole.

    Of one `draw` fewer cases are among more of them. `UsageError` if there are not so many.
    """
    if count == 0:
        return store
    train = store.split("train")
    if count > len(train):
        raise UsageError(f"{store.root}: has {len(train)} training cases, not cases={count}: ask for fewer")
    left_out = set(train) - set(drawn_order(store, draw)[:count])
    kept = tuple(case for index, case in enumerate(store.cases) if index not in left_out)
    return replace(store, cases=kept)


def drawn_order(store: Store, draw: int) -> list[int]:
    """Return the positions of all training cases in the order in which they are taken.

    The order is random, but for its beginning: as long as a label group that some case has a finding of is without
    one, the next case is the first, in the random order, that has a finding of such a group. So as many cases as there
    are groups hold a positive case of each, and healthy cases come as they come.
    """
    train = store.split("train")
    waiting = [train[place] for place in np.random.default_rng(draw).permutation(len(train))]
    findings = {
        index: {group for group, grade in enumerate(store.cases[index].targets) if grade > 0} for index in waiting
    }
    missing = set().union(*findings.values())
    order = []
    while missing:
        index = next(index for index in waiting if findings[index] & missing)
        waiting.remove(index)
        order.append(index)
        missing -= findings[index]
    return order + waiting
