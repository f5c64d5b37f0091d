"""The loss of partly annotated masks against formulas written out in numpy, and what must be exactly nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import torch
from tiny_store import SMALL, write_store

import jax_impl.losses
import torch_ref.losses
from anatobench.cli.main import main
from anatobench.errors import UsageError
from anatobench.evaluation.organ_dice import dice_of_classes
from anatobench.objectives.registry import plan_of
from anatobench.recipes import FRAMEWORKS, Recipe, override
from anatobench.session import configure, train_run
from anatobench.store.augmentation import Augmentation
from anatobench.store.batches import training_batches
from anatobench.store.mask_noise import MaskNoise
from anatobench.store.reader import Store
from anatobench.store.writer import CaseOrigin, PreparedCase, StoreWriter
from anatobench.tasks import IGNORED_ORGAN, RATIC, MaskClass, Task
from anatobench.training.metrics_records import read_records

RECIPE = Recipe(objective="partial_masks")
CLASSES = (
    MaskClass("liver", ("liver",)),
    MaskClass("kidneys", ("kidney_left", "kidney_right")),
    MaskClass("kidney_left", ("kidney_left",)),
    MaskClass("bowel", ("bowel",)),
)
TASK = replace(RATIC, classes=CLASSES)
SMALL_RATIC = replace(RATIC, own_geometry=SMALL)
Terms = dict[str, np.ndarray]


def torch_terms(logits: np.ndarray, organs: np.ndarray, annotated: np.ndarray) -> tuple[Terms, np.ndarray]:
    x = torch.tensor(logits, requires_grad=True)
    view: Any = SimpleNamespace(upsampled=lambda head: x)
    arrays = {"organs": torch.tensor(organs), "annotated": torch.tensor(annotated)}
    found = torch_ref.losses.CASE_TERMS["partial_masks"](TASK, RECIPE, view, arrays)
    (gradient,) = torch.autograd.grad(torch.stack(list(found.values())).sum(), x)
    return {name: value.detach().numpy() for name, value in found.items()}, gradient.numpy()


def jax_terms(logits: np.ndarray, organs: np.ndarray, annotated: np.ndarray) -> tuple[Terms, np.ndarray]:
    def total(x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        view: Any = SimpleNamespace(upsampled=lambda head: x)
        arrays = {"organs": jax.numpy.asarray(organs), "annotated": jax.numpy.asarray(annotated)}
        found = jax_impl.losses.CASE_TERMS["partial_masks"](TASK, RECIPE, view, arrays)
        return jax.numpy.stack(list(found.values())).sum(), found

    with jax.enable_x64(True):
        gradient, found = jax.grad(total, has_aux=True)(jax.numpy.asarray(logits))
        return {name: np.asarray(value) for name, value in found.items()}, np.asarray(gradient)


BOTH = pytest.mark.parametrize("terms_of", [torch_terms, jax_terms], ids=["torch", "jax"])
TermsOf = Callable[..., tuple[Terms, np.ndarray]]
EVERYTHING = np.ones((3, len(CLASSES)), np.int8)


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    organs = rng.integers(0, 5, (3, 3, 4, 5)).astype(np.uint8)  # the bowel is nowhere
    organs[0, 0] = IGNORED_ORGAN
    organs[2] = IGNORED_ORGAN
    return rng.standard_normal((3, len(CLASSES), 3, 4, 5)), organs


@pytest.mark.slow
@BOTH
def test_terms_equal_the_formulas(terms_of: TermsOf) -> None:
    logits, organs = drawn(0)
    annotated = np.array([[1, 1, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1]], np.int8)
    labels = ({1}, {3, 4}, {3}, {5})
    expected: dict[str, list[float]] = {"mask_cross_entropy": [], "mask_dice": []}
    for case in range(2):
        known = organs[case] != IGNORED_ORGAN
        entropies, dices = [], []
        for place in np.flatnonzero(annotated[case]):
            p = 1 / (1 + np.exp(-logits[case, place][known]))
            truth = np.isin(organs[case][known], list(labels[place]))
            entropies.append(-np.where(truth, np.log(p), np.log(1 - p)).mean())
            dices.append(1 - (2 * p[truth].sum() + 1) / (p.sum() + truth.sum() + 1))
        expected["mask_cross_entropy"].append(np.mean(entropies))
        expected["mask_dice"].append(np.mean(dices))
    found, _ = terms_of(logits, organs, annotated)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], [*values, 0.0], rtol=1e-12)


@BOTH
@pytest.mark.parametrize("extreme", [1e4, np.inf, np.nan])
def test_what_is_not_annotated_gives_exactly_nothing(terms_of: TermsOf, extreme: float) -> None:
    logits, organs = drawn(1)
    annotated = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], np.int8)
    without = np.broadcast_to((annotated == 0)[:, :, None, None, None], logits.shape).copy()
    without |= (organs == IGNORED_ORGAN)[:, None]
    expected, _ = terms_of(logits, organs, annotated)
    found, gradient = terms_of(np.where(without, extreme, logits), organs, annotated)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        assert (values[1:] == 0).all()
    assert (gradient[without] == 0).all()
    assert (gradient[~without] != 0).all()


@BOTH
def test_a_class_of_a_case_is_trained_the_same_beside_unannotated_ones(terms_of: TermsOf) -> None:
    """Cases whose classes lie apart: the loss of all of them is the mean of the losses of each alone."""
    logits, organs = drawn(2)
    whole, gradient = terms_of(logits, organs, EVERYTHING)
    parts = [terms_of(logits, organs, np.tile(row, (3, 1))) for row in np.eye(len(CLASSES), dtype=np.int8)]
    for name, values in whole.items():
        np.testing.assert_allclose(values, np.mean([found[name] for found, _ in parts], axis=0), rtol=1e-12)
    np.testing.assert_allclose(gradient, sum(slope for _, slope in parts) / len(CLASSES), rtol=1e-9, atol=1e-15)


def test_a_class_needs_organs_of_its_task_and_old_tasks_are_written_as_they_were() -> None:
    with pytest.raises(UsageError, match="class tumour needs organs of the task"):
        replace(RATIC, classes=(MaskClass("tumour", ("liver_tumour",)),))
    assert "classes" not in RATIC.to_json()
    assert Task.from_json(TASK.to_json()) == TASK
    assert [one.name for one in RATIC.mask_classes] == list(RATIC.organs)


def test_organs_left_out_of_supervision_are_refused() -> None:
    with pytest.raises(UsageError, match="annotated classes instead"):
        plan_of(replace(RECIPE, supervising_organs="liver"), RATIC)


def test_dice_by_hand_of_overlapping_classes() -> None:
    organs = np.array([1, 1, 3, 4, 0, IGNORED_ORGAN], np.uint8).reshape(1, 1, 6)
    predicted = np.array(
        [[1, 0, 0, 0, 0, 1], [0, 0, 1, 1, 1, 0], [0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]], np.uint8
    ).reshape(4, 1, 1, 6)  # fmt: skip
    found = dice_of_classes(organs, predicted, TASK.organ_sets, (1, 1, 1, 0))
    np.testing.assert_allclose(found, [2 / 3, 4 / 5, 1, np.nan])


BY_TURNS = ((1, 0, 0, 1, 0), (0, 1, 0, 0, 1), (0, 0, 0, 0, 0), (1, 1, 1, 1, 1))
"""What cases annotate, one after the other."""


@pytest.mark.parametrize("changed", [(), ("augment_rotation=20",), ("augment_noise=9",), ("boundary_distortion=10",)])
def test_batches_say_which_classes_are_annotated(changed: tuple[str, ...], tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", RATIC)
    cases = [replace(case, annotated=BY_TURNS[index // 2 % 4]) for index, case in enumerate(store.cases)]
    store = replace(store, cases=tuple(cases))
    reads, recipe = ("volume", "organs", "annotated"), override(Recipe(), changed)
    with training_batches(
        store, 0, 8, workers=0, reads=lambda step: reads, augmentation=Augmentation.of(recipe),
        mask_noise=MaskNoise.of(recipe, RATIC),
    ) as batches:  # fmt: skip
        batch = next(batches)
    assert tuple(batch.arrays) == reads
    assert batch["annotated"].dtype == np.int8
    for row, index in zip(batch["annotated"], batch.case_index, strict=True):
        case = store.cases[index]
        assert tuple(row) == (case.annotated if case.has_mask else (0,) * 5)
    assert len(set(map(tuple, batch["annotated"]))) == 4


def write_partial_store(root: Path, kept: bool) -> Store:
    """Every mask has a liver, a spleen and a bowel; those that its case does not annotate are `kept`, or erased."""
    rng, writer = np.random.default_rng(0), StoreWriter(root)
    writer.create(SMALL_RATIC, "tiny", "synthetic", {})
    for split, count in {"train": 4, "validation": 2, "test": 2}.items():
        for number in range(count):
            annotated, organs = BY_TURNS[number % 2], np.zeros(SMALL.padded_size, np.uint8)
            for organ in (1, 2, 5):
                if kept or annotated[organ - 1]:
                    organs[4:12, 4 * organ : 4 * organ + 3, 4:20] = organ
            volume = rng.normal(0, 100, SMALL.padded_size).astype(np.int16)
            name = f"{split}_{number}"
            origin = CaseOrigin(name, name, split, (0,) * 5, "scan", None, annotated=annotated)
            writer.write(origin, PreparedCase(volume, organs, np.eye(4)))
    writer.finish()
    return Store.open(root)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_run_is_blind_to_what_is_not_annotated(framework: str, tmp_path: Path) -> None:
    """Training, validation and evaluation say the same of masks that hold more organs than are annotated."""
    told = []
    for kept in (False, True):
        store, run = write_partial_store(tmp_path / f"store_{kept}", kept), tmp_path / f"run_{kept}"
        settings = ["objective=partial_masks", "batch_size=2", "augment_rotation=10"]
        train_run(run, configure(store.root, "r3d_18", framework, settings, max_steps=2, evaluate_every=2))
        assert main(["evaluate", str(run)]) == 0
        figures = [
            {name: record.get(name) for name in ("kind", "loss", "mask_cross_entropy", "mask_dice", "dice")}
            for record in read_records(run)
        ]
        told.append((figures, (run / "organ_dice_test.csv").read_text()))
    assert told[0] == told[1]
    steps = [record for record in told[0][0] if record["kind"] == "step"]
    assert len(steps) == 2
    assert all(0 < float(str(step["mask_dice"])) < 1 for step in steps)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_it_trains_is_judged_evaluated_and_reported(framework: str, tmp_path: Path) -> None:
    store, run = write_store(tmp_path / "store", SMALL_RATIC), tmp_path / "run"
    assert main(["train", "--task", "ratic", "--store", str(store.root), "--model", "r3d_18", "--framework",
                 framework, "--out", str(run), "--set", "objective=partial_masks", "--set", "batch_size=4",
                 "--steps", "2"]) == 0  # fmt: skip
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"mask_cross_entropy", "mask_dice"} <= records[0].keys()
    judged = [record for record in records if record["kind"] == "evaluation"]
    assert list(judged[-1]["dice"]) == list(RATIC.organs)
    assert 0 <= judged[-1]["mask_dice"] <= 1
    assert main(["evaluate", str(run), "--json"]) == 0
    assert (run / "organ_dice_test.csv").read_text().splitlines()[
        0
    ] == "case_id,liver,spleen,kidney_left,kidney_right,bowel"
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    assert "mask dice" in (tmp_path / "report.html").read_text().lower()
