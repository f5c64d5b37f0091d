"""`anatobench masks` from the outside, as far as it goes without TotalSegmentator."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anatobench.cli.main import main
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.masks import weights
from anatobench.system import gpus
from anatobench.volumes.nifti import write_nifti

AFFINE = np.array([[0, 0, -9.0, 180], [0, -9.0, 0, 180], [-15.0, 0, 0, 225], [0, 0, 0, 1]])


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any], str]:
    """Exit status, figures and what was said."""
    capsys.readouterr()
    status = main(["masks", "--json", *map(str, words)])
    out, errors = capsys.readouterr()
    return status, json.loads(out.splitlines()[-1]) if out else {}, errors


@pytest.fixture
def ratic(tmp_path: Path) -> Path:
    """Return a tiny RATIC cohort of which every series has a mask: Kaggle's, or one of version 1 in the folder of
    masks."""
    raw = tmp_path / "raw"
    phantom = ["phantom", "--format", "ratic", "--size", "tiny", "--cases", "2", "--workers", "1"]
    assert main([*phantom, "--out", str(raw)]) == 0
    return raw


def test_masks_that_are_there_need_no_totalsegmentator(
    ratic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    series = [path.name for path in ratic.glob("train_images/*/*")]
    own = {path.stem for path in (ratic / "segmentations").iterdir()}
    out = tmp_path / "masks"
    out.mkdir()
    arguments = ("--dataset", "ratic", "--raw", ratic, "--out", out)
    if own != set(series):
        status, _, said = call(capsys, *arguments)
        assert (status, "is not installed: give it an environment of its own: python3 -m venv" in said) == (1, True)
    for name in set(series) - own:  # named after the series, as somebody else may have made them
        write_nifti(out / f"{name}.nii.gz", np.ones((30, 40, 40), np.uint8), AFFINE)
    status, figures, said = call(capsys, *arguments)
    assert status == 0
    assert (figures["made"], figures["of_the_data_set"]) == (0, len(own))
    assert figures["already_here"] == len(series) - len(own)
    assert f"{len(own)} of the data set's own" in said
    assert not (out / "masks.json").exists(), "nothing here was made by us"


@pytest.mark.slow
def test_check_writes_a_table_and_a_page(ratic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ratic / "masks"
    status, figures, said = call(capsys, "--dataset", "ratic", "--raw", ratic, "--out", out, "--check")
    assert status == 0, said
    assert figures["checked"] == figures["scans"] == sum(figures["findings"].values()) / 5
    assert (out / "quality.csv").read_bytes().startswith(b"case_id,organ,millilitres,finding,detail,mask\r\n")
    assert "<img" in (out / "quality.html").read_text()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--raw", "nowhere"], 1, "there is no such folder"),
        (["--raw", "."], 1, "holds no scans"),
        (["--raw", ".", "--check", "--shard", "0/2"], 2, "without --shard"),
        (["--dataset", "ratic", "--raw", ".", "--anatomy", "chest"], 2, "ratic has no such option"),
    ],
)
def test_wrong_arguments_are_one_line(
    words: list[str], status: int, message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    found, _, said = call(capsys, *words, "--out", tmp_path / "masks")
    assert (found, said.count("\n")) == (status, 1)
    assert message in said


def test_gpus_are_those_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-7a")
    assert gpus.choose_gpus(None) == ["2", "GPU-7a"]
    assert gpus.choose_gpus(1) == ["2"]
    assert gpus.choose_gpus(0) == []
    with pytest.raises(UsageError, match="--gpus 3: 2 GPU"):
        gpus.choose_gpus(3)
    for nothing in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
        assert gpus.choose_gpus(None) == []


def test_a_download_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "Dataset297_x"
    published = types.SimpleNamespace(TASK_ID_WEIGHTS_CONFIGS={297: {"foldername": name, "version": "v2"}})
    monkeypatch.setitem(sys.modules, "totalsegmentator.map_tasks_config", published)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: published)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.18.0")
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "weights"))
    addresses = []

    def fetch(address: str) -> bytes:
        addresses.append(address)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for file in weights.FILES:
                archive.writestr(f"{name}/{weights.MODEL}/{file}", b"content")
        return buffer.getvalue()[: None if len(addresses) > 1 else -30]

    monkeypatch.setattr(weights, "fetch", fetch)
    with pytest.raises(AnatoBenchError, match="cannot be unpacked here"):
        weights.find_or_download()
    assert not list((tmp_path / "weights").iterdir())
    found = weights.find_or_download()
    assert found.model == tmp_path / "weights" / name / weights.MODEL
    assert weights.find_or_download() == found
    assert addresses == [f"{weights.ADDRESS}/v2/{name}.zip"] * 2, "the third call found it"
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [name]


def test_the_digest_that_a_person_knows_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net runs what is in the checkpoint."""
    checkpoint = tmp_path / weights.FILES[2]
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"content")
    found = weights.Weights(tmp_path, tmp_path, "2.18.0")
    right = hashlib.sha256(b"content").hexdigest()
    monkeypatch.delenv(weights.SHA256_VARIABLE, raising=False)
    trusted = weights.check_digest(found)
    assert trusted is not None
    assert f"SHA-256 {right} and is trusted unchecked" in trusted
    monkeypatch.setenv(weights.SHA256_VARIABLE, right.upper())
    assert weights.check_digest(found) is None
    checkpoint.write_bytes(b"Content")
    with pytest.raises(AnatoBenchError, match=rf"checkpoint_final\.pth: its SHA-256 is .*, not {right}"):
        weights.check_digest(found)
    monkeypatch.setenv(weights.SHA256_VARIABLE, "abc")
    with pytest.raises(AnatoBenchError, match="64 hexadecimal digits"):
        weights.check_digest(found)
