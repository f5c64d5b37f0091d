"""The loop, with an engine that needs no framework."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loop_sessions import CONFIG, RECIPE, TOTAL, Session, records
from numpy_engine import POISON_HU, Measured
from tiny_store import write_store

from anatobench.errors import AnatoBenchError, UsageError
from anatobench.store.batch import Batch
from anatobench.store.batches import training_batches
from anatobench.store.reader import Store
from anatobench.tasks import Size
from anatobench.training.checkpoints import read_best, read_newest
from anatobench.training.schedule import learning_rate


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"))


def test_a_run_logs_every_step_and_evaluation(tmp_path: Path, store: Store) -> None:
    progress = Session(tmp_path, store).train()
    steps, evaluations = records(tmp_path, "step"), records(tmp_path, "evaluation")
    assert (progress.step, progress.epoch, progress.evaluated_step) == (TOTAL, 3, TOTAL)
    assert [record["step"] for record in steps] == list(range(1, TOTAL + 1))
    assert [record["epoch"] for record in steps] == [1] * 4 + [2] * 4 + [3] * 4
    assert [(record["step"], record["epoch"], record["split"]) for record in evaluations] == [
        (4, 1, "validation"),
        (8, 2, "validation"),
        (12, 3, "validation"),
    ]
    assert [record["learning_rate"] for record in steps] == [learning_rate(RECIPE, i, TOTAL) for i in range(TOTAL)]
    with training_batches(store, RECIPE.seed, RECIPE.batch_size) as batches:
        assert [record["batch_digest"] for record in steps] == [next(batches).digest() for _ in range(TOTAL)]
    assert set(evaluations[0]["auc"]) == {"calcification", "effusion"}
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert set(steps[0]) == {"kind", "step", "epoch", "loss", "classification", "any_injury", "segmentation",
                             "gradient_norm", "learning_rate", "batch_digest", "seconds"}  # fmt: skip


def test_the_device_gets_the_next_step_before_the_last_is_looked_at(tmp_path: Path, store: Store) -> None:
    session = Session(tmp_path, store, replace(CONFIG, max_steps=3, checkpoint_every=100))
    session.train()
    assert session.engine.events == [1, 2, -1, 3, -2, -3]


def test_a_loss_that_is_not_finite_names_the_case_and_saves_nothing(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    index = store.split("train")[3]
    poison = store.cases[index].case_id
    volume, _ = store.read_crop(index, (0, 0, 0), store.geometry.padded_size)
    config = replace(CONFIG, recipe=replace(RECIPE, epochs=1), checkpoint_every=1)
    run, real = tmp_path / "run", Store.read_crop

    def poisoned(self: Store, i: int, start: Size, size: Size, out: Any = None) -> tuple[np.ndarray, np.ndarray]:
        volume, organs = real(self, i, start, size, out)
        if i == index:
            volume[0, 0, 0] = POISON_HU
        return volume, organs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "read_crop", poisoned)
        with pytest.raises(AnatoBenchError, match=rf"step \d: the loss of case {poison} is not finite.*fp32") as caught:
            Session(run, store, config).train()
    step = int(str(caught.value).split()[1].rstrip(":"))
    newest = read_newest(run)
    assert (newest.progress.step if newest else 0) == step - 1
    assert [record["step"] for record in records(run, "step")] == list(range(1, step))
    assert volume.dtype == np.int16


def test_a_gradient_that_is_not_finite_stops_the_run_although_the_loss_is_fine(tmp_path: Path, store: Store) -> None:
    session = Session(tmp_path, store)
    real = session.engine.train_step

    def overflow(batch: Batch, rate: float, step: int, *rest: Any) -> Measured:
        pending = real(batch, rate, step, *rest)
        return replace(pending, metrics=replace(pending.metrics, gradient_norm=float("inf"))) if step == 1 else pending

    setattr(session.engine, "train_step", overflow)  # noqa: B010
    with pytest.raises(AnatoBenchError, match=r"step 2: the gradient is not finite; its cases are train_\d, train_\d"):
        session.train()


def test_a_store_without_validation_cases_trains_all_the_same(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", sizes={"train": 8})
    progress = Session(tmp_path / "run", store).train()
    assert (progress.step, progress.best) == (TOTAL, None)
    assert records(tmp_path / "run", "evaluation") == []
    assert read_best(tmp_path / "run").progress.step == TOTAL


def test_evaluations_and_the_end_of_a_shortened_run(tmp_path: Path, store: Store) -> None:
    Session(tmp_path, store, replace(CONFIG, max_steps=10, evaluate_every=2)).train()
    assert [record["step"] for record in records(tmp_path, "evaluation")] == [8, 10]
    assert records(tmp_path, "step")[-1]["learning_rate"] == learning_rate(RECIPE, 9, 10)


def test_an_impossible_warmup_is_refused_before_any_work(tmp_path: Path, store: Store) -> None:
    session = Session(tmp_path, store, replace(CONFIG, recipe=replace(RECIPE, warmup_steps=12)))
    with pytest.raises(UsageError, match="warmup_steps=12"):
        session.train()
    assert session.engine.events == []


class ResourceExhaustedError(RuntimeError):
    """As either framework would raise it."""


def test_a_device_that_is_full_is_one_line_with_the_batch(store: Store, tmp_path: Path) -> None:
    session = Session(tmp_path, store)

    def full(step: int) -> None:
        if step == 4:
            raise ResourceExhaustedError("RESOURCE_EXHAUSTED: Out of memory\nwhile trying to allocate 4 GiB")

    with pytest.raises(AnatoBenchError, match=r"batch_size=2 in fp32: .*the checkpoint of step 4 is intact") as caught:
        session.train(full)
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="something else"):
        session.train(lambda step: (_ for _ in ()).throw(RuntimeError("something else")))


def test_a_cpu_is_refused_where_the_job_has_gpus(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "2")
    with pytest.raises(AnatoBenchError, match=r"SLURM_GPUS_ON_NODE=2.*--device cpu"):
        Session(tmp_path, store).train()
    assert not (tmp_path / "checkpoints").exists()
    monkeypatch.setenv("ANATOBENCH_DEVICE", "cpu")
    assert Session(tmp_path, store).train().step == TOTAL


def test_an_epoch_that_is_cut_short_has_one_number(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """In steps, in the evaluation that ends the run, in its checkpoint and in the sentence for a person."""
    progress = Session(tmp_path, store, replace(CONFIG, max_steps=6)).train()
    assert [record["epoch"] for record in records(tmp_path, "step")] == [1] * 4 + [2] * 2
    assert [(record["step"], record["epoch"]) for record in records(tmp_path, "evaluation")] == [(4, 1), (6, 2)]
    assert progress.epoch == 2
    said = capsys.readouterr().err
    assert "step 6/6, epoch 2, loss" in said
    assert "epoch 2: validation AUC" in said
