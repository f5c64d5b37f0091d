"""A run without better validations ends, and a resumed one where the whole one does."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import loop_sessions
import pytest
from kept_checkpoints import newest_checkpoint
from loop_sessions import CONFIG, RECIPE, Killed, Session, kill_at, outcome
from numpy_engine import Measured, NumpyEngine
from tiny_store import write_store

from anatobench.store.batch import Batch
from anatobench.store.reader import Store
from anatobench.training.judgement import Judgement
from anatobench.training.run_folder import RunConfig

SCORES = (0.5, 0.7, 0.6, None, 0.8, 0.8, 0.75, 0.9)
"""Of the epochs of `scripted`: undefined once, equal to the best once."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Have validation say `SCORES`; a run long enough for all of them."""

    def judged(engine: NumpyEngine, *rest: object) -> Callable[[Callable[[], None]], Judgement]:
        return lambda check: Judgement("auc_macro", "AUC", SCORES[taken[0] // 4 - 1], {})

    def counted(self: NumpyEngine, batch: Batch, rate: float, step: int, *rest: Any) -> Measured:
        taken[0] = step + 1
        return plain(self, batch, rate, step, *rest)

    taken = [0]
    plain = NumpyEngine.train_step
    monkeypatch.setattr(NumpyEngine, "train_step", counted)
    monkeypatch.setattr(loop_sessions, "validator", judged)
    return replace(CONFIG, recipe=replace(RECIPE, epochs=len(SCORES)))


@pytest.mark.parametrize(("patience", "ends", "best"), [(1, 12, 8), (2, 16, 8), (3, 32, 32), (None, 32, 32)])
def test_patience_ends_a_run_and_keeps_its_best(
    tmp_path: Path, store: Store, scripted: RunConfig, patience: int | None, ends: int, best: int
) -> None:
    reached = Session(tmp_path, store, replace(scripted, patience=patience)).train()
    assert reached.step == newest_checkpoint(tmp_path).progress.step == ends
    assert reached.best is not None
    assert reached.best.step == json.loads((tmp_path / "checkpoints" / "best.json").read_text())["step"] == best


@pytest.mark.parametrize("moment", [4, 9, 13, 15])
def test_a_killed_run_has_the_patience_that_was_left(
    tmp_path: Path, store: Store, scripted: RunConfig, moment: int
) -> None:
    config = replace(scripted, patience=2)
    Session(tmp_path / "whole", store, config).train()
    with pytest.raises(Killed):
        Session(tmp_path / "killed", store, config).train(kill_at(moment))
    Session(tmp_path / "killed", store, config).train()
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    Session(tmp_path / "killed", store, config).train()  # one that ended stays as it is
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
