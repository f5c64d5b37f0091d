"""The preparation benchmark: its statistics, and that the contestants it times do the same work."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scan_files import AFFINE, turned, write_nifti_file

from anatobench.volumes.volume import Grid

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


prepare_scan = load(BENCHMARKS / "prepare_scan.py")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    d, h, w = np.indices((20, 40, 44))
    voxels = np.where((h - 20) ** 2 + (w - 22) ** 2 < 250, 40 + 5 * d + 3 * w, -1000).astype(np.int16)
    return write_nifti_file(tmp_path / "scan.nii.gz", *turned(voxels, AFFINE, "LAS"))


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    labels = np.zeros((20, 40, 44), np.uint8)
    labels[5:15, 12:28, 10:26] = 5
    return write_nifti_file(tmp_path / "mask.nii.gz", *turned(labels, AFFINE, "RAS"))


@pytest.mark.parametrize(
    ("name", "package"), [("simpleitk", "SimpleITK"), pytest.param("monai", "monai", marks=pytest.mark.slow)]
)
@pytest.mark.filterwarnings("ignore")  # of the peers' own imports
def test_peers_do_the_same_work(name: str, package: str, scan: Path, mask: Path) -> None:
    pytest.importorskip(package)
    peer = load(BENCHMARKS / "peers" / f"prepare_scan_{name}.py")
    peer.use_one_thread()
    theirs = peer.prepare(scan, mask, prepare_scan.SPACING)
    found = prepare_scan.disagreement(scan, mask, theirs)
    assert found["mean_abs_hu_in_body"] < 1
    assert found["other_labels_share"] < 0.1  # ties between two nearest voxels go either way
    np.testing.assert_allclose(found["spacing"], prepare_scan.SPACING, atol=1e-4)
    ours = prepare_scan.prepare_ours(scan, mask, prepare_scan.SPACING)
    assert np.abs(np.array(ours[2].size) - theirs[2].size).max() <= 1


def test_disagreement_is_seen(scan: Path, mask: Path) -> None:
    voxels, labels, grid = prepare_scan.prepare_ours(scan, mask, prepare_scan.SPACING)
    same = prepare_scan.disagreement(scan, mask, (voxels, labels, grid))
    assert same["mean_abs_hu_in_body"] == 0
    assert same["other_labels_share"] == 0
    mirrored = prepare_scan.disagreement(scan, mask, (voxels[:, :, ::-1], labels[:, :, ::-1], grid))
    assert mirrored["mean_abs_hu_in_body"] > 20
    assert mirrored["other_labels_share"] > 0.05


def test_the_ratio_is_that_of_the_medians_and_lies_in_its_interval() -> None:
    rng = np.random.default_rng(0)
    load_of_the_machine = rng.uniform(1, 3, 40)  # the same in a round for both, so it cancels
    ours, theirs = 0.5 * load_of_the_machine, 2.0 * load_of_the_machine
    found = prepare_scan.ratio_with_interval(theirs, ours)
    assert found["ratio"] == pytest.approx(4)
    assert found["ci95"] == [pytest.approx(4), pytest.approx(4)]
    noisy = theirs * rng.uniform(0.8, 1.2, 40)
    found = prepare_scan.ratio_with_interval(noisy, ours)
    low, high = found["ci95"]
    assert low < found["ratio"] < high
    assert high - low > 0.1


def test_rounds_go_in_turns_and_the_first_does_not_count(scan: Path) -> None:
    calls: list[str] = []

    def contestant(name: str) -> object:
        def prepare(*_: object) -> tuple[np.ndarray, None, Grid]:
            calls.append(name)
            return np.zeros((1, 1, 1)), None, Grid((1, 1, 1), AFFINE)

        return prepare_scan.Contestant(name, "1", prepare)

    seconds = prepare_scan.measure([contestant("a"), contestant("b")], scan, None, 3)
    assert calls == ["a", "b"] * 4
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_the_record_is_written(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = prepare_scan.Contestant(prepare_scan.OURS, "1", prepare_scan.prepare_ours)
    monkeypatch.setattr(
        prepare_scan, "contestants", lambda: [ours, prepare_scan.Contestant("again", "1", prepare_scan.prepare_ours)]
    )
    out = tmp_path / "records" / "prepare.json"
    assert prepare_scan.main(["--scan", str(scan), "--repeat", "2", "--json", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert record == json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["name"] == "prepare_scan"
    assert record["results"]["again"]["mean_abs_hu_in_body"] == 0
    assert len(record["results"]["anatobench"]["seconds"]) == 2
    assert record["cpu"]
