"""A run's best checkpoint on a split, with an engine that needs no framework."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
from numpy_engine import NumpyEngine, use_numpy_engines
from safetensors.numpy import load_file
from sklearn.metrics import roc_auc_score
from tiny_store import FINDINGS, write_store

import anatobench.evaluation.run_evaluation as evaluation
from anatobench.engine import ModelSpec
from anatobench.errors import AnatoBenchError
from anatobench.evaluation.evaluation_file import Evaluation, read_evaluation
from anatobench.evaluation.judges import validator
from anatobench.evaluation.predictions import class_probabilities, read_predictions
from anatobench.evaluation.run_evaluation import compare_runs, evaluate_run, open_store, predict_split
from anatobench.recipes import Recipe
from anatobench.store.crops import centre_crop_start
from anatobench.store.reader import Store
from anatobench.tasks import IGNORED_ORGAN, RATIC, TASKS
from anatobench.training.checkpoints import Best, Checkpoint, Progress, save_checkpoint
from anatobench.training.run_folder import RunConfig, begin_run

CONFIG = RunConfig(FINDINGS, "store", "torch", "r3d_18", "tiny", Recipe(batch_size=2, seed=3))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(autouse=True)
def numpy_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    use_numpy_engines(monkeypatch)


def trained_run(run: Path, store: Store, config: RunConfig = CONFIG) -> NumpyEngine:
    """Return a run whose best checkpoint is older than its newest, and whose weights are not those of a new engine."""
    config = replace(config, store=str(store.root), task=store.task)
    begin_run(run, config, resume=False)
    engine = NumpyEngine(config.spec, replace(config.recipe, seed=99))
    for step, scale in ((4, 1.0), (8, -1.0)):
        weights = {name: scale * array for name, array in engine.weights().items()}
        progress = Progress(step, 1, {}, step, Best(4, "auc_macro", 0.9), "torch", {})
        save_checkpoint(run, Checkpoint(progress, {**engine.state(), "model": weights}))
    return engine


def test_every_case_is_predicted_once_from_its_centre_without_padding(store: Store) -> None:
    engine = NumpyEngine(CONFIG.spec, CONFIG.recipe)
    predictions = predict_split(engine, store, "test", batch_size=2)  # 5 cases, so the last batch is padded
    assert predictions.case_ids == tuple(f"test_{number}" for number in range(5))
    assert predictions.patient_ids == tuple(f"patient_test_{number}" for number in range(5))
    start = centre_crop_start(store.geometry.padded_size, store.geometry.crop_size)
    for row, index in enumerate(store.split("test")):
        volume, _ = store.read_crop(index, start, store.geometry.crop_size)
        np.testing.assert_allclose(predictions.logits[row], engine.predict(volume[None])[0], rtol=1e-5)
        assert tuple(predictions.targets[row]) == store.cases[index].targets


def test_evaluates_the_best_checkpoint_and_writes_what_a_report_needs(tmp_path: Path, store: Store) -> None:
    best = trained_run(tmp_path, store)
    figures = evaluate_run(tmp_path)
    assert json.loads((tmp_path / "evaluation_test.json").read_text()) == figures
    assert read_evaluation(tmp_path, "test", FINDINGS, get_type_hints(Evaluation)) == figures
    expected = predict_split(best, store, "test", 2)
    saved = read_predictions(tmp_path / "predictions_test.csv", FINDINGS)
    np.testing.assert_array_equal(saved.logits, expected.logits)
    probabilities = class_probabilities(FINDINGS, expected.logits)
    for column, name in enumerate(FINDINGS.class_names):
        auc = roc_auc_score(expected.targets[:, column] == 1, probabilities[:, column])
        assert figures["auc"][name] == pytest.approx(auc, rel=1e-12)
    assert {"auc", "sensitivity", "specificity", "f1_weighted", "precision", "threshold_rule", "ci95"} <= set(figures)
    assert (figures["step"], figures["threshold_split"], figures["aggregation"]) == (4, "test", "none")


@pytest.mark.parametrize("trained", ["graphs", "true", "auto", "false"])
def test_nothing_is_compiled_to_evaluate_a_split(
    trained: str, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def build(name: str, spec: ModelSpec, recipe: Recipe) -> NumpyEngine:
        built.append(recipe)
        return NumpyEngine(spec, recipe)

    monkeypatch.setattr(evaluation, "load_engine", build)
    trained_run(tmp_path, store, replace(CONFIG, recipe=replace(CONFIG.recipe, compile=trained)))
    evaluate_run(tmp_path)
    assert built == [replace(CONFIG.recipe, compile="false")]


def test_thresholds_from_validation_are_reported_as_such(tmp_path: Path, store: Store) -> None:
    trained_run(tmp_path, store)
    from_test, from_validation = evaluate_run(tmp_path), evaluate_run(tmp_path, threshold_split="validation")
    assert from_validation["threshold_split"] == "validation"
    assert from_validation["thresholds"] != from_test["thresholds"]
    assert from_validation["auc"] == from_test["auc"]


def test_examples_are_slices_through_the_organs_of_cases_with_a_mask(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", sizes={"train": 2, "test": 7})
    trained_run(tmp_path / "run", store)
    evaluate_run(tmp_path / "run")
    arrays = load_file(tmp_path / "run" / "examples_test.safetensors")
    # Cases 1, 3 and 5 have masks; the first of the others fills up.
    assert {name.split("/")[0] for name in arrays} == {"test_1", "test_3", "test_5", "test_0"}
    start = centre_crop_start(store.geometry.padded_size, store.geometry.crop_size)
    volume, organs = store.read_crop(store.split("test")[1], start, store.geometry.crop_size)
    marked = np.flatnonzero((organs == 1).any(axis=(1, 2)))
    slices = [marked[0] + round(part * (marked[-1] - marked[0])) for part in (0.25, 0.5, 0.75)]
    np.testing.assert_array_equal(arrays["test_1/volume"], volume[slices])
    np.testing.assert_array_equal(arrays["test_1/organs"], organs[slices])
    np.testing.assert_array_equal(arrays["test_1/predicted_organs"], (volume[slices] > 0).astype(np.uint8))
    assert (arrays["test_0/organs"] == IGNORED_ORGAN).all()


def test_without_the_auxiliary_head_no_organs_are_predicted(tmp_path: Path, store: Store) -> None:
    recipe = replace(CONFIG.recipe, segmentation_weight=0.0)
    trained_run(tmp_path, store, replace(CONFIG, recipe=recipe))
    evaluate_run(tmp_path)
    kinds = {name.split("/")[1] for name in load_file(tmp_path / "examples_test.safetensors")}
    assert kinds == {"volume", "organs"}


def test_ratic_is_judged_per_patient_on_fourteen_columns(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", RATIC, {"train": 2, "test": 6})
    trained_run(tmp_path / "run", store)
    figures = evaluate_run(tmp_path / "run")
    assert figures["aggregation"] == "mean"
    assert set(figures["auc"]) == {"macro", *RATIC.class_names}
    assert figures["auc"]["bowel_healthy"] == pytest.approx(figures["auc"]["bowel_injury"], rel=1e-12)


def test_a_store_of_another_task_or_size_is_refused(store: Store) -> None:
    with pytest.raises(AnatoBenchError, match="prepared for task findings, the run is for task ratic"):
        open_store(replace(CONFIG, task=TASKS["ratic"]), str(store.root))
    with pytest.raises(AnatoBenchError, match="prepared for size tiny, the run is for size full"):
        open_store(replace(CONFIG, size="full"), str(store.root))


def test_a_split_without_cases_is_one_sentence(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", sizes={"train": 2})
    trained_run(tmp_path / "run", store)
    with pytest.raises(AnatoBenchError, match="has no test cases"):
        evaluate_run(tmp_path / "run")
    assert validator(NumpyEngine(CONFIG.spec, CONFIG.recipe), store, 2) is None


def test_output_that_is_not_finite_names_the_case(store: Store) -> None:
    engine = NumpyEngine(CONFIG.spec, CONFIG.recipe)
    predict = engine.predict

    def broken(volume: np.ndarray) -> np.ndarray:
        logits = predict(volume)
        logits[1] = np.nan
        return logits

    setattr(engine, "predict", broken)  # noqa: B010
    with pytest.raises(AnatoBenchError, match="case test_1"):
        predict_split(engine, store, "test", 2)


def test_two_runs_are_compared_on_the_same_patients(tmp_path: Path, store: Store) -> None:
    runs = tmp_path / "first", tmp_path / "second"
    for run, seed in zip(runs, (1, 2), strict=True):
        trained_run(run, store, replace(CONFIG, recipe=replace(CONFIG.recipe, seed=seed)))
    found = compare_runs(*runs)
    for position, run in enumerate(runs):
        figures = json.loads((run / "evaluation_test.json").read_text())
        assert found["auc"][position] == figures["auc"]
        assert 0 <= figures["brier"]["macro"] <= 1
    assert found["difference"]["macro"] == pytest.approx(found["auc"][1]["macro"] - found["auc"][0]["macro"])
    assert found["runs"] == [str(run) for run in runs]
    assert compare_runs(runs[0], runs[0])["ci95"]["macro"] == [0.0, 0.0]


def test_a_comparison_leaves_thresholds_as_an_evaluation_chose_them(tmp_path: Path, store: Store) -> None:
    runs = tmp_path / "first", tmp_path / "second"
    for run in runs:
        trained_run(run, store)
    chosen = evaluate_run(runs[0], rule="youden", threshold_split="validation")
    compare_runs(*runs)
    after = [json.loads((run / "evaluation_test.json").read_text()) for run in runs]
    assert [one["threshold_split"] for one in after] == ["validation", "test"]
    assert (after[0]["thresholds"], after[0]["threshold_rule"]) == (chosen["thresholds"], "youden")


def test_runs_of_other_cases_are_refused_before_anything_is_written(tmp_path: Path, store: Store) -> None:
    other = write_store(tmp_path / "other", sizes={"train": 4, "validation": 3, "test": 3})
    for run, its in (("first", store), ("second", other)):
        trained_run(tmp_path / run, its)
    with pytest.raises(AnatoBenchError, match=r"2 case\(s\) are judged in one of the runs alone"):
        compare_runs(tmp_path / "first", tmp_path / "second")
    assert not list(tmp_path.rglob("evaluation_test.json"))
