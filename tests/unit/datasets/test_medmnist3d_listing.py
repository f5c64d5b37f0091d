"""MedMNIST's 3D sets, from files of the true form."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anatobench.datasets.medmnist3d import PARTS, SETS
from anatobench.datasets.registry import list_cases
from anatobench.errors import AnatoBenchError
from anatobench.store.prepare import Summary, prepare
from anatobench.store.reader import Store
from anatobench.volumes.read import read_member

COUNTS = {"train": 5, "val": 2, "test": 3}


def write_set(path: Path, classes: int = 2, side: int = 28, **changed: Any) -> dict[str, np.ndarray]:
    """Write an `.npz` as it is downloaded, with `changed` arrays put in place of drawn ones."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in COUNTS.items():
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, side, side, side), np.uint8)
        arrays[f"{part}_labels"] = rng.integers(0, classes, (count, 1)).astype(np.uint8)
    arrays |= changed
    np.savez_compressed(path, allow_pickle=False, **arrays)
    return arrays


def prepared(file: Path, store: Path) -> Summary:
    listing = list_cases("medmnist3d", file)
    return prepare(listing, store, "tiny", workers=0, dataset="medmnist3d", raw_root=file, progress=False)


@pytest.mark.parametrize(("name", "side"), [("organmnist3d", 28), ("nodulemnist3d_64", 64), ("fracturemnist3d", 28)])
def test_volumes_splits_and_labels_arrive_as_they_are(tmp_path: Path, name: str, side: int) -> None:
    classes = len(SETS[name.removesuffix("_64")].grades)
    arrays = write_set(tmp_path / f"{name}.npz", classes, side)
    summary = prepared(tmp_path / f"{name}.npz", tmp_path / "store")
    assert (summary.prepared, summary.rejected) == (10, {})
    store = Store.open(tmp_path / "store")
    assert store.geometry.crop_size == store.geometry.padded_size == (side, side, side)
    assert store.task.window == (0.0, 255.0)
    assert store.task.logit_count == (1 if classes == 2 else classes)
    for part, split in PARTS.items():
        assert len(store.split(split)) == COUNTS[part]
        for index, position in enumerate(store.split(split)):
            case = store.cases[position]
            assert (case.case_id, case.targets) == (f"{part}_{index:05d}", (int(arrays[f"{part}_labels"][index, 0]),))
            volume, _ = store.read_crop(position, (0, 0, 0), (side, side, side))
            np.testing.assert_array_equal(volume, arrays[f"{part}_images"][index])
    assert prepared(tmp_path / f"{name}.npz", tmp_path / "store").skipped == 10
    assert store.verify() == []


def test_a_label_that_the_set_does_not_have_costs_its_case_alone(tmp_path: Path) -> None:
    write_set(tmp_path / "nodulemnist3d.npz", val_labels=np.array([[1], [7]], np.uint8))
    listing = list_cases("medmnist3d", tmp_path / "nodulemnist3d.npz")
    assert len(listing.cases) == 9
    assert [(r.case_id, r.reason) for r in listing.rejected] == [("val_00001", "bad-label")]


def test_one_volume_in_two_splits_is_leakage_and_alike_slices_are_none(tmp_path: Path) -> None:
    shape = np.zeros((28, 28, 28), np.uint8)
    shape[4:24, 10:14, 10:14] = 255  # many equal slices, as a vessel's
    other = shape.copy()
    other[10, 11, 11] = 0
    train, test = np.stack([shape] * 5), np.stack([other] * 3)
    write_set(tmp_path / "vesselmnist3d.npz", train_images=train, test_images=test)
    assert prepared(tmp_path / "vesselmnist3d.npz", tmp_path / "alike").leakage is None
    write_set(tmp_path / "vesselmnist3d.npz", train_images=train, test_images=train[:3])
    leakage = prepared(tmp_path / "vesselmnist3d.npz", tmp_path / "same").leakage
    assert leakage is not None
    assert "are the same scan" in leakage


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"test_images": np.zeros((3, 28, 28), np.uint8)}, "is it a 3D set"),
        ({"train_images": np.zeros((5, 28, 28, 28), np.float32)}, "is float32, not uint8"),
        ({"val_labels": np.zeros((2, 14), np.uint8)}, "one label per volume"),
        ({"val_labels": np.zeros((3, 1), np.uint8)}, "val has 2 volumes and 3 labels"),
        ({"val_images": np.zeros((2, 64, 64, 64), np.uint8)}, "volumes of 2 sizes"),
    ],
)
def test_what_is_no_such_set_is_one_sentence(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    file = tmp_path / "synapsemnist3d.npz"
    write_set(file, **changed)
    with pytest.raises(AnatoBenchError, match=told) as raised:
        list_cases("medmnist3d", file)
    assert str(raised.value).startswith(str(file))


def test_damaged_missing_and_misnamed_files(tmp_path: Path) -> None:
    file = tmp_path / "organmnist3d.npz"
    write_set(file, 11)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AnatoBenchError, match="truncated or damaged"):
        list_cases("medmnist3d", file)
    with pytest.raises(AnatoBenchError, match="there is no such file"):
        list_cases("medmnist3d", tmp_path)
    (tmp_path / "pathmnist.npz").write_bytes(whole)
    with pytest.raises(AnatoBenchError, match="none of MedMNIST's 3D sets"):
        list_cases("medmnist3d", tmp_path / "pathmnist.npz")
    np.savez(file, train_labels=np.array([{"a": 1}], dtype=object))
    with pytest.raises(AnatoBenchError, match="is object, not"):
        list_cases("medmnist3d", file)


def test_a_volume_that_is_not_there_is_its_own_fault(tmp_path: Path) -> None:
    write_set(tmp_path / "organmnist3d.npz", 11)
    with pytest.raises(AnatoBenchError, match="has no volume test/3: test has 3"):
        read_member(tmp_path / "organmnist3d.npz", "test/3")
