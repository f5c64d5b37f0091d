"""MedMNIST's 3D sets from a file of the true form to a report, with the recipes that have a name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anatobench.backbones import CARDS
from anatobench.cli.main import main
from anatobench.datasets.medmnist3d import SETS
from anatobench.experiments.named import NAMED_RUNS
from anatobench.store.reader import Store
from anatobench.training.run_folder import RunConfig

CLASSES = {
    "organmnist3d": 11, "nodulemnist3d": 2, "adrenalmnist3d": 2, "fracturemnist3d": 3, "vesselmnist3d": 2,
    "synapsemnist3d": 2,
}  # fmt: skip
"""Of `n_classes` of the package `medmnist`, info.py."""


def write_set(path: Path, classes: int, count: int = 33, seed: int = 0) -> None:
    """Write the arrays under their true names, types and shapes; a class brightens a slab of its own."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for part, cases in (("train", count), ("val", 2 * classes), ("test", 2 * classes)):
        labels = (np.arange(cases) % classes).astype(np.uint8)
        images = rng.integers(60, 120, (cases, 28, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 4] += 100
        arrays |= {f"{part}_images": images, f"{part}_labels": labels[:, None]}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def prepare(file: Path, store: Path, size: str = "tiny") -> int:
    words = ["prepare", "--dataset", "medmnist3d", "--raw", str(file), "--size", size, "--workers", "0", "--json"]
    return main([*words, "--store", str(store)])


def test_the_sets_are_those_of_the_package() -> None:
    assert {name: len(one.grades) for name, one in SETS.items()} == CLASSES
    assert all(0.7 < one.published_auc < 1 for one in SETS.values())


def test_every_backbone_has_a_named_recipe_on_every_set(capsys: pytest.CaptureFixture[str]) -> None:
    for name in CLASSES:
        for model in CARDS:
            run = NAMED_RUNS[f"{name}/{model}"]
            told = run.to_json()
            assert (told["batch_size"], told["learning_rate"], told["epochs"]) == (32, 0.001, 100)
            assert told["expected"]["auc"] == SETS[name].published_auc
            assert run.condition.segmentation_weight == 0
    capsys.readouterr()
    assert main(["experiments", "named"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("fracturemnist3d/swin3d_t"))
    assert "72.50" in line
    assert "MedMNIST v2" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model", "framework"),
    [
        ("organmnist3d", "r3d_18", "jax"),
        ("fracturemnist3d", "mvit_v2_s", "torch"),
        ("vesselmnist3d", "swin3d_t", "torch"),
    ],
)
def test_a_named_recipe_goes_from_the_file_to_the_report(
    tmp_path: Path, name: str, model: str, framework: str, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = CLASSES[name]
    write_set(tmp_path / f"{name}.npz", classes)
    assert prepare(tmp_path / f"{name}.npz", tmp_path / "store") == 0
    task = Store.open(tmp_path / "store").task
    assert task.logit_count == (1 if classes == 2 else classes)
    run = tmp_path / "run"
    words = ["train", "--named", f"{name}/{model}", "--store", str(tmp_path / "store"), "--out", str(run)]
    assert main([*words, "--framework", framework, "--steps", "2", "--set", "batch_size=4"]) == 0
    config = RunConfig.read(run)
    assert (config.recipe.learning_rate, config.recipe.batch_size, config.recipe.epochs) == (0.001, 4, 100)
    assert (config.segmentation, config.size, config.framework) == (False, "tiny", framework)
    assert main(["evaluate", str(run)]) == 0
    assert json.loads((run / "evaluation_test.json").read_text())["auc"].keys() >= set(task.class_names)
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "MedMNIST v2, ResNet-50 + 3D" in page
    assert f"{SETS[name].published_auc:.3f}" in page


def test_a_named_recipe_wants_a_tiny_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "nodulemnist3d.npz", 2, count=4)
    assert prepare(tmp_path / "nodulemnist3d.npz", tmp_path / "store", size="full") == 0
    words = ["train", "--named", "nodulemnist3d/r3d_18", "--store", str(tmp_path / "store"), "--out"]
    capsys.readouterr()
    assert main([*words, str(tmp_path / "run")]) == 1
    assert "is a store of size full, not tiny" in capsys.readouterr().err


def test_a_store_of_small_volumes_takes_twice_their_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """int16 in place of uint8, and nothing around them."""
    write_set(tmp_path / "organmnist3d.npz", 11)
    capsys.readouterr()
    assert prepare(tmp_path / "organmnist3d.npz", tmp_path / "store") == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    store = Store.open(tmp_path / "store")
    assert sum(case.byte_size for case in store.cases) / (len(store.cases) * 28**3) < 2.02
    assert 2 < figures["times_its_scans"] < 4, "of the compressed file"
