"""Preparing finishes what can be finished, says why the rest cannot, and gives the same bytes however it got there."""

from __future__ import annotations

import csv
import gzip
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import anatobench.store.prepare
from anatobench.datasets.case import Case, Listing, PatientLeakageError, Rejection
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.store.prepare import Summary, prepare, prepare_case
from anatobench.store.reader import Store
from anatobench.system.worker_pool import WorkerDied
from anatobench.tasks import get_task
from anatobench.volumes.nifti import read_nifti_mask, write_nifti
from anatobench.volumes.volume import HeaderOverride

MakeCohort = Callable[[int], Listing]
NIFTI_PIXDIM, NIFTI_DIM = 76, 40


def run(listing: Listing, root: Path, workers: int = 0, **options: Any) -> Summary:
    raw = root.parent / "raw"
    return prepare(listing, root, "tiny", workers, dataset="test", raw_root=raw, progress=False, **options)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def rejected_rows(root: Path) -> dict[str, dict[str, str]]:
    with open(root / "rejected.csv", newline="") as file:
        return {row["case_id"]: row for row in csv.DictReader(file)}


def test_a_case_lands_on_the_tasks_grid(make_raw_cohort: MakeCohort) -> None:
    [case] = make_raw_cohort(1).cases
    task = get_task("ratic")
    prepared = prepare_case(case, task, "tiny")
    assert prepared.volume.shape == (48, 64, 64)
    assert prepared.volume.dtype == np.int16
    assert (prepared.volume.min(), prepared.volume.max()) == (-1000, 1000)
    np.testing.assert_allclose(np.linalg.norm(prepared.affine[:3, :3], axis=0), (12, 6, 6))
    assert prepared.organs is not None
    assert prepared.organs.dtype == np.uint8
    assert set(np.unique(prepared.organs)) == {0, 1, 2, 3, 4, 5}
    # The scan is 360 mm wide: 60 of 64 voxels, with air beside them.
    assert (prepared.volume[:, :, :2] == -1000).all()
    assert (prepared.volume[20:28, 20:40, 2] > -1000).any()
    # Organs lie where their voxels do: the liver's centre in millimetres survives.
    raw = np.array([*np.array([9.0, 16.5, 10.5]), 1])
    found = prepared.affine @ [*np.argwhere(prepared.organs == 1).mean(axis=0), 1]
    expected = np.array([[0, 0, -9.0, 180], [0, -9.0, 0, 180], [-15.0, 0, 0, 225], [0, 0, 0, 1]]) @ raw
    np.testing.assert_allclose(found, expected, atol=4)


def test_a_store_holds_what_prepare_case_gives(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    listing = make_raw_cohort(3)
    cases = (replace(listing.cases[0], mask=None), *listing.cases[1:])
    summary = run(replace(listing, cases=cases, notes=("a note",)), tmp_path / "store")
    assert (summary.prepared, summary.skipped, summary.rejected, summary.notes) == (3, 0, {}, ("a note",))
    assert summary.cases_in_store == 3
    store = Store.open(tmp_path / "store")
    assert [case.has_mask for case in store.cases] == [False, True, True]
    assert store.cases[1].source == "scans/case_01.nii.gz"
    assert store.cases[1].mask_source == "masks/case_01.nii.gz"
    assert store.cases[1].targets == (0, 1, 2, 1, -1)
    assert store.split("test") == [0]
    for index, case in enumerate(cases):
        expected = prepare_case(case, listing.task, "tiny")
        volume, organs = store.read_crop(index, (0, 0, 0), store.geometry.padded_size)
        np.testing.assert_array_equal(volume, expected.volume)
        np.testing.assert_array_equal(organs, 255 if expected.organs is None else expected.organs)
        np.testing.assert_array_equal(store.cases[index].affine, expected.affine)
    assert store.verify() == []


@pytest.mark.slow
def test_workers_and_shards_change_no_byte(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    listing = make_raw_cohort(7)
    broken = listing.cases[3].scan
    broken.write_bytes(broken.read_bytes()[:5000])
    listing = replace(listing, rejected=(Rejection("x", "x.nii", "no-label", "has no label"),))
    run(listing, tmp_path / "one")
    run(replace(listing, cases=listing.cases[::-1]), tmp_path / "two", workers=2)
    for index in (2, 0, 1):
        run(listing, tmp_path / "three", shard=(index, 3))
    expected = contents(tmp_path / "one")
    assert len(expected) == 2 * 6 + 1 + 3
    assert contents(tmp_path / "two") == expected
    assert contents(tmp_path / "three") == expected


@pytest.mark.parametrize("change", ["spacing", "place", "mirrored", "axes", "clipped"])
def test_one_scan_with_two_headers_in_two_splits_is_leakage(tmp_path: Path, change: str) -> None:
    """What each file gives on the task's grid differs in most of them, so the voxels as they were read are compared."""
    rng = np.random.default_rng(0)
    voxels = np.where(rng.random((20, 30, 40)) < 0.5, rng.normal(-1000, 20, (20, 30, 40)), rng.normal(40, 300)).round()
    voxels = (voxels + rng.normal(0, 30, voxels.shape)).astype(np.int16)
    affine = np.array([[0, 0, -9.0, 180], [0, -9.0, 0, 180], [-15.0, 0, 0, 225], [0, 0, 0, 1]])
    changed, moved = voxels, affine.copy()
    if change == "spacing":
        moved[0, 2] *= 1.01
    elif change == "place":
        moved[:3, 3] += (0.3, 1.7, -4)
    elif change == "mirrored":
        moved[0, 2] *= -1
    elif change == "axes":
        moved = affine[:, [1, 2, 0, 3]]
    else:
        changed = voxels.clip(-1000, 1000)
    raw = tmp_path / "raw"
    write_nifti(raw / "a.nii.gz", voxels, affine)
    write_nifti(raw / "b.nii.gz", changed, moved)
    write_nifti(raw / "c.nii.gz", np.roll(voxels, 3, axis=1), affine)
    a, b, c = (
        Case(name, name, raw / f"{name}.nii.gz", split, (0, 0, 0, 0, 0))
        for name, split in (("a", "train"), ("b", "test"), ("c", "test"))
    )
    leaking = run(Listing(get_task("ratic"), (a, b)), tmp_path / "store")
    assert "a in train and b in test are the same scan" in str(leaking.leakage)
    assert not leaking.passed
    assert run(Listing(get_task("ratic"), (a, c)), tmp_path / "other").leakage is None


@pytest.mark.parametrize("cut", ["the last slice", "the first third", "every slice of it", "phantoms alike"])
def test_one_scan_cut_differently_in_two_splits_is_leakage(tmp_path: Path, cut: str) -> None:
    rng = np.random.default_rng(0)
    size = (30, 30, 40)
    voxels = np.where(rng.random(size) < 0.5, rng.normal(-1000, 20, size), rng.normal(40, 100, size)).astype(np.int16)
    voxels[:4] = -1000
    kept = {
        "the last slice": voxels[:-1],
        "the first third": voxels[10:],
        "every slice of it": np.concatenate([voxels[:4], rng.permuted(voxels[4:], axis=2)]),
        "phantoms alike": voxels,
    }[cut]
    if cut == "phantoms alike":  # few kinds of slices, which other phantoms have, too
        voxels = np.repeat(voxels[4:6], 15, axis=0)
        kept = voxels[:25]
    affine = np.array([[0, 0, -9.0, 180], [0, -9.0, 0, 180], [-15.0, 0, 0, 225], [0, 0, 0, 1]])
    raw = tmp_path / "raw"
    cases = []
    for name, found, split in (("a", voxels, "train"), ("b", kept, "test")):
        write_nifti(raw / f"{name}.nii.gz", found, affine)
        cases.append(Case(name, name, raw / f"{name}.nii.gz", split, (0, 0, 0, 0, 0)))
    summary = run(Listing(get_task("ratic"), tuple(cases)), tmp_path / "store")
    assert summary.prepared == 2
    leaks = cut in ("the last slice", "the first third")
    assert ("a in train and b in test are the same scan" in str(summary.leakage)) == leaks


def test_a_shard_outside_its_count_is_refused(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"shard 3/3.*2/3"):
        run(make_raw_cohort(1), tmp_path / "store", shard=(3, 3))


def nifti_bytes(case: Case) -> bytearray:
    return bytearray(gzip.decompress(case.scan.read_bytes()))


def spoil(cases: list[Case], tmp_path: Path) -> dict[str, str]:
    """Give every case but the first and last its own fault; the expected reason of each."""
    names = iter(cases[1:-1])
    expected: dict[str, str] = {}

    def next_case(reason: str) -> Case:
        case = next(names)
        expected[case.case_id] = reason
        return case

    case = next_case("truncated")
    case.scan.write_bytes(case.scan.read_bytes()[:-2000])
    case = next_case("missing")
    case.scan.unlink()
    case = next_case("missing")
    assert case.mask is not None
    case.mask.unlink()
    case = next_case("bad-spacing")
    content = nifti_bytes(case)
    content[NIFTI_PIXDIM : NIFTI_PIXDIM + 16] = np.array([1, 0, 0, 0], "<f4").tobytes()
    content[252:256] = bytes(4)  # neither qform nor sform
    case.scan.write_bytes(gzip.compress(bytes(content)))
    case = next_case("nan")
    voxels = np.zeros((8, 8, 8), np.float32)
    voxels[3, 3, 3] = np.nan
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([9.0, 9.0, 9.0, 1])), case.scan)
    case = next_case("bad-dimensions")
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 8, 3), np.int16), np.diag([9.0, 9.0, 9.0, 1])), case.scan)
    case = next_case("too-large")
    content = nifti_bytes(case)
    content[NIFTI_DIM : NIFTI_DIM + 8] = np.array([3, 32000, 32000, 32000], "<i2").tobytes()
    case.scan.write_bytes(gzip.compress(bytes(content)))
    case = next_case("mask-off-grid")
    assert case.mask is not None
    far = np.array([[0, 0, -9.0, 980], [0, -9.0, 0, 180], [-15.0, 0, 0, 225], [0, 0, 0, 1]])
    write_nifti(case.mask, np.ones((30, 40, 40), np.uint8), far)
    return expected


def test_each_bad_case_is_listed_and_stops_no_other(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    listing = make_raw_cohort(10)
    cases = list(listing.cases)
    expected = spoil(cases, tmp_path)
    assert len(expected) == 8
    cases.append(replace(cases[0], case_id="../escape", patient_id="e"))
    cases.append(replace(cases[0], scan=tmp_path / "raw" / "twin.nii.gz"))
    cases.append(replace(cases[0], case_id="labels", patient_id="l", targets=(0, 0, 3, 0, 0)))
    expected |= {"../escape": "bad-case-id", "case_00": "duplicate-id", "labels": "bad-label"}
    summary = run(replace(listing, cases=tuple(cases)), tmp_path / "store")
    rows = rejected_rows(tmp_path / "store")
    assert {case_id: row["reason"] for case_id, row in rows.items()} == expected
    for row in rows.values():
        assert row["path"] or row["case_id"] == "../escape"
        assert len(row["message"]) > 10
    assert rows["case_08"]["message"].startswith(str(cases[8].mask))
    assert summary.prepared == 2
    assert sum(summary.rejected.values()) == 11
    assert summary.rejected["missing"] == 2
    assert summary.passed
    assert [case.case_id for case in Store.open(tmp_path / "store").cases] == ["case_00", "case_09"]


def test_a_case_that_was_mended_leaves_the_list(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    listing = make_raw_cohort(2)
    whole = listing.cases[1].scan.read_bytes()
    listing.cases[1].scan.write_bytes(whole[:3000])
    assert run(listing, tmp_path / "store").rejected == {"truncated": 1}
    listing.cases[1].scan.write_bytes(whole)
    summary = run(listing, tmp_path / "store")
    assert (summary.prepared, summary.skipped, summary.rejected) == (1, 1, {})
    assert rejected_rows(tmp_path / "store") == {}
    assert len(Store.open(tmp_path / "store").cases) == 2


def test_an_unforeseen_error_costs_its_case_alone(
    make_raw_cohort: MakeCohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_once(case: Case, *arguments: Any) -> Any:
        if case.case_id == "case_01":
            raise ZeroDivisionError("slope of zero")
        return prepare_case(case, *arguments)

    monkeypatch.setattr(anatobench.store.prepare, "prepare_case", fail_once)
    summary = run(make_raw_cohort(3), tmp_path / "store")
    assert (summary.prepared, summary.rejected) == (2, {"internal": 1})
    assert rejected_rows(tmp_path / "store")["case_01"]["message"] == "ZeroDivisionError: slope of zero"


def test_nothing_usable_has_not_passed(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    listing = make_raw_cohort(1)
    listing.cases[0].scan.write_bytes(b"not a scan")
    summary = run(listing, tmp_path / "store")
    assert not summary.passed
    assert Store.open(tmp_path / "store").cases == ()


def test_a_disk_that_refuses_stops_the_run(
    make_raw_cohort: MakeCohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk must not turn thousands of good cases into rejected ones."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    listing = make_raw_cohort(2)
    root = tmp_path / "store"
    run(replace(listing, cases=()), root)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(AnatoBenchError, match=r"cannot write .*case_00\.safetensors: No space left.*again"):
            run(listing, root)
        with pytest.raises(AnatoBenchError, match=r"cannot write .*index\.json: No space left.*again"):
            run(replace(listing, cases=()), root)
    assert not list(root.rglob("*.tmp"))
    assert not list((root / "rejected").iterdir())
    assert run(listing, root).prepared == 2


def test_a_second_call_does_only_what_is_missing(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    listing = make_raw_cohort(4)
    root = tmp_path / "store"
    run(replace(listing, cases=listing.cases[:2]), root)
    before = {path: path.stat().st_mtime_ns for path in (root / "cases").iterdir()}
    summary = run(listing, root)
    assert (summary.prepared, summary.skipped, summary.cases_in_store) == (2, 2, 4)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (root / "cases" / "case_02.safetensors").write_bytes(b"cut short")
    summary = run(listing, root)
    assert (summary.prepared, summary.skipped) == (1, 3)
    assert Store.open(root).verify() == []


def test_new_labels_are_taken_over_without_reading_scans(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    listing = make_raw_cohort(2)
    run(listing, tmp_path / "store")
    for case in listing.cases:
        case.scan.unlink()
    changed = replace(listing.cases[0], targets=(1, 1, 1, 1, 1), split="validation")
    summary = run(replace(listing, cases=(changed, listing.cases[1])), tmp_path / "store")
    assert (summary.prepared, summary.relabelled, summary.skipped) == (0, 1, 1)
    store = Store.open(tmp_path / "store")
    assert (store.cases[0].targets, store.cases[0].split) == ((1, 1, 1, 1, 1), "validation")
    assert store.verify() == []


def test_a_mask_that_came_later_is_taken_up(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    listing = make_raw_cohort(1)
    run(replace(listing, cases=(replace(listing.cases[0], mask=None),)), tmp_path / "store")
    assert not Store.open(tmp_path / "store").cases[0].has_mask
    assert run(listing, tmp_path / "store").prepared == 1
    assert Store.open(tmp_path / "store").cases[0].has_mask


def with_masks_in(folder: Path, listing: Listing, offset: int = 0) -> Listing:
    """Return the listing with masks of the same names in `folder`, whose labels are moved by `offset` along W."""
    cases = []
    for case in listing.cases:
        assert case.mask is not None
        mask = read_nifti_mask(case.mask)
        write_nifti(folder / case.mask.name, np.roll(mask.labels, offset, axis=2), mask.affine)
        cases.append(replace(case, mask=folder / case.mask.name))
    return replace(listing, cases=tuple(cases))


def test_masks_of_the_same_names_in_another_folder_are_taken_up(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    root, raw = tmp_path / "store", make_raw_cohort(2)
    first = with_masks_in(tmp_path / "first", raw)
    second = with_masks_in(tmp_path / "second", raw, offset=5)
    assert run(first, root).prepared == 2
    summary = run(second, root)
    assert (summary.prepared, summary.skipped) == (2, 0)
    store = Store.open(root)
    for index, case in enumerate(second.cases):
        _, organs = store.read_crop(index, (0, 0, 0), store.geometry.padded_size)
        np.testing.assert_array_equal(organs, prepare_case(case, second.task, "tiny").organs)
    summary = run(with_masks_in(tmp_path / "moved", raw, offset=5), root)  # a copy, with other times
    assert (summary.prepared, summary.skipped) == (0, 2)
    assert not [name for name, content in contents(root).items() if str(tmp_path).encode() in content]


def test_a_mask_replaced_in_place_is_taken_up(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    listing = make_raw_cohort(2)
    run(listing, tmp_path / "store")
    mask = listing.cases[1].mask
    assert mask is not None
    old = read_nifti_mask(mask)
    write_nifti(mask, np.where(old.labels == 1, 2, old.labels).astype(np.uint8), old.affine)
    summary = run(listing, tmp_path / "store")
    assert (summary.prepared, summary.skipped) == (1, 1)


def test_a_mask_read_by_another_label_map_is_looked_at_again(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    listing = make_raw_cohort(2)
    run(listing, tmp_path / "store")
    other = replace(listing.cases[1], mask_labels="totalsegmentator_v1")
    summary = run(replace(listing, cases=(listing.cases[0], other)), tmp_path / "store")
    assert (summary.skipped, summary.rejected) == (1, {"wrong-mask-labels": 1})
    assert [case.case_id for case in Store.open(tmp_path / "store").cases] == ["case_00"]


def test_a_scan_with_other_metadata_is_prepared_again(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    listing = make_raw_cohort(1)
    affine = np.diag([9.0, 9.0, 15.0, 1.0])

    def prepared(intercept: float, affine: np.ndarray) -> tuple[int, float]:
        header = HeaderOverride(1.0, intercept, affine)
        case = replace(listing.cases[0], mask=None, header=header)
        summary = run(replace(listing, cases=(case,)), tmp_path / "store")
        volume, _ = Store.open(tmp_path / "store").read_crop(0, (0, 0, 0), (48, 64, 64))
        return summary.prepared, float(volume.mean())

    first = prepared(0.0, affine)
    assert prepared(0.0, affine * np.where(affine == 0, -1.0, 1.0)) == (0, first[1])  # negative zeros are zeros
    again, mean = prepared(-300.0, affine)
    assert (first[0], again) == (1, 1)
    assert mean < first[1] - 50


def test_scans_of_the_same_name_elsewhere_are_other_scans(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    """Absolute paths of a manifest lead out of the raw data's folder."""
    listing = make_raw_cohort(2)
    listing = replace(listing, cases=tuple(replace(case, mask=None) for case in listing.cases))
    elsewhere = []
    for case, scan in zip(listing.cases, [case.scan for case in listing.cases[::-1]], strict=True):
        path = tmp_path / "elsewhere" / case.case_id / "scan.nii.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(scan.read_bytes())
        elsewhere.append(replace(case, scan=path))
    moved = [replace(case, scan=other.scan) for case, other in zip(elsewhere, elsewhere[::-1], strict=True)]
    assert run(replace(listing, cases=tuple(elsewhere)), tmp_path / "store").prepared == 2
    assert run(replace(listing, cases=tuple(elsewhere)), tmp_path / "store").skipped == 2
    assert run(replace(listing, cases=tuple(moved)), tmp_path / "store").prepared == 2
    assert run(listing, tmp_path / "clean").prepared == 2
    stores = [Store.open(tmp_path / name) for name in ("store", "clean")]
    assert [case.checksum for case in stores[0].cases] == [case.checksum for case in stores[1].cases]
    assert stores[0].cases[0].source == str(moved[0].scan)


def test_finished_cases_outlive_their_masks(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    listing = make_raw_cohort(1)
    run(listing, tmp_path / "store")
    assert listing.cases[0].mask is not None
    listing.cases[0].mask.unlink()
    assert run(listing, tmp_path / "store").skipped == 1


def test_a_patient_in_two_splits_stops_before_any_work(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    listing = make_raw_cohort(2)
    cases = tuple(replace(case, patient_id="same") for case in listing.cases)
    with pytest.raises(PatientLeakageError, match="same"):
        run(replace(listing, cases=cases), tmp_path / "store")
    assert not (tmp_path / "store").exists()


CASES_TO_INTERRUPT = 40
"""Enough that a fast machine is still at work when the signal comes."""

PREPARE = """
import pickle, sys
from pathlib import Path
from anatobench.store.prepare import prepare
listing, root = pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2])
prepare(listing, root, "tiny", int(sys.argv[3]), dataset="test", raw_root=root.parent / "raw")
"""


def start(listing: Listing, root: Path, workers: int) -> subprocess.Popen[bytes]:
    path = root.parent / "listing.pickle"
    path.write_bytes(pickle.dumps(listing))
    command = [sys.executable, "-c", PREPARE, str(path), str(root), str(workers)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize(("records", "delay", "workers"), [(0, 0.005, 2), (3, 0.003, 0), (6, 0.0, 2)])
def test_a_kill_at_any_moment_loses_nothing(
    make_raw_cohort: MakeCohort, tmp_path: Path, records: int, delay: float, workers: int
) -> None:
    listing = make_raw_cohort(CASES_TO_INTERRUPT)
    run(listing, tmp_path / "clean")
    root = tmp_path / "store"
    process = start(listing, root, workers)
    folder = root / "cases"
    wait_for(lambda: folder.is_dir() and len(list(folder.glob("[!.]*.json"))) >= records, process)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (root / "index.json").exists()
    with pytest.raises(AnatoBenchError, match="again"):
        Store.open(root)
    (folder / ".case_04.safetensors.00c0ffee.tmp").write_bytes(b"half a case")
    done = len(list(folder.glob("[!.]*.json")))
    assert run(listing, root).skipped == done >= records
    assert contents(root) == contents(tmp_path / "clean")


@pytest.mark.slow
def test_an_interrupt_ends_at_once_and_leaves_no_debris(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    listing = make_raw_cohort(CASES_TO_INTERRUPT)
    root = tmp_path / "store"
    process = start(listing, root, 2)
    wait_for(lambda: len(list(root.glob("cases/[!.]*.json"))) >= 1, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    assert errors.count(b"KeyboardInterrupt") == 1  # the parent's own
    assert not list(root.rglob("*.tmp"))
    run(listing, root)
    assert len(Store.open(root).cases) == CASES_TO_INTERRUPT


@pytest.mark.slow
def test_a_second_process_on_the_same_store_stops_at_once(make_raw_cohort: MakeCohort, tmp_path: Path) -> None:
    listing = make_raw_cohort(CASES_TO_INTERRUPT)
    root = tmp_path / "store"
    process = start(listing, root, 0)
    wait_for(lambda: len(list(root.glob("cases/[!.]*.json"))) >= 1, process)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        assert process.poll() is None
        before = contents(root)
        for shard in ((0, 1), (1, 2)):
            with pytest.raises(AnatoBenchError, match="another `anatobench prepare` without --shard is writing here"):
                run(listing, root, shard=shard)
        assert contents(root) == before
    finally:
        os.kill(process.pid, signal.SIGCONT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert run(listing, root).skipped == CASES_TO_INTERRUPT


def test_a_killed_worker_costs_its_case_alone(
    make_raw_cohort: MakeCohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pool(function: Callable[[Any], Any], jobs: list[Any], workers: int, **_: Any) -> Iterator[tuple[Any, Any]]:
        for job in jobs:
            yield job, WorkerDied(-9) if job.case.case_id == "case_01" else function(job)

    monkeypatch.setattr(anatobench.store.prepare, "run_in_workers", pool)
    summary = run(make_raw_cohort(3), tmp_path / "store")
    assert (summary.prepared, summary.rejected) == (2, {"worker-died": 1})
    assert "exit code -9" in rejected_rows(tmp_path / "store")["case_01"]["message"]
