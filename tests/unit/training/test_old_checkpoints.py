"""Runs that were begun before checkpoints were written beside training go on: format 1, written here as it was then."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from kept_checkpoints import newest_checkpoint
from safetensors.numpy import save

from anatobench.engine import Arrays
from anatobench.training.checkpoints import Progress, read_checkpoint, read_newest, save_checkpoint

PROGRESS = Progress(8, 2, {"step": 8, "seed": 0}, 8, None, "jax", {"jax": "0.10.2"})


def old_digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def write_as_it_was(run: Path, progress: Progress, trees: Mapping[str, Arrays]) -> Path:
    """Return the folder of a checkpoint in the form of version 0.1, whichever framework wrote it."""
    folder = run / "checkpoints" / f"step_{progress.step:08d}"
    folder.mkdir(parents=True)
    files = {}
    for tree, arrays in trees.items():
        contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        name, content = f"{tree}.safetensors", save(contiguous, metadata={"format": "pt"})
        (folder / name).write_bytes(content)
        files[name] = {"bytes": len(content), "blake2b": old_digest(content)}
    state = {"format": 1, **asdict(progress), "best": None, "files": files}
    text = json.dumps(state, sort_keys=True)
    whole = json.dumps({**state, "blake2b": old_digest(text.encode())}, indent=2, sort_keys=True).encode() + b"\n"
    (folder / "state.json").write_bytes(whole)
    return folder


def trees() -> dict[str, Arrays]:
    rng = np.random.default_rng(0)
    return {
        "model": {"stem.weight": rng.normal(size=(3, 2)).astype(np.float32).T, "fc.bias": np.ones(3, np.float32)},
        "optimizer": {"exp_avg/fc.bias": rng.normal(size=3), "step": np.array(8, dtype=np.int64)},
    }


def test_the_old_form_is_read_to_the_bit(tmp_path: Path) -> None:
    folder = write_as_it_was(tmp_path, PROGRESS, trees())
    found = read_checkpoint(folder)
    assert found.progress == PROGRESS
    for tree, arrays in trees().items():
        assert found.trees[tree].keys() == arrays.keys()
        for name, array in arrays.items():
            assert found.trees[tree][name].dtype == array.dtype
            np.testing.assert_array_equal(found.trees[tree][name], array)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_damage_of_the_old_form_is_found(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_as_it_was(tmp_path, Progress(4, 1, {"step": 4}, 4, None, "torch", {}), trees())
    path = write_as_it_was(tmp_path, PROGRESS, trees()) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert newest_checkpoint(tmp_path).progress.step == 4
    assert f"{path}: damaged checkpoint" in capsys.readouterr().err


def test_the_old_form_is_followed_by_the_new_one(tmp_path: Path) -> None:
    write_as_it_was(tmp_path, PROGRESS, trees())
    newest = newest_checkpoint(tmp_path)
    written = save_checkpoint(tmp_path, type(newest)(Progress(12, 3, {}, 0, None, "torch", {}), newest.trees))
    assert json.loads((written / "state.json").read_text())["format"] == 2
    following = read_newest(tmp_path)
    assert following is not None
    assert following.progress.step == 12
    np.testing.assert_array_equal(following.weights["stem.weight"], trees()["model"]["stem.weight"])
