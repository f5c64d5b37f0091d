"""Checkpoints: whole or absent, verified when read, and enough to go on as if nothing had happened.

RUN/checkpoints/step_00000100/model.safetensors      weights, canonical names and layouts
RUN/checkpoints/step_00000100/optimizer.safetensors  AdamW's moments, likewise
RUN/checkpoints/step_00000100/teacher.safetensors    a teacher's weights, where the run has one
RUN/checkpoints/step_00000100/state.json             everything else, and the checksums of the files
RUN/checkpoints/best.json                            the checkpoint with the best score on the validation split
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from anatobench.engine import Arrays
from anatobench.errors import AnatoBenchError
from anatobench.system.array_files import safetensors_bytes
from anatobench.system.atomic_files import flush_folder, write_atomically
from anatobench.system.json_text import parse_json

FOLDER = "checkpoints"
BEST_FILE = "best.json"
MODEL = "model"
"""The tree that every run has: what evaluation and export read."""
_WORDS = {MODEL: "weight", "optimizer": "moment"}
_TREE_FILE = re.compile(r"([a-z_]+)\.safetensors")
STATE_FILE = "state.json"
FORMAT = 1
KEPT = 2
"""Newest checkpoints that are kept besides the best: the one before the newest serves if that one is damaged."""
_STEP_FOLDER = re.compile(r"step_(\d{8,})")


@dataclass(frozen=True)
class Best:
    """The evaluation that the best checkpoint stands for."""

    step: int
    name: str
    """Of the score."""
    score: float

    def to_json(self) -> dict[str, Any]:
        """`step` and the score under its name."""
        return {"step": self.step, self.name: self.score}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Best:
        """Return the inverse; raises KeyError, TypeError or ValueError on anything else."""
        ((name, score),) = [(name, value) for name, value in data.items() if name != "step"]
        return Best(int(data["step"]), str(name), float(score))


@dataclass(frozen=True)
class Progress:
    """Where a run stands, besides its arrays."""

    step: int
    """Steps completed."""
    epoch: int
    """Of the last step, from 1; 0 before the first."""
    batches: Mapping[str, Any]
    """State of the training batches' iterator, plain JSON types."""
    evaluated_step: int
    """Step of the last evaluation that is logged; 0 before the first."""
    best: Best | None
    framework: str
    versions: Mapping[str, Any]
    """Of the framework and its parts that trained up to here."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on."""

    progress: Progress
    trees: Mapping[str, Arrays]
    """The engine's `state`."""

    @property
    def weights(self) -> Arrays:
        """The model's."""
        return self.trees[MODEL]


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, then drop those that are no longer wanted. Its folder appears whole or not at all.

    `AnatoBenchError`, and nothing written, if a weight or a moment is not finite: such a model is not worth keeping.
    """
    progress = checkpoint.progress
    _check_finite(checkpoint)
    folder = run / FOLDER
    final = _step_folder(run, progress.step)
    temporary = _temporary(final)
    try:
        temporary.mkdir(parents=True)
        _write(temporary, checkpoint)
        if final.exists():  # damaged and reached again, or saved before its evaluation was finished
            final.rename(_temporary(final))
        temporary.rename(final)
        flush_folder(folder)
        record_best(run, progress.best)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise AnatoBenchError(
            f"{final}: cannot be written ({error.strerror}): make room and resume; earlier checkpoints are intact"
        ) from None
    _prune(folder, progress)
    return final


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    files = {}
    for tree, arrays in checkpoint.trees.items():
        name, content = f"{tree}.safetensors", safetensors_bytes(arrays)
        write_atomically(folder / name, content)
        files[name] = {"bytes": len(content), "blake2b": _digest(content)}
    best = checkpoint.progress.best
    progress = {**asdict(checkpoint.progress), "best": None if best is None else best.to_json()}
    state = {"format": FORMAT, **progress, "files": files}
    write_atomically(folder / STATE_FILE, _sealed(state))


def record_best(run: Path, best: Best | None) -> None:
    """Let `best.json` say what a checkpoint says, which matters after going back to an older one."""
    path = run / FOLDER / BEST_FILE
    if best is None:
        path.unlink(missing_ok=True)
        return
    record = {**best.to_json(), "checkpoint": _step_folder(run, best.step).name}
    write_atomically(path, (json.dumps(record) + "\n").encode())


def read_newest(run: Path) -> Checkpoint | None:
    """Return the newest intact checkpoint, or None if there is no checkpoint at all.

    A damaged one is named on stderr and passed over; `AnatoBenchError` if all are damaged.
    """
    names = sorted(
        (path.name for path in (run / FOLDER).glob("step_*") if _STEP_FOLDER.fullmatch(path.name)), key=_step
    )
    for name in reversed(names):
        try:
            return _read(run / FOLDER / name)
        except AnatoBenchError as error:
            print(f"anatobench: warning: {error}; looking for an older checkpoint", file=sys.stderr)
    if names:
        raise AnatoBenchError(f"{run / FOLDER}: every checkpoint is damaged: delete the folder to start again")
    return None


def read_best(run: Path) -> Checkpoint:
    """Return the best checkpoint, or the newest of a run that has no validated one; `AnatoBenchError` if it is
    damaged."""
    path = run / FOLDER / BEST_FILE
    if path.is_file():
        try:
            step = int(parse_json(path.read_text(encoding="utf-8"))["step"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise AnatoBenchError(f"{path}: damaged ({error}): resume the run to write it again") from None
        return _read(_step_folder(run, step))
    newest = read_newest(run)
    if newest is None:
        raise AnatoBenchError(f"{run}: no checkpoint yet: train it first")
    return newest


def _read(folder: Path) -> Checkpoint:
    """Read one checkpoint and verify it; `AnatoBenchError` names the damaged file."""
    path = folder / STATE_FILE
    try:
        state = _unsealed(path.read_bytes())
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']}, this version reads {FORMAT}")
        best = state["best"]
        progress = Progress(
            step=int(state["step"]),
            epoch=int(state["epoch"]),
            batches=state["batches"],
            evaluated_step=int(state["evaluated_step"]),
            best=None if best is None else Best.from_json(best),
            framework=str(state["framework"]),
            versions=state["versions"],
        )
        trees = {}
        for name, expected in state["files"].items():
            named = _TREE_FILE.fullmatch(name)
            if named is None:
                raise ValueError(f"{name!r} is no file of a checkpoint")
            path = folder / name
            trees[named[1]] = load(_verified(path, expected))
        if MODEL not in trees:
            raise ValueError(f"{MODEL} is missing")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, SafetensorError) as error:
        raise AnatoBenchError(f"{path}: damaged checkpoint ({error})") from None
    return Checkpoint(progress, trees)


def _verified(path: Path, expected: Mapping[str, Any]) -> bytes:
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise ValueError(f"{size} bytes instead of {expected['bytes']}")
    content = path.read_bytes()
    if _digest(content) != expected["blake2b"]:
        raise ValueError("its checksum differs")
    return content


def _sealed(state: Mapping[str, Any]) -> bytes:
    """JSON that carries its own checksum."""
    text = json.dumps(state, sort_keys=True)
    return json.dumps({**state, "blake2b": _digest(text.encode())}, indent=2, sort_keys=True).encode() + b"\n"


def _unsealed(content: bytes) -> dict[str, Any]:
    state = parse_json(content)
    if not isinstance(state, dict):
        raise ValueError("not a JSON object")
    expected = state.pop("blake2b")
    if _digest(json.dumps(state, sort_keys=True).encode()) != expected:
        raise ValueError("its checksum differs")
    return dict(state)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _check_finite(checkpoint: Checkpoint) -> None:
    for tree, arrays in checkpoint.trees.items():
        kind = _WORDS.get(tree, f"{tree}'s")
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise AnatoBenchError(
                    f"step {checkpoint.progress.step}: {kind} {name} is not finite, so no checkpoint is written: "
                    "lower the learning rate or use precision fp32; the checkpoints before it are intact"
                )


def _step_folder(run: Path, step: int) -> Path:
    return run / FOLDER / f"step_{step:08d}"


def _temporary(final: Path) -> Path:
    return final.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")


def _step(name: str) -> int:
    return int(name.removeprefix("step_"))


def _prune(folder: Path, progress: Progress) -> None:
    """Keep the newest and the best; whatever lies beyond the present step was left behind by going back."""
    steps = sorted(_step(path.name) for path in folder.glob("step_*") if _STEP_FOLDER.fullmatch(path.name))
    kept = {step for step in steps if step <= progress.step}
    kept = set(sorted(kept)[-KEPT:])
    if progress.best is not None:
        kept.add(progress.best.step)
    unwanted = [_step_folder(folder.parent, step) for step in steps if step not in kept]
    for path in [*unwanted, *folder.glob(".step_*.tmp")]:
        shutil.rmtree(path)
