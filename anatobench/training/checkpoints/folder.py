"""What lies where in a run's folder of checkpoints, and how it appears and goes: whole, by renaming."""

from __future__ import annotations

import json
import os
import re
import secrets
from pathlib import Path

from anatobench.errors import AnatoBenchError
from anatobench.system.atomic_files import TEMPORARY_SUFFIX, flush_folder, remove_whatever, write_atomically
from anatobench.system.json_text import parse_json
from anatobench.training.checkpoints.progress import Best, Progress

FOLDER = "checkpoints"
BEST_FILE = "best.json"
KEPT = 2
"""Newest checkpoints that are kept besides the best: the one before the newest serves if that one is damaged."""
_STEP_FOLDER = re.compile(r"step_(\d{8,})")


def step_folder(run: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return run / FOLDER / f"step_{step:08d}"


def unfinished_folder(run: Path, step: int) -> Path:
    """Return where it is written: the same place in every process of the run, none of which asks another."""
    return run / FOLDER / f".step_{step:08d}{TEMPORARY_SUFFIX}"


def steps_of(run: Path) -> list[int]:
    """Return the steps of which there is a checkpoint, damaged or not, the oldest first."""
    names = [path.name for path in (run / FOLDER).glob("step_*")]
    return sorted(int(named[1]) for name in names if (named := _STEP_FOLDER.fullmatch(name)))


def publish(run: Path, progress: Progress) -> Path:
    """Give the sealed checkpoint of this progress its name, drop those that are no longer wanted; OSError where the
    disk refuses."""
    final = step_folder(run, progress.step)
    if os.path.lexists(final):  # damaged and reached again, or saved before its evaluation was finished
        final.rename(_condemned(final))
    unfinished_folder(run, progress.step).rename(final)
    flush_folder(run / FOLDER)
    record_best(run, progress.best)
    _prune(run, progress)
    return final


def _prune(run: Path, progress: Progress) -> None:
    """Keep the newest and the best; whatever lies beyond the present step was left behind by going back."""
    steps = steps_of(run)
    kept = {step for step in steps if step <= progress.step}
    kept = set(sorted(kept)[-KEPT:])
    if progress.best is not None:
        kept.add(progress.best.step)
    for step in steps:
        if step not in kept:
            _remove(step_folder(run, step))
    _remove_condemned(run)


def _remove(folder: Path) -> None:
    """Take the name away first: a half-removed folder is never taken for a checkpoint."""
    condemned = _condemned(folder)
    folder.rename(condemned)
    flush_folder(folder.parent)
    remove_whatever(condemned)


def _condemned(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def _remove_condemned(run: Path) -> None:
    for path in (run / FOLDER).glob(f".step_*{TEMPORARY_SUFFIX}"):
        remove_whatever(path)


def clear_leftovers(run: Path, written: tuple[str, ...] = ()) -> None:
    """Remove what a killed process left half-written or half-removed: of checkpoints, and of the files named in the
    run's folder. For the one process that holds the run; `AnatoBenchError` where the disk refuses."""
    try:
        _remove_condemned(run)
        for path in (run / FOLDER / BEST_FILE, *(run / name for name in written)):
            for leftover in path.parent.glob(f".{path.name}.????????{TEMPORARY_SUFFIX}"):
                remove_whatever(leftover)
    except OSError as error:
        raise AnatoBenchError(
            f"{error.filename}: was left by a process that was killed and cannot be removed ({error.strerror}): "
            "correct the permissions and resume"
        ) from None


def record_best(run: Path, best: Best | None) -> None:
    """Let `best.json` say what a checkpoint says, which matters after going back to an older one."""
    path = run / FOLDER / BEST_FILE
    if best is None:
        path.unlink(missing_ok=True)
        return
    record = {**best.to_json(), "checkpoint": step_folder(run, best.step).name}
    write_atomically(path, (json.dumps(record) + "\n").encode())


def best_step(run: Path) -> int | None:
    """Return the step that `best.json` names, None where there is no such file; `AnatoBenchError` if it is damaged."""
    path = run / FOLDER / BEST_FILE
    if not path.is_file():
        return None
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
        step = int(record["step"])
        if record.get("checkpoint", step_folder(run, step).name) != step_folder(run, step).name:
            raise ValueError(f"step {step} is not that of {record['checkpoint']!r:.80}")
        return step
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise AnatoBenchError(f"{path}: damaged ({error}): resume the run to write it again") from None
