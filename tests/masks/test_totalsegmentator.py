"""The real TotalSegmentator, all the way, with stand-in weights: plumbing, not the quality of masks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scan_files import NO_SHARED_DATA, SHARED_DATA
from stand_in_weights import UNSIDED_STRUCTURES, write_stand_in_weights

from anatobench.cli.main import main
from anatobench.masks import weights
from anatobench.masks.making import SPACING
from anatobench.store.reader import Store
from anatobench.volumes.label_maps import TOTALSEGMENTATOR_V2
from anatobench.volumes.nifti import read_nifti_mask
from anatobench.volumes.read import read_volume
from anatobench.volumes.resample import resample_volume, resampled_grid

pytest.importorskip("totalsegmentator", reason="TotalSegmentator is not installed: make test-masks")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_stand_in_weights(folder)
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a person's home of TotalSegmentator in which usage statistics are on."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.json").write_text(json.dumps({"totalseg_id": "x", "send_usage_stats": True}))
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(home))
    monkeypatch.delenv("TOTALSEG_WEIGHTS_PATH", raising=False)
    return home


def masks(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any], str]:
    """Exit status, figures and what was said."""
    capsys.readouterr()
    status = main(["masks", "--gpus", "0", "--json", *map(str, words)])
    out, errors = capsys.readouterr()
    return status, json.loads(out.splitlines()[-1]) if out else {}, errors


def explained(hounsfield: np.ndarray, labels: np.ndarray) -> float:
    """Share of the variance of HU between the labels: a network's labels follow what it sees."""
    counts = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), weights=hounsfield.ravel())
    means = sums[counts > 0] / counts[counts > 0]
    return float((counts[counts > 0] * (means - hounsfield.mean()) ** 2).sum() / hounsfield.size / hounsfield.var())


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=NO_SHARED_DATA)
def test_real_scans_get_masks_on_their_own_grid(
    random_weights: Path,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(random_weights))
    raw, out = tmp_path / "raw", tmp_path / "masks"
    raw.mkdir()
    (raw / "small.nii.gz").write_bytes((SHARED_DATA / "ct_small.nii.gz").read_bytes())
    (raw / "series").mkdir()
    for path in (SHARED_DATA / "dicom").iterdir():
        (raw / "series" / path.name).write_bytes(path.read_bytes())
    (raw / "broken.nii.gz").write_bytes((SHARED_DATA / "ct_small.nii.gz").read_bytes()[:30000])

    status, figures, said = masks(capsys, "--raw", raw, "--out", out, "--check")
    assert status == 0, said
    assert (figures["made"], figures["rejected"], figures["checked"]) == (2, {"truncated": 1}, 2)
    for name, path in (("small", raw / "small.nii.gz"), ("series", raw / "series")):
        mask, volume = read_nifti_mask(out / f"{name}.nii.gz"), read_volume(path)
        assert mask.names == TOTALSEGMENTATOR_V2
        grid = resampled_grid(volume.grid, SPACING)
        assert mask.grid.size == grid.size
        np.testing.assert_allclose(mask.affine, grid.affine, atol=1e-3)
        hounsfield = np.clip(resample_volume(volume, grid), -1000, 1000).astype(np.float64)
        right = explained(hounsfield, mask.labels)
        turned = [explained(hounsfield, np.flip(mask.labels, axis)) for axis in range(3)]
        assert right > turned[1] + 0.1, "front and back"
        if name == "small":  # the series is a slab of 4 cm that looks much the same from below and mirrored
            assert right > max(turned) + 0.03, (right, turned)
    described = json.loads((out / "masks.json").read_text())
    assert (described["segmenter"], described["task"], described["fast"]) == ("TotalSegmentator", "total", True)
    assert (out / "quality.html").is_file()
    assert json.loads((home / "config.json").read_text()) == {"totalseg_id": "x", "send_usage_stats": True}
    assert masks(capsys, "--raw", raw, "--out", out)[1]["made"] == 0


def test_a_phantom_goes_from_raw_scans_to_a_store(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights_folder = tmp_path / "weights"
    write_stand_in_weights(weights_folder, structures=UNSIDED_STRUCTURES)
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(weights_folder))
    raw, out, store = tmp_path / "raw", tmp_path / "masks", tmp_path / "store"
    phantom = ["phantom", "--format", "rad_chestct", "--size", "tiny", "--cases", "1", "--workers", "1"]
    assert main([*phantom, "--out", str(raw)]) == 0
    status, figures, said = masks(capsys, "--dataset", "rad_chestct", "--raw", raw, "--out", out)
    assert (status, figures.get("made")) == (0, 1), said
    prepare = ["prepare", "--dataset", "rad_chestct", "--size", "tiny", "--workers", "0", "--raw", str(raw)]
    assert main([*prepare, "--masks", str(out), "--store", str(store)]) == 0
    with open(store / "rejected.csv", newline="") as file:
        assert not list(csv.DictReader(file))
    [case] = Store.open(store).cases
    assert case.has_mask
    assert case.mask_source == f"{case.case_id}.nii.gz"


def test_without_weights_and_network_one_line_says_what_to_fetch(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(address: str) -> bytes:
        raise OSError("Name or service not known")

    monkeypatch.setattr(weights, "fetch", no_network)
    monkeypatch.setattr("anatobench.masks.making.read_volume", None)
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "scan.nii.gz").write_bytes(b"is never read")
    status, figures, said = masks(capsys, "--raw", raw, "--out", tmp_path / "masks")
    assert (status, figures, said.count("\n")) == (1, {}, 1)
    name, place = "Dataset297_TotalSegmentator_total_3mm_1559subj", home / "nnunet" / "results"
    for part in ("task 297", f"/{name}.zip where there is network", f"unpack it into {place}, as {place / name}"):
        assert part in said
    assert not (tmp_path / "masks").exists()

    (place / name / weights.MODEL).mkdir(parents=True)
    status, _, said = masks(capsys, "--raw", raw, "--out", tmp_path / "masks")
    assert (status, said.count("\n")) == (1, 1)
    assert "plans.json is missing" in said
