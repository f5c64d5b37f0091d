"""`anatobench export` from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from kept_checkpoints import begun_run
from numpy_engine import NumpyEngine
from safetensors import safe_open
from safetensors.numpy import load_file
from tiny_store import FINDINGS

from anatobench.cli.main import main
from anatobench.errors import AnatoBenchError
from anatobench.objectives.heads import CLASSIFIER
from anatobench.prediction.exported_model import read_exported
from anatobench.recipes import Recipe
from anatobench.tasks import Task
from anatobench.training.run_folder import RunConfig

CONFIG = RunConfig(FINDINGS, "store", "torch", "r3d_18", "tiny", Recipe(seed=5))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return begun_run(tmp_path / "run", CONFIG)


def test_one_file_with_the_weights_without_the_head_and_all_about_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "deep" / "model.safetensors"
    assert main(["export", str(run), "--to", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == path.stat().st_size
    weights, trained = load_file(path), NumpyEngine(CONFIG.spec, CONFIG.recipe).weights()
    assert set(weights) == {"fc.weight", "fc.bias"}
    for name, array in weights.items():
        np.testing.assert_array_equal(array, trained[name])
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert (metadata["model"], metadata["size"], metadata["format"]) == ("r3d_18", "tiny", "pt")
    assert Task.from_json(json.loads(metadata["task"])) == FINDINGS
    model = read_exported(path)
    assert model.spec.task == FINDINGS
    assert model.spec.crop_size == (24, 48, 48)
    assert model.spec.heads == (CLASSIFIER,)


def test_all_that_training_goes_on_from(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "state.safetensors"
    assert main(["export", str(run), "--state", "--to", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["step"], said["trees"], said["bytes"]) == (3, ["model", "optimizer"], path.stat().st_size)
    expected = NumpyEngine(CONFIG.spec, CONFIG.recipe).state()
    found = load_file(path)
    assert set(found) == {f"{tree}/{name}" for tree, arrays in expected.items() for name in arrays}
    for tree, arrays in expected.items():
        for name, array in arrays.items():
            assert found[f"{tree}/{name}"].tobytes() == array.tobytes()
    first = path.read_bytes()
    assert main(["export", str(run), "--state", "--to", str(path)]) == 0
    assert path.read_bytes() == first


def test_failures(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--to", "model.pt"]) == 2
    assert ".safetensors" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "nowhere"), "--to", str(tmp_path / "a.safetensors")]) == 1
    assert "no run here" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["export", str(run), "--to", str(tmp_path / "file" / "a.safetensors")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_files_that_are_no_export_are_named(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(AnatoBenchError, match="cannot be read"):
        read_exported(path)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(AnatoBenchError, match="cannot be read"):
        read_exported(path)
    weights = run / "checkpoints" / "step_00000003" / "model.safetensors"  # no metadata about the model
    with pytest.raises(AnatoBenchError, match="does not say model"):
        read_exported(weights)
