"""Disks that are full or read-only, under `masks`, `experiments grid`, `parity` and `bench`: one line each."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_disk import FULL, READ_ONLY, Disk, small_disk
from stand_in_segmenter import ThresholdSegmenter
from tiny_store import write_store

from anatobench.cli import masks as masks_command
from anatobench.cli import parity as parity_command
from anatobench.cli.main import main
from anatobench.masks import weights
from anatobench.system.worker_pool import WorkerPlace
from anatobench.tasks import RATIC
from anatobench.volumes.nifti import write_nifti

BOTH = pytest.mark.parametrize("reason", [FULL, READ_ONLY])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk", 8 << 20) as found:
        yield found


def refused_in_one_line(words: Sequence[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    *_, last = said.strip().splitlines()
    assert last.startswith(f"anatobench {words[0]}: ")
    assert reason in last


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    rng, folder = np.random.default_rng(0), tmp_path / "scans"
    affine = np.array([[0, 0, -4.5, 0], [0, -4.0, 0, 0], [-7.0, 0, 0, 0], [0, 0, 0, 1.0]])
    for name in ("a", "b"):
        write_nifti(folder / f"{name}.nii.gz", rng.normal(-200, 200, (30, 40, 40)).astype(np.int16), affine)
    return folder


@pytest.fixture
def segmenter_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "find_or_download", lambda: SimpleNamespace(version="0"))
    monkeypatch.setattr(weights, "check_digest", lambda found: None)
    monkeypatch.setattr(masks_command, "TotalSegmentator", lambda *_: ThresholdSegmenter())
    monkeypatch.setattr(masks_command, "worker_places", lambda *_: [WorkerPlace({}, starts_processes=True)])


@pytest.mark.slow
@BOTH
def test_masks(
    disk: Disk, scans: Path, reason: str, segmenter_without_a_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["masks", "--raw", str(scans), "--out", str(disk.root / "masks"), "--gpus", "0"]
    disk.refuse(reason)
    refused_in_one_line(words, reason, capsys)
    disk.accept()
    assert main(words) == 0
    disk.refuse(reason)
    refused_in_one_line([*words, "--check"], reason, capsys)
    disk.accept()
    assert main([*words, "--check"]) == 0
    found = {path.name for path in (disk.root / "masks").iterdir()}
    assert {"a.nii.gz", "b.nii.gz", "masks.json", "quality.csv", "quality.html"} <= found
    assert not [name for name in found if name.endswith(".tmp")]


@BOTH
@pytest.mark.parametrize("action", ["submit", "run"])
def test_grid(disk: Disk, tmp_path: Path, action: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_store(tmp_path / "stores" / "ratic", RATIC, {"train": 4, "test": 2})
    words = ["experiments", "grid", action, "--out", str(disk.root / "grid"), "--stores", str(tmp_path / "stores"),
             "--from-scratch", "--tables", "13", "--frameworks", "torch", "--steps", "1", "--seeds", "1"]  # fmt: skip
    disk.refuse(reason)
    refused_in_one_line([*words, *(["--dry-run"] if action == "submit" else [])], reason, capsys)
    disk.accept()
    assert main([*words[:2], "list", *words[3:]]) == 0


@BOTH
def test_grid_collect(disk: Disk, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    (disk.root / "grid").mkdir()
    disk.refuse(reason)
    words = ["experiments", "grid", "collect", "--out", str(disk.root / "grid")]
    capsys.readouterr()
    assert main(words) == 1
    assert "Traceback" not in capsys.readouterr().err


@BOTH
@pytest.mark.parametrize("command", ["load", "prepare", "step"])
def test_benches_work_in_a_temporary_folder(
    disk: Disk, command: str, reason: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {
        "load": ["bench", "load", "--geometry", "chest", "--size", "tiny", "--cases", "4", "--scans", "2"],
        "prepare": ["bench", "prepare", "--dataset", "ratic", "--size", "tiny"],
        "step": ["bench", "step", "--framework", "torch", "--model", "r3d_18", "--geometry", "chest", "--size", "tiny"],
    }[command]
    monkeypatch.setattr(tempfile, "tempdir", str(disk.root))
    disk.refuse(reason)
    refused_in_one_line(words, reason, capsys)
    disk.accept()
    assert list(disk.root.iterdir()) == [], "nothing is left of it"


@pytest.mark.parametrize("command", ["parity", "bench compare"])
def test_figures_that_cannot_be_told(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`parity` and `bench` write their figures to standard output alone."""
    rung = {"name": "logits", "error": 0.0, "worst": "", "tolerance": 1e-9, "passed": True}
    figures: dict[str, Any] = {"rungs": [rung], "first_failure": None, "passed": True}
    monkeypatch.setattr(parity_command, "climb", lambda asked, progress: figures)
    record = next(Path("benchmarks/results").glob("step_r3d_18_tiny_cpu.json")).resolve()
    words = {"parity": ["parity", "--json"],
             "bench compare": ["bench", "compare", str(record), str(record), "--json"]}[command]  # fmt: skip
    capsys.readouterr()
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(words) == 1
        monkeypatch.undo()
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"anatobench {words[0]}: standard output cannot be written ({FULL})")
