"""What a command found goes to stdout, and how far it is to stderr; with `--json` stdout has that one line alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numpy_engine import use_numpy_engines
from scan_files import AFFINE, body_voxels
from tiny_store import write_store

from anatobench.cli import parity
from anatobench.cli.main import COMMANDS, main
from anatobench.volumes.nifti import write_nifti

Words = Callable[[Path, Path], list[str]]

RUNG = {"name": "logits", "error": 1e-12, "tolerance": 1e-9, "passed": True, "worst": "logits"}
RESULTS: dict[str, tuple[Words, str]] = {
    "train": (lambda given, out: [*training(given), "--out", str(out / "run")], "steps, best auc_macro "),
    "evaluate": (lambda given, out: ["evaluate", str(given / "run")], "\nmacro "),
    "export": (lambda given, out: ["export", str(given / "run"), "--to", str(out / "w.safetensors")], " (tiny) for "),
    "predict": (lambda given, out: ["predict", str(given / "run"), str(given / "scan.nii.gz")], "\nSeen: "),
    "report": (lambda given, out: ["report", str(given / "run"), "--out", str(out / "page.html")], "\nwrote "),
    "prepare": (lambda given, out: [*preparing(given), "--store", str(out / "store")], "1 case prepared\n"),
    "prepare --verify": (lambda given, out: ["prepare", "--store", str(given / "store"), "--verify"], "0 faults in "),
    "phantom": (lambda given, out: ["phantom", "--format", "rad_chestct", "--size", "tiny", "--cases", "1",
                                    "--workers", "1", "--out", str(out / "raw")], " of 1 patients in "),
    "parity": (lambda given, out: ["parity", "--steps", "0"], "no difference beyond the tolerance\n"),
    "experiments named": (lambda given, out: ["experiments", "named"], "ct_rate/r3d_18/no_seg "),
}  # fmt: skip


def training(given: Path) -> list[str]:
    return ["train", "--task", "findings", "--store", str(given / "store"), "--model", "r3d_18", "--framework",
            "torch", "--set", "batch_size=2", "--steps", "2"]  # fmt: skip


def preparing(given: Path) -> list[str]:
    return ["prepare", "--dataset", "manifest", "--raw", str(given), "--anatomy", "chest", "--size", "tiny",
            "--workers", "0"]  # fmt: skip


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store, an evaluated run, a scan and a manifest of it."""
    folder = tmp_path_factory.mktemp("given")
    write_store(folder / "store")
    write_nifti(folder / "scan.nii.gz", body_voxels(), AFFINE)
    (folder / "manifest.csv").write_text("scan,split,label:x\nscan.nii.gz,train,1\n")
    with pytest.MonkeyPatch.context() as patch:
        use_numpy_engines(patch)
        assert main([*training(folder), "--out", str(folder / "run")]) == 0
        assert main(["evaluate", str(folder / "run")]) == 0
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def climb(*asked: object) -> dict[str, Any]:
        return {"passed": True, "rungs": [RUNG], "first_failure": None}

    use_numpy_engines(monkeypatch)
    monkeypatch.setattr(parity, "climb", climb)


def test_commands_are_not_forgotten() -> None:
    """Those that are left out run these, or need a GPU, hours or TotalSegmentator; they print in the same way."""
    assert set(COMMANDS) - {name.split()[0] for name in RESULTS} == {"demo", "masks", "bench"}


@pytest.mark.slow
@pytest.mark.parametrize("name", RESULTS)
def test_for_a_person(name: str, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, result = RESULTS[name]
    assert main(words(given, tmp_path)) == 0
    said = capsys.readouterr()
    assert result in f"\n{said.out}"
    assert result not in f"\n{said.err}"
    assert "\r" not in said.out, "a bar is no result"


@pytest.mark.slow
@pytest.mark.parametrize("name", RESULTS)
def test_for_a_program(name: str, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, result = RESULTS[name]
    assert main([*words(given, tmp_path), "--json"]) == 0
    said = capsys.readouterr()
    (line,) = said.out.splitlines()
    assert isinstance(json.loads(line), dict)
    if name != "experiments named":  # a list for a person says nothing that the line does not
        assert result in f"\n{said.err}"


def test_a_printed_result_of_bench_is_on_stdout_too(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (400.0, 0.0, 0.0))
    words = ["bench", "load", "--store", str(given / "store"), "--batch-size", "2", "--rounds", "2",
             "--round-batches", "1", "--workers", "0"]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr()
    assert "volumes per second" in said.out
    assert "volumes per second" not in said.err
    assert "warning: the load was 400.0 on " in said.err, "the machine was busy"
    assert "what others do there is in the figures" in said.err
