"""`anatobench predict` from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy_engine import NumpyEngine, use_numpy_engines
from tiny_store import FINDINGS

from anatobench import scan_prediction
from anatobench.checkpoints import Checkpoint, Progress, save_checkpoint
from anatobench.cli.main import main
from anatobench.datasets.case import Case
from anatobench.evaluation import predict_split
from anatobench.predictions import class_probabilities
from anatobench.prepare import prepare_case
from anatobench.recipes import Recipe
from anatobench.runs import RunConfig, begin_run
from anatobench.store import Store
from anatobench.store_writer import CaseOrigin, StoreWriter
from anatobench.volumes.nifti import write_nifti

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
    begin_run(tmp_path / "run", CONFIG, resume=False)
    engine = NumpyEngine(CONFIG.spec, CONFIG.recipe)
    progress = Progress(3, 0, {}, 0, None, "torch", {})
    save_checkpoint(tmp_path / "run", Checkpoint(progress, engine.weights(), engine.optimizer_state()))
    return tmp_path / "run"


def evaluated_logits(scan: Path, root: Path) -> np.ndarray:
    """What evaluation says of the same scan, after it went through a store."""
    writer = StoreWriter(root)
    writer.create(FINDINGS, "tiny", "synthetic", {})
    prepared = prepare_case(Case("a", "a", scan, "test", (0, 0)), FINDINGS, "tiny")
    writer.write(CaseOrigin("a", "a", "test", (0, 0), "scan", None), prepared)
    writer.finish()
    return predict_split(NumpyEngine(CONFIG.spec, CONFIG.recipe), Store.open(root), "test", 1).logits


def test_a_run_and_its_export_say_what_evaluation_says(tmp_path: Path, run: Path, scan: Path, capsys) -> None:
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


def test_the_framework_that_is_installed_is_the_default(run: Path, scan: Path, capsys, monkeypatch) -> None:
    for installed in ("torch", "jax"):
        found = {installed: object()}
        monkeypatch.setattr(scan_prediction.importlib.util, "find_spec", found.get)
        assert main(["predict", str(run), str(scan), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["framework"] == installed


def test_failures_are_one_line(tmp_path: Path, run: Path, scan: Path, capsys) -> None:
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
