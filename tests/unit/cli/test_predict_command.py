"""`anatobench predict` from the command line."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from kept_checkpoints import begun_run
from matplotlib.pyplot import imread
from numpy_engine import NumpyEngine, use_numpy_engines
from scan_files import turned, write_dicom_series, write_dicom_slice, write_nifti_file
from tiny_store import FINDINGS

from anatobench.cli.main import main
from anatobench.datasets.case import Case
from anatobench.evaluation.predictions import class_probabilities
from anatobench.evaluation.run_evaluation import predict_split
from anatobench.recipes import Recipe
from anatobench.store.prepare import prepare_case
from anatobench.store.reader import Store
from anatobench.store.writer import CaseOrigin, StoreWriter
from anatobench.training.checkpoints import Checkpoint, Progress, save_checkpoint
from anatobench.training.run_folder import RunConfig
from anatobench.volumes.label_names import parse_label_names
from anatobench.volumes.nifti import write_nifti

pytestmark = pytest.mark.usefixtures("workers_begin_at_once")
CONFIG = RunConfig(FINDINGS, "store", "torch", "r3d_18", "tiny", Recipe(seed=5))


@pytest.fixture(autouse=True)
def numpy_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    use_numpy_engines(monkeypatch)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    voxels = (rng.normal(-200, 200, (50, 64, 72)) + np.arange(72) * 5).astype(np.int16)
    affine = np.array([[0, 0, -4.5, 0], [0, -4.0, 0, 0], [-7.0, 0, 0, 0], [0, 0, 0, 1.0]])
    write_nifti(tmp_path / "scan.nii.gz", voxels, affine)
    return tmp_path / "scan.nii.gz"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return begun_run(tmp_path / "run", CONFIG)


def evaluated_logits(scan: Path, root: Path) -> np.ndarray:
    """Return what evaluation says of the same scan, after it went through a store."""
    writer = StoreWriter(root)
    writer.create(FINDINGS, "tiny", "synthetic", {})
    prepared = prepare_case(Case("a", "a", scan, "test", (0, 0)), FINDINGS, "tiny")
    writer.write(CaseOrigin("a", "a", "test", (0, 0), "scan", None), prepared)
    writer.finish()
    return predict_split(NumpyEngine(CONFIG.spec, CONFIG.recipe), Store.open(root), "test", 1).logits


@pytest.mark.slow
def test_a_run_and_its_export_say_what_evaluation_says(
    tmp_path: Path, run: Path, scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = tmp_path / "model.safetensors"
    assert main(["export", str(run), "--to", str(exported)]) == 0
    expected = evaluated_logits(scan, tmp_path / "store")
    for weights in (run, exported):
        assert main(["predict", str(weights), str(scan), "--framework", "torch", "--json"]) == 0
        captured = capsys.readouterr()
        figures = json.loads(captured.out.splitlines()[-1])
        np.testing.assert_array_equal(np.float32(figures["logits"]), expected[0])
        probabilities = class_probabilities(FINDINGS, expected)[0]
        assert list(figures["probabilities"]) == list(FINDINGS.class_names)
        np.testing.assert_allclose(list(figures["probabilities"].values()), probabilities, rtol=1e-12)
        assert "Not calibrated and not for clinical use" in captured.err


@pytest.mark.slow
def test_the_framework_that_is_installed_is_the_default(
    run: Path, scan: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for installed in ("torch", "jax"):
        found = {installed: object()}
        monkeypatch.setattr("importlib.util.find_spec", found.get)
        assert main(["predict", str(run), str(scan), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["framework"] == installed


def predict(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main(["predict", *map(str, words), "--framework", "torch", "--json"]) == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return record


@pytest.mark.slow
def test_calls_follow_the_runs_own_evaluation(
    tmp_path: Path, run: Path, scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = predict(capsys, run, scan)
    assert before["threshold_rule"] == "fixed"
    assert before["calibrated"] is False
    probability = before["probabilities"]["effusion"]
    thresholds = {"calcification": before["probabilities"]["calcification"] + 1e-6, "effusion": probability}
    evaluation = {"thresholds": thresholds, "threshold_rule": "youden", "threshold_split": "test", "step": 3}
    (run / "evaluation_test.json").write_text(json.dumps(evaluation))
    after = predict(capsys, run, scan)
    assert after["probabilities"] == before["probabilities"]
    assert after["threshold_rule"] == "youden"
    assert after["findings"]["effusion"] == {"probability": probability, "threshold": probability, "call": "positive"}
    assert after["findings"]["calcification"]["call"] == "negative"
    assert after["crop"]["seen_mm"] == [288.0, 256.0, 288.0], "no more than there is: the rest is padding"
    assert after["crop"]["scan_mm"] == [350.0, 256.0, 324.0]


@pytest.mark.slow
@pytest.mark.parametrize("axes", ["LPS", "RAS", "SRA"])
def test_overlays_lie_on_the_scans_own_grid(
    tmp_path: Path, run: Path, axes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """However the file's axes run: the engine's organ 1 is what is brighter than 0 HU, here one block."""
    voxels = np.full((50, 64, 72), -500, np.int16)
    voxels[20:30, 10:20, 40:60] = 300
    affine = np.array([[0, 0, -4.5, 160], [0, -4.0, 0, 128], [-7.0, 0, 0, 175], [0, 0, 0, 1.0]])
    scan = write_nifti_file(tmp_path / "scan.nii", *turned(voxels, affine, axes))
    figures = predict(capsys, run, scan, "--overlay", tmp_path / "over", "--attribution", "all", "--out",
                      tmp_path / "out")  # fmt: skip
    original = nibabel.Nifti1Image.from_filename(scan)
    organs = nibabel.Nifti1Image.from_filename(tmp_path / "over" / "organs.nii.gz")
    assert organs.shape == original.shape
    np.testing.assert_allclose(organs.affine, original.affine, atol=1e-5)
    bright, found = np.asarray(original.dataobj) > 0, np.asarray(organs.dataobj) == 1
    assert (bright & found).sum() / (bright | found).sum() > 0.6, "12 mm voxels cannot do better"
    names = parse_label_names(organs.header.extensions[0].get_content())
    assert names == dict(enumerate(FINDINGS.organs, start=1))
    assert list(figures["attribution"]) == ["calcification", "effusion"]
    evidence = nibabel.Nifti1Image.from_filename(figures["attribution"]["effusion"]["values"])
    assert evidence.shape == original.shape
    assert evidence.get_data_dtype() == np.float32
    np.testing.assert_allclose(evidence.affine, original.affine, atol=1e-5)
    for picture in (figures["overlay"]["picture"], figures["attribution"]["effusion"]["picture"]):
        assert imread(picture).shape[0] > 500


@pytest.mark.slow
@pytest.mark.parametrize("tilt", [18.5, -12.0])
def test_overlays_of_a_tilted_gantry_lie_where_every_reader_has_the_slices(
    tmp_path: Path, run: Path, tilt: float, capsys: pytest.CaptureFixture[str]
) -> None:
    angle, marked = np.deg2rad(tilt), (slice(3, 9), slice(8, 16), slice(12, 20))
    column = np.array([0, np.cos(angle), np.sin(angle)])
    voxels = np.full((12, 24, 24), -500, np.int16)
    voxels[marked] = 300
    tags = {"PixelSpacing": [10, 10], "ImageOrientationPatient": [1, 0, 0, *map(float, column)]}
    (tmp_path / "s").mkdir()
    for number, plane in enumerate((voxels + 1024).astype(np.uint16)):
        write_dicom_slice(tmp_path / "s" / f"{number}.dcm", plane, (-120, -120, -20 * number), **tags)
    figures = predict(capsys, run, tmp_path / "s", "--overlay", tmp_path / "over")
    centre = np.array([-120 + 15.5 * 10, *(np.array([-120, 0]) + 11.5 * 10 * column[1:])]) - (0, 0, 20 * 5.5)
    image = nibabel.Nifti1Image.from_filename(figures["overlay"]["labels"])
    affines = [image.get_sform(), image.get_qform()]
    sitk = pytest.importorskip("SimpleITK")
    other = sitk.ReadImage(figures["overlay"]["labels"])
    for affine in affines:
        place = affine @ [*np.argwhere(np.asarray(image.dataobj) == 1).mean(axis=0), 1]
        np.testing.assert_allclose(place[:3] * (-1, -1, 1), centre, atol=6)
        corner = affine @ [*(n - 1 for n in image.shape), 1]
        theirs = other.TransformIndexToPhysicalPoint([n - 1 for n in other.GetSize()])
        np.testing.assert_allclose(corner[:3] * (-1, -1, 1), theirs, atol=1e-3)


@pytest.mark.slow
def test_dicom_and_npz_have_overlays_too(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hounsfield = np.random.default_rng(0).integers(-500, 500, (12, 20, 24)).astype(np.int16)
    series = write_dicom_series(tmp_path / "series", hounsfield)
    np.savez(tmp_path / "scan.npz", ct=hounsfield)
    for scan, spacing in ((series, (1.5, 2.0, 3.0)), (tmp_path / "scan.npz", (0.8, 0.8, 0.8))):
        figures = predict(capsys, run, scan, "--overlay", tmp_path / f"over_{scan.stem}")
        organs = nibabel.Nifti1Image.from_filename(figures["overlay"]["labels"])
        assert organs.shape == (24, 20, 12)
        np.testing.assert_allclose(organs.header.get_zooms(), spacing, rtol=1e-6)


@pytest.fixture
def folder(tmp_path: Path, scan: Path) -> Path:
    """Return two good scans, one of them a DICOM series, a broken one, and what is none."""
    folder = tmp_path / "scans"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.nii.gz").write_bytes(scan.read_bytes())
    (folder / "broken.nii.gz").write_bytes(scan.read_bytes()[:2000])
    write_dicom_series(folder / "series", np.random.default_rng(1).integers(-1000, 300, (4, 8, 8)).astype(np.int16))
    (folder / "notes.txt").write_text("no scan")
    (folder / ".hidden.nii").write_text("no scan")
    return folder


@pytest.mark.slow
def test_a_folder_is_predicted_a_bad_scan_passed_by_and_nothing_done_twice(
    tmp_path: Path, run: Path, scan: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (run, "--batch", folder, "--out", tmp_path / "out", "--attribution", "effusion")
    figures = predict(capsys, *words)
    assert (figures["scans"], figures["predicted"], figures["skipped"]) == (3, 2, 0)
    assert figures["failed"] == {"broken.nii.gz": "truncated"}
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = {row["scan"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["broken.nii.gz", "deep/a.nii.gz", "series"]
    alone = predict(capsys, run, scan)
    assert float(rows["deep/a.nii.gz"]["probability:effusion"]) == alone["probabilities"]["effusion"]
    assert rows["deep/a.nii.gz"]["call:effusion"] == alone["findings"]["effusion"]["call"]
    assert "broken.nii.gz" in rows["broken.nii.gz"]["error"]
    assert (tmp_path / "out" / "deep" / "a.nii.gz" / "attribution_effusion.nii.gz").is_file()

    # Repaired, cut off while it wrote, and called again: only the one that failed is read.
    (folder / "broken.nii.gz").write_bytes(scan.read_bytes())
    with (tmp_path / "out" / "results.jsonl").open("a") as file:
        file.write('{"scan": "cut')
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.nii.gz")}
    figures = predict(capsys, *words)
    again = {p for p in (tmp_path / "out").rglob("*_*.nii.gz") if p.stat().st_mtime_ns != before.get(p)}
    assert {path.parent.name for path in again} == {"broken.nii.gz"}
    assert (figures["predicted"], figures["skipped"], figures["failed"]) == (1, 2, {})
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["scan"] for line in lines) == ["broken.nii.gz", "deep/a.nii.gz", "series"]


@pytest.mark.slow
def test_a_folder_says_what_it_leaves_out_and_a_broken_scan_is_no_end(
    tmp_path: Path, run: Path, scan: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scans"
    write_dicom_series(folder / "broken", np.random.default_rng(1).integers(-1000, 300, (6, 8, 8)), rle=True)
    dataset = pydicom.dcmread(folder / "broken" / "3.dcm")
    header = b"".join(word.to_bytes(4, "little") for word in (2, 64, 3000)) + bytes(52)
    dataset.PixelData = pydicom.encaps.encapsulate([header + b"\x81\x00" * 3000])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(folder / "broken" / "3.dcm")
    (folder / "UPPER.NII.GZ").write_bytes(scan.read_bytes())
    (folder / os.fsdecode(b"caf\xe9.nii.gz")).write_bytes(scan.read_bytes())
    (folder / "other.mha").write_bytes(b"x")
    os.mkfifo(folder / "pipe.nii.gz")
    figures = predict(capfd, run, "--batch", folder, "--out", tmp_path / "out")
    assert (figures["scans"], figures["predicted"], figures["passed_over"]) == (3, 2, 2)
    assert figures["failed"] == {
        "broken": "truncated", "other.mha": "unsupported-format", "pipe.nii.gz": "not-a-file"}  # fmt: skip
    with (tmp_path / "out" / "rejected.csv").open() as file:
        rows = {row["case_id"]: row["reason"] for row in csv.DictReader(file)}
    assert rows == figures["failed"]
    again = predict(capfd, run, "--batch", folder, "--out", tmp_path / "out")
    assert (again["predicted"], again["skipped"], again["failed"]) == (0, 2, figures["failed"])


def test_results_of_other_weights_are_not_mixed(
    tmp_path: Path, run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(run), "--batch", str(folder), "--framework", "torch", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    engine = NumpyEngine(CONFIG.spec, Recipe(seed=6))
    progress = Progress(4, 0, {}, 0, None, "torch", {})
    save_checkpoint(run, Checkpoint(progress, engine.state()))
    capsys.readouterr()
    assert main(words) == 1
    assert "holds results with other weights" in capsys.readouterr().err


def test_a_folder_of_bad_scans_alone_is_a_failure(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.nii").write_bytes(b"x")
    words = ["predict", str(run), "--batch", str(tmp_path / "scans"), "--out", str(tmp_path / "out"), "--framework"]
    assert main([*words, "torch"]) == 1
    assert "1 failed" in capsys.readouterr().out


@pytest.mark.slow
def test_wrong_arguments_are_one_line(
    tmp_path: Path, run: Path, scan: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = tmp_path / "model.safetensors"
    assert main(["export", str(run), "--to", str(exported)]) == 0
    capsys.readouterr()
    (tmp_path / "empty").mkdir()
    for words, status, message in (
        ([run], 2, "either one SCAN, or --batch"),
        ([run, scan, "--batch", folder, "--out", tmp_path / "o"], 2, "either one SCAN, or --batch"),
        ([run, "--batch", folder], 2, "give --out"),
        ([run, scan, "--attribution", "effusion"], 2, "give --out"),
        ([run, scan, "--out", tmp_path / "o"], 2, "nothing to write"),
        ([run, scan, "--out", tmp_path / "o", "--attribution", "fracture"], 2, "choose all, or one of calcification"),
        ([exported, scan, "--overlay", tmp_path / "o"], 2, "an export, which leaves the auxiliary head out"),
        ([run, "--batch", folder, "--out", folder / "o"], 2, "lies in the folder of scans"),
        ([run, "--batch", tmp_path / "empty", "--out", tmp_path / "o"], 1, "holds no scan"),
        ([run, "--batch", tmp_path / "nowhere", "--out", tmp_path / "o"], 1, "no such folder"),
        ([run, "--batch", folder, "--out", run], 1, "not empty and not a folder of results"),
        ([run, scan, "--overlay", scan / "o"], 1, "cannot be written"),
    ):
        assert main(["predict", *map(str, words), "--framework", "torch"]) == status, words
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1, error


def test_a_run_without_the_head_predicts_no_organs(
    tmp_path: Path, scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(CONFIG.recipe, segmentation_weight=0.0)
    run = begun_run(tmp_path / "plain", replace(CONFIG, recipe=recipe))
    words = ["predict", str(run), str(scan), "--framework", "torch", "--overlay", str(tmp_path / "o")]
    assert main(words) == 2
    assert "was trained without the segmentation branch" in capsys.readouterr().err


def test_a_folder_of_nifti_files_is_told_of_batch(
    tmp_path: Path, run: Path, scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    words = ["predict", str(run), str(folder), "--framework", "torch"]
    assert main(words) == 1
    assert "--batch" not in capsys.readouterr().err
    for name in ("a.nii.gz", "b.nii.gz"):
        (folder / name).write_bytes(scan.read_bytes())
    assert main(words) == 1
    told = capsys.readouterr().err.strip()
    assert told.endswith("it holds 2 NIfTI file(s): give one of them, or the folder as --batch FOLDER")


def test_failures_are_one_line(tmp_path: Path, run: Path, scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(scan.read_bytes()[:1000])
    for weights, volume, message in (
        (tmp_path / "nowhere", scan, "no such file or run"),
        (run, tmp_path / "nowhere.nii.gz", "no such file or folder"),
        (run, broken, "broken.nii.gz"),
        (scan, scan, "cannot be read as exported weights"),
    ):
        assert main(["predict", str(weights), str(volume), "--framework", "torch"]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
