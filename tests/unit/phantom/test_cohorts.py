"""Cohorts in every format, read back by the listings and readers that real data goes through."""

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from organ_masks import organ_indices

from anatobench.datasets.case import Case
from anatobench.datasets.registry import list_cases
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.phantom.abdomen import LOOKS, abdomen_body, abdomen_findings
from anatobench.phantom.cohort import FORMATS, write_cohort
from anatobench.phantom.plan import STRATA, CohortPlan, Stream
from anatobench.phantom.shapes import Blob
from anatobench.phantom.write_ratic import scans_of
from anatobench.tasks import Task
from anatobench.volumes.read import read_mask, read_volume
from anatobench.volumes.resample import resample_mask
from anatobench.volumes.volume import Volume

CASES = {"ratic": 6, "ct_rate": 4, "rad_chestct": 2}
SOFT_TISSUE, LUNG, BOWEL = (35, 190), (-950, -650), (0, 90)
ORGAN_HU = {
    "abdomen": (SOFT_TISSUE, SOFT_TISSUE, SOFT_TISSUE, SOFT_TISSUE, BOWEL),
    "chest": (LUNG, LUNG, LUNG, LUNG, LUNG, SOFT_TISSUE),
}


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    for name, cases in CASES.items():
        write_cohort(folder / name, CohortPlan(name, "tiny", 0, cases))
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the cohorts of two cases are."""
    folder = tmp_path_factory.mktemp("pairs")
    for name in CASES:
        write_cohort(folder / name, CohortPlan(name, "tiny", 0, 2))
    return folder


def truth(plan: CohortPlan) -> dict[str, tuple[int, ...]]:
    """Case id to targets, from the plan and not from any file."""
    scans = [scan for index in range(plan.cases) for scan in FORMATS[plan.format].scans_of(plan, index)]
    return {scan.name: scan.targets for scan in scans}


def organs_on_scan(case: Case, task: Task) -> tuple[Volume, np.ndarray]:
    """Return a case's scan and its mask placed on the scan's grid by the affines alone."""
    assert case.mask is not None
    volume, mask = read_volume(case.scan, case.header), read_mask(case.mask)
    return volume, resample_mask(organ_indices(mask, task, case.mask_labels), mask.affine, volume.grid)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_listings_return_every_scan_with_the_true_labels(cohorts: Path, name: str) -> None:
    root = cohorts / name
    options = {} if name == "ct_rate" else {"masks": root / "masks"}
    listing = list_cases(name, root, **options)
    assert listing.rejected == ()
    assert {case.case_id: case.targets for case in listing.cases} == truth(CohortPlan(name, "tiny", 0, CASES[name]))
    assert all(case.mask is not None for case in listing.cases)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_masks_lie_on_their_organs(cohorts: Path, name: str) -> None:
    root = cohorts / name
    options = {} if name == "ct_rate" else {"masks": root / "masks"}
    listing = list_cases(name, root, **options)
    for case in listing.cases[:3]:
        volume, organs = organs_on_scan(case, listing.task)
        for index, (low, high) in enumerate(ORGAN_HU[listing.task.anatomy], start=1):
            inside = volume.voxels[organs == index]
            assert len(inside) > 30, (case.case_id, listing.task.organs[index - 1])
            assert low < np.median(inside) < high, (case.case_id, listing.task.organs[index - 1])


@pytest.mark.slow
def test_kaggles_flipped_segmentations_agree_with_the_masks(cohorts: Path) -> None:
    own = {case.case_id: case for case in list_cases("ratic", cohorts / "ratic").cases}
    listing = list_cases("ratic", cohorts / "ratic", masks=cohorts / "ratic" / "masks")
    compared = 0
    for case in listing.cases:
        if own[case.case_id].mask is not None:
            assert own[case.case_id].mask_labels == "ratic"
            _, expected = organs_on_scan(case, listing.task)
            _, kaggles = organs_on_scan(own[case.case_id], listing.task)
            np.testing.assert_array_equal(kaggles, expected)
            compared += 1
    assert 0 < compared < len(listing.cases)


def test_ct_rates_original_files_are_the_fixed_ones_once_rescaled(cohorts: Path) -> None:
    fixed = {case.case_id: case for case in list_cases("ct_rate", cohorts / "ct_rate").cases}
    raw = list_cases("ct_rate", cohorts / "ct_rate", rescale="raw").cases
    assert {case.header.intercept for case in raw if case.header is not None} >= {-8192.0}
    for case in raw:
        one, other = read_volume(case.scan, case.header), read_volume(fixed[case.case_id].scan)
        np.testing.assert_array_equal(one.voxels, other.voxels)
        np.testing.assert_allclose(one.affine, other.affine, atol=1e-3)


def test_dicom_series_come_in_all_the_variants(cohorts: Path) -> None:
    stored, directions, first_numbers = set(), set(), set()
    for folder in sorted((cohorts / "ratic" / "train_images").glob("*/*")):
        slices = sorted((pydicom.dcmread(path) for path in folder.iterdir()), key=lambda one: int(one.InstanceNumber))
        stored.add((slices[0].BitsStored, slices[0].PixelRepresentation))
        directions.add(slices[0].ImagePositionPatient[2] > slices[-1].ImagePositionPatient[2])
        first_numbers.add(int(slices[0].InstanceNumber))
        assert slices[0].file_meta.TransferSyntaxUID == pydicom.uid.RLELossless
    assert stored == {(12, 0), (12, 1), (16, 0), (16, 1)}
    assert directions == {True, False}
    assert len(first_numbers) > 3


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", ["ratic", "ct_rate"])
def test_the_same_arguments_write_the_same_bytes_and_complete_what_is_missing(
    cohorts: Path, pairs: Path, tmp_path: Path, name: str
) -> None:
    again = tmp_path / name
    plan = CohortPlan(name, "tiny", 0, 2)
    shutil.copytree(pairs / name, again)
    first, whole = digests(again), digests(cohorts / name)
    scans = {path: digest for path, digest in first.items() if not path.endswith((".csv", ".json", ".txt"))}
    assert scans.items() <= whole.items()  # patients do not depend on how many there are
    scan = next(path for path in again.rglob("*.dcm" if name == "ratic" else "*_fixed/*/*/*.nii.gz"))
    for path in scan.parent.iterdir():
        path.unlink()
    scan.parent.rmdir()
    next(again.rglob("*.csv")).unlink()
    write_cohort(again, plan)
    assert digests(again) == first


def test_rad_chestct_bytes_repeat(cohorts: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path / "r", CohortPlan("rad_chestct", "tiny", 0, 1))
    (scan,) = (tmp_path / "r").glob("*.npz")
    assert scan.read_bytes() == (cohorts / "rad_chestct" / scan.name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_crash_in_the_middle_of_a_file_leaves_no_half_file(
    cohorts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    calls, flush = [], os.fsync

    def crash_in_the_fifth(descriptor: int) -> None:  # of the third file: each is flushed, then its folder
        calls.append(descriptor)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        flush(descriptor)

    root, plan = tmp_path / name, CohortPlan(name, "tiny", 0, 2)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", crash_in_the_fifth)
        with pytest.raises(OSError, match="No space left"):
            write_cohort(root, plan)
    standing = {path: digest for path, digest in digests(root).items() if path != "phantom.json"}
    assert standing
    assert standing.items() <= digests(cohorts / name).items()
    write_cohort(root, plan)
    assert len(digests(root)) > len(standing)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "masks"), [("ratic", "masks"), ("ct_rate", "dataset/ts_seg"), ("rad_chestct", "masks")]
)
def test_unmasked_patients_lack_their_masks_and_nothing_else(
    cohorts: Path, pairs: Path, tmp_path: Path, name: str, masks: str
) -> None:
    write_cohort(tmp_path / name, CohortPlan(name, "tiny", 0, 2, unmasked=1))
    some, whole = digests(tmp_path / name), digests(cohorts / name)
    kept = {path for path in some if path.startswith((masks, "segmentations"))}
    assert kept
    lacking = digests(pairs / name).keys() - some.keys()
    assert lacking
    assert all(path.startswith((masks, "segmentations")) for path in lacking)
    assert all(whole[path] == some[path] for path in kept)
    with pytest.raises(UsageError, match="--unmasked 3"):
        CohortPlan(name, "tiny", 0, 2, unmasked=3)


def test_a_crash_in_the_middle_of_a_dicom_series_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, save = [], pydicom.Dataset.save_as

    def crash_in_the_third(dataset: pydicom.Dataset, path: Path, **options: Any) -> None:
        saved.append(path)
        if len(saved) == 3:
            raise OSError(28, "No space left on device")
        save(dataset, path, **options)

    monkeypatch.setattr(pydicom.Dataset, "save_as", crash_in_the_third)
    with pytest.raises(OSError, match="No space left"):
        write_cohort(tmp_path / "r", CohortPlan("ratic", "tiny", 0, 1))
    assert not list((tmp_path / "r" / "train_images").glob("*/*"))


def test_a_cohort_killed_at_its_very_beginning_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / ".phantom.json.00c0ffee.tmp").write_bytes(b"{")
    write_cohort(tmp_path, CohortPlan("ratic", "tiny", 0, 1))


def test_another_seed_is_another_cohort(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_cohort(tmp_path / str(seed), CohortPlan("ratic", "tiny", seed, 1))
    scans = [sorted((tmp_path / str(seed)).rglob("*.nii.gz"))[0].read_bytes() for seed in (0, 1)]
    assert scans[0] != scans[1]


def test_a_folder_with_anything_else_is_left_alone(cohorts: Path, tmp_path: Path) -> None:
    with pytest.raises(AnatoBenchError, match="other arguments"):
        write_cohort(cohorts / "ratic", CohortPlan("ratic", "tiny", 1, CASES["ratic"]))
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    with pytest.raises(AnatoBenchError, match="not empty"):
        write_cohort(tmp_path, CohortPlan("ratic", "tiny", 0, 1))
    assert list(tmp_path.iterdir()) == [precious]


@pytest.mark.slow
def test_worker_processes_write_the_same(cohorts: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path / "w", CohortPlan("ratic", "tiny", 0, 2), workers=2)
    scans = {path: digest for path, digest in digests(tmp_path / "w").items() if path.endswith((".dcm", ".gz"))}
    assert scans
    assert scans.items() <= digests(cohorts / "ratic").items()


def test_large_injuries_are_a_cohort_of_their_own(cohorts: Path, tmp_path: Path) -> None:
    plan = CohortPlan("ratic", "tiny", 0, CASES["ratic"], injuries="large")
    with pytest.raises(AnatoBenchError, match="other arguments"):
        write_cohort(cohorts / "ratic", plan)
    with pytest.raises(UsageError, match="only ratic has"):
        CohortPlan("ct_rate", "tiny", 0, 5, injuries="large")
    grades = np.array([scans_of(replace(plan, cases=STRATA), index)[0].targets for index in range(STRATA)])
    assert (grades[:, 0] == 1).sum() == 8  # 0.4 of 20
    body = abdomen_body(plan.rng(0, Stream.BODY))
    radius = {}
    for injuries in ("typical", "large"):
        findings = abdomen_findings(plan.rng(0, Stream.FINDINGS), body, (0, 0, 0, 2, 0), LOOKS["tiny"][injuries])
        (laceration,) = [finding for finding in findings if finding.hosts == ("liver",)]
        assert isinstance(laceration.shape, Blob)
        radius[injuries] = max(laceration.shape.radii)
    assert radius["large"] > 1.2 * radius["typical"]


def test_labels_are_spread_evenly() -> None:
    plan = CohortPlan("ratic", "tiny", 3, 2 * STRATA)
    for block in (range(STRATA), range(STRATA, 2 * STRATA)):
        grades = np.array([scans_of(plan, index)[0].targets for index in block])
        assert (grades[:, 0] == 1).sum() == 6  # 0.3 of 20
        assert [(grades[:, 3] == grade).sum() for grade in (1, 2)] == [3, 3]
