"""An own cohort from manifest to report in both frameworks: grades, weights, augmentation, and no mask called one."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from scan_files import AFFINE, body_voxels, turned, write_nifti_file
from stopped_runs import stopping_before

from anatobench.cli.main import main
from anatobench.store.batch import Batch
from anatobench.store.reader import Store
from anatobench.training.metrics_records import read_records
from anatobench.training.run_folder import CONFIG_FILE, configure
from jax_impl.engine import JaxEngine
from torch_ref.engine import TorchEngine

GRADES = ("--grades", "liver=healthy:1,low:2,high:4", "--spacing", "3,2,1.5", "--crop", "12,20,24")
AUGMENTED = [word for name, by in (("rotation", 10), ("scaling", 10), ("noise", 20), ("shift", 20))
             for word in ("--set", f"augment_{name}={by}")]  # fmt: skip
ROWS = [
    "s0.nii.gz,train,healthy,1,", "s1.nii.gz,train,low,0,2.5", "s2.nii.gz,train,high,1,", "s3.nii.gz,train,,0,0.5",
    "s4.nii.gz,test,healthy,0,", "s5.nii.gz,test,low,1,", "s6.nii.gz,test,high,0,", "s7.nii.gz,test,healthy,1,",
]  # fmt: skip
HEADER = "scan,split,label:liver,label:effusion,weight"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return eight scans without masks and their manifest."""
    folder = tmp_path_factory.mktemp("cohort")
    for number in range(8):
        write_nifti_file(folder / f"s{number}.nii.gz", *turned(body_voxels(seed=number), AFFINE, "RAS"))
    (folder / "manifest.csv").write_text("\n".join((HEADER, *ROWS)) + "\n")
    return folder


def prepare(raw: Path, store: Path, *more: str, csv_name: str = "manifest.csv") -> int:
    words = ["prepare", "--dataset", "manifest", "--raw", str(raw), "--csv", csv_name, "--anatomy", "abdomen"]
    return main([*words, "--size", "tiny", "--store", str(store), "--workers", "0", *GRADES, *more])


@pytest.fixture(scope="module")
def store(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prepared") / "store"
    assert prepare(raw, path) == 0
    return path


def train(store: Path, run: Path, framework: str, *more: str) -> int:
    words = ["train", "--task", "manifest", "--store", str(store), "--model", "r3d_18", "--framework", framework]
    return main([*words, "--out", str(run), "--set", "batch_size=2", "--no-seg", *more])


def steps_of(run: Path) -> list[dict[str, Any]]:
    return [record for record in read_records(run) if record["kind"] == "step"]


def digests(run: Path) -> list[str]:
    return [record["batch_digest"] for record in steps_of(run)]


@pytest.fixture(scope="module")
def runs(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a run of each framework, from the same weights, evaluated."""
    folder = tmp_path_factory.mktemp("runs")
    found = {framework: folder / framework for framework in ("torch", "jax")}
    weights = ("--initial-weights", str(found["torch"] / "initial.safetensors"))
    for framework, run in found.items():
        same = () if framework == "torch" else weights
        assert train(store, run, framework, "--steps", "4", *same) == 0
        assert main(["evaluate", str(run)]) == 0
    return found


@pytest.mark.slow
def test_both_frameworks_weigh_the_same_scans_alike(runs: dict[str, Path], store: Path) -> None:
    cases = Store.open(store).cases
    assert {case.case_id: case.weight for case in cases if case.weight != 1} == {"s1": 2.5, "s3": 0.5}
    assert digests(runs["torch"]) == digests(runs["jax"])
    one, other = (steps_of(runs[name])[0] for name in ("torch", "jax"))
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)  # of the first step: batches of two part soon


@pytest.mark.slow
def test_predictions_metrics_and_report_show_the_grades(runs: dict[str, Path], tmp_path: Path) -> None:
    columns = ["liver_healthy", "liver_low", "liver_high", "effusion_absent", "effusion_present"]
    for run in runs.values():
        with open(run / "predictions_test.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        logits = [f"logit:{name}" for name in ("liver_healthy", "liver_low", "liver_high", "effusion")]
        assert list(rows[0]) == ["case_id", "patient_id", *logits, "target:liver", "target:effusion"]
        assert [row["target:liver"] for row in rows] == ["0", "1", "2", "0"]
        evaluation = json.loads((run / "evaluation_test.json").read_text())
        assert set(columns) <= evaluation["auc"].keys()
    assert main(["report", *map(str, runs.values()), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert all(name.replace("_", " ") in page for name in columns)


def test_a_weight_of_one_everywhere_is_no_weight(raw: Path, tmp_path: Path) -> None:
    """The same store to the byte: what is trained on it cannot differ."""
    plain = [row.rpartition(",")[0] for row in ROWS]
    (raw / "plain.csv").write_text("\n".join((HEADER.rpartition(",")[0], *plain)) + "\n")
    (raw / "ones.csv").write_text("\n".join((HEADER, *(f"{row},{'1.0' if n % 2 else ''}" for n, row in
                                                        enumerate(plain)))) + "\n")  # fmt: skip
    for name in ("plain", "ones"):
        assert prepare(raw, tmp_path / name, csv_name=f"{name}.csv") == 0
    files = [path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*") if path.is_file()]
    described = [json.loads((tmp_path / name / "store.json").read_text()) for name in ("plain", "ones")]
    assert described[0]["task"] == described[1]["task"]
    for file in files:
        if file.name != "store.json":  # which names the table
            assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "ones" / file).read_bytes()


def test_another_table_is_named_beside_the_first(store: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (raw / "other.csv").write_bytes((raw / "manifest.csv").read_bytes())
    assert prepare(raw, store, csv_name="other.csv") == 1
    assert 'was prepared with options csv "manifest.csv", not "other.csv": give' in capsys.readouterr().err


def test_other_weights_are_another_store(
    store: Path, raw: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    capsys.readouterr()
    assert prepare(raw, store, "--weights", "balanced") != 0
    assert "liver' have weights already" in capsys.readouterr().err
    words = ["prepare", "--dataset", "manifest", "--raw", str(raw), "--anatomy", "abdomen", "--store", str(store)]
    words += ["--size", "tiny", "--spacing", "3,2,1.5", "--crop", "12,20,24", "--grades", "liver=healthy,low,high"]
    assert main(words) == 1
    assert "was prepared with another task (groups)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["prepare", "--store", str(tmp_path), "--grades", "liver"])
    assert "liver=healthy:1,low:2,high:4" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_both_frameworks_are_handed_the_same_augmented_bytes(
    store: Path, runs: dict[str, Path], tmp_path: Path, workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By seed and step alone: whatever the framework, the threads that read ahead, and a stop in the middle."""
    handed: dict[str, dict[int, str]] = {"torch": {}, "jax": {}}

    def noting(framework: str, engine: Any) -> None:
        right = engine.train_step

        def take(self: Any, batch: Batch, rate: float, step: int, *rest: Any) -> Any:
            assert handed[framework].setdefault(step, batch.digest()) == batch.digest()
            return right(self, batch, rate, step, *rest)

        monkeypatch.setattr(engine, "train_step", take)

    noting("torch", TorchEngine)
    noting("jax", JaxEngine)
    on = ("--steps", "4", "--workers", workers, *AUGMENTED)
    assert train(store, tmp_path / "torch", "torch", *on) == 0
    with monkeypatch.context() as stopped:
        stopped.setattr(JaxEngine, "train_step", stopping_before(2, JaxEngine.train_step))
        assert train(store, tmp_path / "jax", "jax", *on) == 130
    assert 0 < len(handed["jax"]) < 4, "stopped in the middle"
    assert train(store, tmp_path / "jax", "jax", *on, "--resume") == 0
    assert handed["torch"] == handed["jax"]
    assert len(set(handed["torch"].values())) == 4
    assert list(handed["torch"].values()) == digests(tmp_path / "torch") == digests(tmp_path / "jax")
    assert not set(digests(tmp_path / "torch")) & set(digests(runs["torch"])), "off, the bytes are others"


@pytest.mark.slow
def test_another_seed_is_another_augmentation(store: Path, tmp_path: Path) -> None:
    told = {}
    for seed in ("0", "1"):
        run = tmp_path / seed
        assert train(store, run, "torch", "--steps", "2", "--set", f"seed={seed}", *AUGMENTED) == 0
        told[seed] = set(digests(run))
    assert not told["0"] & told["1"]


@pytest.mark.slow
def test_without_a_mask_nothing_is_called_supervised(
    store: Path, tmp_path: Path, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--task", "manifest", "--store", str(store), "--model", "r3d_18", "--framework", "torch"]
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "run"), "--set", "batch_size=2", "--steps", "1"]) == 2
    said = capsys.readouterr().err
    assert "none of the 4 training cases has an organ mask" in said
    assert "--no-seg" in said
    assert not (tmp_path / "run").exists()
    (tmp_path / "grid").mkdir()  # as an experiment leaves what it is to train, which `train --resume` begins
    config = configure(store, "r3d_18", "torch", ["batch_size=2"], max_steps=1)
    config.write(tmp_path / "grid" / CONFIG_FILE)
    words = ["train", "--config", str(tmp_path / "grid" / CONFIG_FILE), "--out", str(tmp_path / "grid"), "--resume"]
    assert main(words) == 2
    assert "none of the 4 training cases has an organ mask" in capsys.readouterr().err
    assert train(store, tmp_path / "run", "torch", "--steps", "1") == 0
    assert "without segmentation supervision" in capsys.readouterr().err
    told = json.loads((tmp_path / "run" / CONFIG_FILE).read_text())
    assert told["segmentation"] is False
    assert told["recipe"]["segmentation_weight"] == 0
    assert main(["report", str(runs["torch"]), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "without segmentation" in page
    assert "with segmentation" not in page
