"""Disks that are full or read-only, under every command that writes: one line, and afterwards nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_engine import Measured, NumpyEngine, use_numpy_engines
from safetensors.numpy import load_file
from small_disk import FULL, READ_ONLY, Disk, small_disk
from tiny_store import FINDINGS, write_store

from anatobench.cli.main import main
from anatobench.errors import AnatoBenchError
from anatobench.store.batch import Batch
from anatobench.training.metrics_log import MetricsLog
from anatobench.volumes.nifti import write_nifti

DISK_BYTES = 16 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk", DISK_BYTES) as found:
        yield found


@pytest.fixture(autouse=True)
def numpy_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    use_numpy_engines(monkeypatch)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store, a run that was evaluated, a scan and a raw cohort, on a disk that takes everything."""
    folder = tmp_path_factory.mktemp("material")
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_numpy_engines(monkeypatch)
        write_store(folder / "store")
        assert main(train_words(folder, folder / "run")) == 0
        assert main(["evaluate", str(folder / "run")]) == 0
    voxels = np.full((50, 64, 72), -1000, np.int16)  # air, and in it a body with a lung
    voxels[:, 10:54, 10:62] = np.random.default_rng(0).normal(40, 20, (50, 44, 52))
    voxels[5:40, 20:44, 18:32] = -850
    affine = np.array([[0, 0, -4.5, 0], [0, -4.0, 0, 0], [-7.0, 0, 0, 0], [0, 0, 0, 1.0]])
    write_nifti(folder / "scans" / "scan.nii.gz", voxels, affine)
    (folder / "scans" / "manifest.csv").write_text("scan,split,label:a\nscan.nii.gz,train,1\n")
    return folder


def train_words(material: Path, run: Path, epochs: int = 2) -> list[str]:
    return ["train", "--task", FINDINGS.name, "--store", str(material / "store"), "--model", "r3d_18",
            "--framework", "torch", "--epochs", str(epochs), "--set", "batch_size=2", "--out", str(run)]  # fmt: skip


def words_of(command: str, material: Path, root: Path) -> list[str]:
    """Return the command with its output on the disk at `root`; what it reads of a run lies there, too, where it writes
    beside it."""
    run, scans = root / "run", material / "scans"
    return {
        "phantom": ["phantom", "--format", "rad_chestct", "--size", "tiny", "--cases", "2", "--workers", "1",
                    "--out", str(root / "cohort")],
        "phantom dicom": ["phantom", "--format", "ratic", "--size", "tiny", "--cases", "1", "--workers", "2",
                          "--out", str(root / "cohort")],
        "prepare": ["prepare", "--dataset", "manifest", "--anatomy", "chest", "--raw", str(scans), "--size", "tiny",
                    "--workers", "0", "--store", str(root / "store")],
        "train": train_words(material, root / "new"),
        "train --resume": ["train", "--out", str(run), "--resume"],
        "evaluate": ["evaluate", str(run)],
        "report": ["report", str(material / "run"), "--out", str(root / "report.html")],
        "export": ["export", str(material / "run"), "--to", str(root / "model.safetensors")],
        "predict": ["predict", str(material / "run"), str(scans / "scan.nii.gz"), "--framework", "torch",
                    "--attribution", "effusion", "--out", str(root / "seen")],
        "predict --batch": ["predict", str(material / "run"), "--batch", str(scans), "--framework", "torch",
                            "--out", str(root / "results")],
    }[command]  # fmt: skip


COMMANDS = ("phantom", "phantom dicom", "prepare", "train", "train --resume", "evaluate", "report", "export", "predict",
            "predict --batch")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("reason", [FULL, READ_ONLY])
@pytest.mark.parametrize("command", COMMANDS)
def test_one_line_and_the_same_call_does_it_afterwards(
    disk: Disk, material: Path, command: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(material / "run", disk.root / "run")
    words = words_of(command, material, disk.root)
    before = {path: path.read_bytes() for path in (disk.root / "run").rglob("*") if path.is_file()}
    disk.refuse(reason)
    capsys.readouterr()
    assert main(words) == 1
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith(f"anatobench {words[0]}: ")
    assert reason in last
    disk.accept()
    lost = [path for path, content in before.items() if not path.read_bytes().startswith(content)]
    assert lost == []
    assert main(words) == 0
    assert not [path for path in disk.root.rglob(".*.tmp") if path.is_file()]


@pytest.mark.parametrize("reason", [FULL, READ_ONLY])
@pytest.mark.parametrize("words", [["demo"], ["experiments", "auc"]])
def test_those_that_call_other_commands_end_in_one_line(
    disk: Disk, words: list[str], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Or in two, where it is a command they called that said the reason."""
    disk.refuse(reason)
    assert main([*words, "--out", str(disk.root / "all")]) == 1
    said = capfd.readouterr().err
    assert reason in said
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith(f"anatobench {words[0]}: ")


@pytest.mark.slow
def test_a_disk_that_fills_while_it_trains_costs_no_step(
    disk: Disk, material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    take_step, words = NumpyEngine.train_step, train_words(material, disk.root / "new", 40)

    def fill_and_take(self: NumpyEngine, batch: Batch, rate: float, step: int, *rest: Any) -> Measured:
        if step == 9:
            disk.refuse(FULL)
        return take_step(self, batch, rate, step, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(NumpyEngine, "train_step", fill_and_take)
        assert main(words) == 1
    assert FULL in capsys.readouterr().err.strip().splitlines()[-1]
    disk.accept()
    assert main([*words, "--resume"]) == 0
    assert main(train_words(material, material / "undisturbed", 40)) == 0
    one, other = (load_file(next((run / "checkpoints").glob("step_00000160/model.safetensors")))
                  for run in (disk.root / "new", material / "undisturbed"))  # fmt: skip
    assert {name: array.tobytes() for name, array in one.items()} == {n: a.tobytes() for n, a in other.items()}
    logged = [(run / "metrics.jsonl").read_text().count('"kind": "step"')
              for run in (disk.root / "new", material / "undisturbed")]  # fmt: skip
    assert logged == [160, 160]


@pytest.mark.parametrize("written", ["metrics.jsonl", "tensorboard"])
def test_a_log_on_a_full_disk_names_its_file(tmp_path: Path, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a disk of one's own: `/dev/full` takes nothing."""
    log = MetricsLog(tmp_path, 0, 0)
    full = open("/dev/full", "w" if written == "metrics.jsonl" else "wb", buffering=-1)  # noqa: SIM115
    if written == "metrics.jsonl":
        log._file.close()
        monkeypatch.setattr(log, "_file", full)
    else:
        log._events.close()
        monkeypatch.setattr(log, "_events", full)
        log._records._writer = full
    with pytest.raises(AnatoBenchError, match=r"metrics\.jsonl: cannot be written \(No space left.*resume"):
        log.step({"kind": "step", "step": 1, "loss": 1.0})
    with pytest.raises(AnatoBenchError, match="No space left"):
        log.close()
    assert log._file.closed
    assert log._events.closed


EXPORT = "import sys; from anatobench.cli.main import main; sys.exit(main(sys.argv[1:]))"


def exported(
    material: Path, tmp_path: Path, redirect: Callable[[], dict[str, object]]
) -> subprocess.CompletedProcess[str]:
    words = ["export", str(material / "run"), "--to", str(tmp_path / "model.safetensors"), "--json"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **redirect()}
    command = [sys.executable, "-c", EXPORT, *words]
    ended: subprocess.CompletedProcess[str] = subprocess.run(command, text=True, **streams)  # type: ignore[call-overload]
    return ended


def test_figures_on_a_full_device(material: Path, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        ended = exported(material, tmp_path, lambda: {"stdout": full})
        assert ended.returncode == 1
        *_, last = ended.stderr.strip().splitlines()
        assert last.startswith(f"anatobench export: standard output cannot be written ({FULL})")
        assert "Exception ignored" not in ended.stderr
        assert (tmp_path / "model.safetensors").is_file()
        assert exported(material, tmp_path, lambda: {"stdout": full, "stderr": full}).returncode == 1


def test_a_reader_that_has_gone_is_no_fault_to_talk_about(material: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = exported(material, tmp_path, lambda: {"stdout": writing})
    finally:
        os.close(writing)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
