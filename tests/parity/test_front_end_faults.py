"""The front end against a body known as a formula, and mistakes of a front end, each of which turns its gate red.

A scan and a mask are written on two different grids, prepared, and compared at every voxel's place in the patient with
what the formula says is there. Neither framework can tell any of these mistakes: both would be given the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scan_files import turned, write_nifti_file
from scipy.ndimage import map_coordinates

import anatobench.store.prepare as prepare_module
import anatobench.volumes.nifti as nifti_module
import anatobench.volumes.resample as resample_module
from anatobench.datasets.case import Case
from anatobench.errors import CaseError
from anatobench.store.prepare import prepare_case
from anatobench.store.writer import PreparedCase
from anatobench.tasks import RATIC
from anatobench.volumes.volume import Grid

ORGANS = {  # v2 label: index, centre and radii in RAS+ mm; the liver lies on the patient's right, where x is positive
    5: (1, (65, 10, 55), (60, 60, 55)),
    1: (2, (-80, -20, 60), (30, 40, 45)),
    3: (3, (-60, -40, -25), (26, 28, 48)),
    2: (4, (60, -40, -35), (26, 28, 48)),
    18: (5, (0, 25, -80), (60, 30, 40)),
}
SCAN_AFFINE = np.array([[0.0, 0, -3.5, 166], [0, -3, 0, 142], [-5.0, 0, 0, 140], [0, 0, 0, 1]])
SCAN_SIZE = (56, 96, 96)
MASK_AFFINE = np.array([[0.0, 0, -3, 176], [0, -3, 0, 151], [-3.0, 0, 0, 148], [0, 0, 0, 1]])
MASK_SIZE = (100, 102, 118)
METAL = ((40, 60, 0), 24.0)


def places(size: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """[3, D, H, W] RAS+ mm of every voxel."""
    index = np.stack([*np.indices(size), np.ones(size)])
    return np.tensordot(affine, index, 1)[:3]


def hounsfield(xyz: np.ndarray) -> np.ndarray:
    """Smooth, nowhere symmetric, with metal beyond what a store keeps."""
    x, y, z = xyz / 100
    metal = np.linalg.norm(xyz - np.reshape(METAL[0], (3, 1, 1, 1)), axis=0)
    hu: np.ndarray = 60 * x - 90 * y + 120 * z + 80 * np.sin(3 * x + y) + 4000 / (1 + np.exp((metal - METAL[1]) / 6))
    return hu


def organ_levels(xyz: np.ndarray) -> dict[int, np.ndarray]:
    """Per label, the distance from the organ's centre in radii: below 1 is inside."""
    return {
        label: np.linalg.norm((xyz - np.reshape(c, (3, 1, 1, 1))) / np.reshape(r, (3, 1, 1, 1)), axis=0)
        for label, (_, c, r) in ORGANS.items()
    }


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("raw")
    scan = hounsfield(places(SCAN_SIZE, SCAN_AFFINE)).round().astype(np.int16) + np.int16(1024)
    labels = np.zeros(MASK_SIZE, np.uint8)
    for label, level in organ_levels(places(MASK_SIZE, MASK_AFFINE)).items():
        labels[level < 1] = label
    write_nifti_file(folder / "scan.nii", *turned(scan, SCAN_AFFINE, "LAS"), scl_slope=1, scl_inter=-1024)
    write_nifti_file(folder / "mask.nii.gz", *turned(labels, MASK_AFFINE, "RPS"))
    return Case("one", "one", folder / "scan.nii", "train", (0,) * 5, mask=folder / "mask.nii.gz",
                mask_labels="totalsegmentator_v2")  # fmt: skip


def red_gates(case: Case) -> list[str]:
    """Return what is wrong with the prepared case."""
    try:
        prepared: PreparedCase = prepare_case(case, RATIC, "tiny")
    except CaseError as error:
        return [error.reason]
    assert prepared.organs is not None
    xyz = places(prepared.volume.shape, prepared.affine)
    index = np.tensordot(np.linalg.inv(SCAN_AFFINE), np.stack([*xyz, np.ones(xyz.shape[1:])]), 1)[:3]
    size = np.reshape(SCAN_SIZE, (3, 1, 1, 1))
    within = ((index > 0) & (index < size - 1)).all(0)
    without = ((index < -0.6) | (index > size - 0.4)).any(0)
    levels = organ_levels(xyz)
    # Half a voxel of 12 x 6 x 6 mm about an organ's surface and metal's edge is left out.
    clear = np.all([abs(level - 1) > 0.25 for level in levels.values()], 0)
    # There an organ may be this one or nothing, and none that lies elsewhere.
    possible = np.any([(prepared.organs == ORGANS[label][0]) & (level < 1.25) for label, level in levels.items()], 0)
    expected = np.zeros(xyz.shape[1:], int)
    for label, level in levels.items():
        expected[level < 1] = ORGANS[label][0]
    wrong_hu = abs(prepared.volume - np.clip(hounsfield(xyz), -1000, 1000))[within]
    gates = {
        "hu": np.percentile(wrong_hu, 95) < 4 and wrong_hu.max() < 200,
        "outside": (prepared.volume[without] == -1000).all() and without.mean() > 0.05,
        "organs": (prepared.organs == expected)[clear].all()
        and (possible | (prepared.organs == 0)).all()
        and len(np.unique(expected[clear])) == 6,
    }
    return [name for name, good in gates.items() if not good]


def test_the_front_end_agrees_with_the_formula(case: Case) -> None:
    assert red_gates(case) == []


def shifted(grid: Grid, by: tuple[float, float, float]) -> Grid:
    change = np.eye(4)
    change[:3, 3] = by
    return Grid(grid.size, grid.affine @ change)


def nearest_for_hu(volume: Any, grid: Grid) -> np.ndarray:
    right = resample_module.resample_mask((volume.voxels + 2000).astype(np.uint16), volume.affine, grid)
    return (right.astype(int) - 2000).clip(-1000).astype(np.int16)


def linear_labels(labels: np.ndarray, affine: np.ndarray, grid: Grid) -> np.ndarray:
    index = np.tensordot(np.linalg.inv(affine) @ grid.affine, np.stack([*np.indices(grid.size), np.ones(grid.size)]), 1)
    mixed: np.ndarray = map_coordinates(labels.astype(float), index[:3], order=1).round().astype(labels.dtype)
    return mixed


def stretched_labels(labels: np.ndarray, affine: np.ndarray, grid: Grid) -> np.ndarray:
    """By index, as if both grids covered the same place."""
    index = np.indices(grid.size) * np.reshape(np.array(labels.shape) / grid.size, (3, 1, 1, 1))
    picked: np.ndarray = labels[tuple(index.astype(int))]
    return picked


def in_place_of(module: Any, name: str, make: Callable[[Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setattr(module, name, make(getattr(module, name)))


FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], list[str]]] = {
    "scan resampled half a voxel off": (
        in_place_of(prepare_module, "resample_volume", lambda right: lambda volume, grid: right(
            volume, shifted(grid, (0, 0, 0.5)))), ["hu", "outside"]),
    "nearest neighbour for HU": (
        in_place_of(prepare_module, "resample_volume", lambda _: nearest_for_hu), ["hu"]),
    "rescale applied twice": (
        in_place_of(nifti_module, "_to_hounsfield", lambda right: lambda path, stored, slope, intercept: right(
            path, right(path, stored, slope, intercept), slope, intercept)), ["not-hounsfield"]),
    "rescale forgotten": (
        in_place_of(nifti_module, "_to_hounsfield", lambda right: lambda path, stored, slope, intercept: right(
            path, stored, 1.0, 0.0)), ["not-hounsfield"]),
    "left and right exchanged": (
        in_place_of(prepare_module, "read_volume", lambda right: lambda *given: replace(
            volume := right(*given), voxels=np.ascontiguousarray(volume.voxels[:, :, ::-1]))), ["hu"]),
    "head and feet exchanged": (
        in_place_of(prepare_module, "read_volume", lambda right: lambda *given: replace(
            volume := right(*given), voxels=np.ascontiguousarray(volume.voxels[::-1]))), ["hu"]),
    "rows and columns exchanged": (
        in_place_of(prepare_module, "read_volume", lambda right: lambda *given: replace(
            volume := right(*given), voxels=np.ascontiguousarray(volume.voxels.swapaxes(1, 2)))), ["hu"]),
    "metal not clipped": (
        in_place_of(prepare_module, "STORED_HU", lambda _: (-1000, 3000)), ["hu"]),
    "water outside the field of view": (
        in_place_of(resample_module, "AIR_HU", lambda _: 0), ["outside"]),
    "labels interpolated": (
        in_place_of(prepare_module, "resample_mask", lambda _: linear_labels), ["organs"]),
    "mask placed by index": (
        in_place_of(prepare_module, "resample_mask", lambda _: stretched_labels), ["organs"]),
    "mask mirrored": (
        in_place_of(prepare_module, "read_mask", lambda right: lambda path: replace(
            mask := right(path), labels=np.ascontiguousarray(mask.labels[:, :, ::-1]))), ["mirrored-mask"]),
    "kidneys exchanged": (
        in_place_of(prepare_module, "organ_table", lambda right: lambda *given: np.array([0, 1, 2, 4, 3, 5], np.uint8)[
            right(*given)]), ["organs"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_turns_its_gate_red(case: Case, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, red = FAULTS[fault]
    plant(monkeypatch)
    assert red_gates(case) == red


def test_the_files_are_what_they_seem(case: Case) -> None:
    assert Path(case.scan).stat().st_size > np.prod(SCAN_SIZE)
