"""Exported files where they are promised to load: in stock torchvision, by the page of the docs and nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save
from tiny_store import FINDINGS

from anatobench.cli.main import main
from anatobench.engine import Arrays, is_unread, load_engine
from anatobench.prediction.exported_model import export_run, read_exported
from anatobench.recipes import MODELS, Recipe
from anatobench.tasks import RATIC, Geometry, Task
from anatobench.training.checkpoints import Checkpoint, Progress, save_checkpoint
from anatobench.training.run_folder import RunConfig, begin_run
from anatobench.volumes.nifti import write_nifti

pytestmark = pytest.mark.usefixtures("workers_begin_at_once")
PAGE = Path(__file__).parents[3] / "docs" / "exported_models.md"
SMALLER = Geometry((6.0, 4.5, 4.5), (50, 70, 90), (48, 64, 80))
"""A fourteenth of the paper's voxels, no axis like another: the scan below is cut along the first and padded along the
others, Swin's windows are padded, shifted and, at the end, shrunk."""
TASKS_OF_TEST = {
    model: replace(task, own_geometry=SMALLER)
    for model, task in {"r3d_18": RATIC, "mvit_v2_s": FINDINGS, "swin3d_t": FINDINGS}.items()
}
WRITER = Progress(1, 0, {}, 0, None, "torch", {})


def write_run(folder: Path, model: str, size: str, task: Task) -> tuple[Path, Arrays]:
    """Return a run whose one checkpoint holds drawn weights, the classifier's strong enough to tell scans apart."""
    config = RunConfig(task, "store", "torch", model, size, Recipe(seed=5))
    begin_run(folder, config, resume=False)
    weights = load_engine("torch", config.spec, config.recipe).weights()
    last = [name for name in weights if name.startswith(("fc.", "head.")) and name.endswith("weight")]
    weights |= {name: weights[name] * 5 for name in last}
    save_checkpoint(folder, Checkpoint(WRITER, {"model": weights, "optimizer": {}}))
    return folder, weights


def write_scan(path: Path) -> Path:
    """HU of tissue in air; axes turned, spacing neither the model's nor a simple fraction of it."""
    rng = np.random.default_rng(0)
    voxels = rng.normal(-100, 150, (70, 160, 150)) + np.arange(150) * 2
    voxels[:, :30] = -1000
    affine = np.array([[0, 0, 2.3, 20.0], [0, -1.9, 0, 90], [-4.7, 0, 0, 3], [0, 0, 0, 1.0]])
    write_nifti(path, voxels.astype(np.int16), affine)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_the_page_of_the_docs_gives_what_predict_gives(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("SimpleITK")
    pytest.importorskip("torchvision")
    run, _ = write_run(tmp_path / "run", model, "full", TASKS_OF_TEST[model])
    exported, scan = tmp_path / "model.safetensors", write_scan(tmp_path / "scan.nii.gz")
    assert main(["export", str(run), "--to", str(exported)]) == 0
    page: dict[str, Any] = {}
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code is not None
    exec(code[1], page)
    found = page["predict"](str(exported), str(scan))
    assert main(["predict", str(run), str(scan), "--framework", "torch", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out.splitlines()[-1])["probabilities"]
    assert list(found) == list(expected)
    assert np.ptp(list(expected.values())) > 0.01, "probabilities that are all alike would prove nothing"
    difference = max(abs(found[name] - expected[name]) for name in expected)
    assert difference < 1e-4


@pytest.mark.parametrize("model", MODELS)
def test_the_same_run_gives_the_same_bytes_and_the_metadata_says_all(model: str, tmp_path: Path) -> None:
    run, weights = write_run(tmp_path / "run", model, "tiny", FINDINGS)
    path = tmp_path / "model.safetensors"
    contents = set()
    for _ in range(8):  # an order that is drawn each time would have to be the same eight times
        export_run(run, path)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    with safe_open(path, framework="numpy") as file:
        about = file.metadata()
    assert json.loads(about["spacing_mm"]) == [12.0, 6.0, 6.0]
    assert json.loads(about["padded_size"]) == [30, 60, 60]
    assert json.loads(about["crop_size"]) == [24, 48, 48]
    assert json.loads(about["window_hu"]) == [-1000.0, 200.0]
    assert json.loads(about["outputs"]) == ["calcification", "effusion"]
    assert "superior" in about["axes"]
    assert ("class token" in about["pooling"]) == (model == "mvit_v2_s")
    read = read_exported(path).weights
    assert not [name for name in read if is_unread(name)]
    for name, array in read.items():
        np.testing.assert_array_equal(array, weights[name])


def test_files_of_older_versions_open(tmp_path: Path) -> None:
    """They say model, size and task only, and have no buffers."""
    run, _ = write_run(tmp_path / "run", "swin3d_t", "tiny", FINDINGS)
    export_run(run, tmp_path / "new.safetensors")
    arrays = {n: a for n, a in load_file(tmp_path / "new.safetensors").items() if not is_unread(n)}
    old = {"format": "pt", "model": "swin3d_t", "size": "tiny", "task": json.dumps(FINDINGS.to_json())}
    (tmp_path / "old.safetensors").write_bytes(save(arrays, metadata=old))
    opened, new = read_exported(tmp_path / "old.safetensors"), read_exported(tmp_path / "new.safetensors")
    assert opened.spec == new.spec
    load_engine("torch", opened.spec, Recipe()).load_weights(opened.weights)


def test_the_index_of_windows_is_torchvisions(tmp_path: Path) -> None:
    """A strict load would take any array of the right shape."""
    engine = pytest.importorskip("torchvision.models.video.swin_transformer")
    run, _ = write_run(tmp_path / "run", "swin3d_t", "tiny", FINDINGS)
    export_run(run, tmp_path / "model.safetensors")
    index = load_file(tmp_path / "model.safetensors")["features.2.1.attn.relative_position_index"]
    layer = engine.ShiftedWindowAttention3d(8, [8, 5, 5], [0, 0, 0], 1)
    np.testing.assert_array_equal(index, layer.relative_position_index.numpy())
    assert index.dtype == np.int64
