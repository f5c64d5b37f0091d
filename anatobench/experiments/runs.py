"""The runs of one question on disk: what each is trained with, which are done, and how the rest are trained here.

OUT/configs/<name>.json  what a run is trained with, for `anatobench train --config`
OUT/runs/<name>          the run, with the evaluation that ends it
OUT/logs                 what the runs said
OUT/plans                what was submitted to Slurm (jobs.py)

What is done is never run again, and what was stopped goes on.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from anatobench.errors import AnatoBenchError, UsageError
from anatobench.experiments.child_processes import Chain, Command, run_chains
from anatobench.recipes import Recipe, override
from anatobench.system.atomic_files import write_atomically
from anatobench.system.json_text import json_bytes, parse_json, read_json, typed_fields
from anatobench.system.progress import progress_bar
from anatobench.training.initial_weights import INITIAL_WEIGHTS_FILE
from anatobench.training.metrics_records import METRICS_FILE
from anatobench.training.run_folder import CONFIG_FILE, RunConfig, evaluation_file

ABSENT, BEGUN, DONE = "absent", "begun", "done"
STATES = (ABSENT, BEGUN, DONE)
"""A run that is begun may be running or may have been stopped: both go on the same way."""
Settings = TypeVar("Settings")
_LAST_BYTES = 65536
"""Enough of a metrics file for its last record."""


@dataclass(frozen=True)
class PlannedRun:
    """A run that is to be trained and evaluated."""

    name: str
    """Of its folder: letters, digits, `.`, `-` and `_`."""
    config: RunConfig
    first: str | None = None
    """The run that it takes its initial weights from, so that it can only come after it."""


def run_folder(out: Path, name: str) -> Path:
    """Return where a run lies."""
    return out / "runs" / name


def initial_weights_of(out: Path, first: str) -> Path:
    """Return where what a run began with lies."""
    return run_folder(out, first) / INITIAL_WEIGHTS_FILE


def logs_folder(out: Path) -> Path:
    """Return where what the runs said lies."""
    return out / "logs"


def config_file(out: Path, name: str) -> Path:
    """Return the file that says what a run is trained with."""
    return out / "configs" / f"{name}.json"


def state_of(out: Path, name: str) -> str:
    """Return one of `STATES`."""
    run = run_folder(out, name)
    if (run / evaluation_file("test")).is_file():
        return DONE
    return BEGUN if (run / CONFIG_FILE).is_file() else ABSENT


def last_step(run: Path) -> int:
    """Return the last step that a run has logged, 0 if none."""
    try:
        with (run / METRICS_FILE).open("rb") as file:
            file.seek(max(file.seek(0, 2) - _LAST_BYTES, 0))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(parse_json(line)["step"])
        except (ValueError, KeyError, TypeError):  # the line is being written, or was cut
            continue
    return 0


def read_settings(path: Path, kind: type[Settings]) -> Settings | None:
    """Read what all runs of a folder have in common, a dataclass; None where there is none yet, `AnatoBenchError` if
    the file is damaged."""
    if not path.exists():
        return None
    try:
        return settings_from(read_json(path), kind)
    except (ValueError, TypeError, AnatoBenchError) as error:
        raise AnatoBenchError(f"{path}: not this command's settings ({error}): choose another --out") from None


def settings_from(data: object, kind: type[Settings]) -> Settings:
    """Return settings, a dataclass, from their fields in plain JSON types; ValueError or TypeError if they are none."""
    given = typed_fields(kind, data)
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def settings_asked(
    path: Path, kind: type[Settings], asked: Mapping[str, Any], otherwise: Mapping[str, Any] | None = None
) -> Settings:
    """Return the settings of a folder; in a new one those `asked`, the fields that a person named, and `otherwise` for
    the rest. `AnatoBenchError` names what is asked otherwise than the folder has it."""
    saved = read_settings(path, kind)
    if saved is None:
        return kind(**{**(otherwise or {}), **asked})
    if changed := what_changed(vars(saved), asked):
        raise AnatoBenchError(f"{path.parent}: its runs have other settings: {told(changed)}: choose another --out")
    return saved


def what_changed(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return what differs of the settings `now`, each as it was and as it is."""
    return {name: [was.get(name), value] for name, value in now.items() if was.get(name) != value}


def told(changed: Mapping[str, Sequence[Any]]) -> str:
    """Return changed settings, each with its old and its new value, in words."""
    return "; ".join(f"{name}: {old} -> {new}" for name, (old, new) in changed.items())


def check_changes(changes: Sequence[str], own: Sequence[str], who: str) -> None:
    """Refuse changes of a recipe, `field=value`, that are none, or of fields that `who` sets itself."""
    override(Recipe(), changes)
    taken = [text for text in changes if text.partition("=")[0] in own]
    if taken:
        raise UsageError(f"--set {taken[0]}: {who} itself sets {', '.join(own)}")


def check_choices(selection: Any, allowed: Mapping[str, Collection[str]], repetitions: str) -> None:
    """Refuse a selection in which one of these fields names nothing, or what nobody knows, or of whose `repetitions`,
    the field of that name, there are none or too many."""
    for name, choices in allowed.items():
        chosen = getattr(selection, name)
        unknown = [value for value in chosen if value not in choices]
        if unknown or not chosen:
            raise UsageError(f"--{name} {','.join(unknown)}: choose from {', '.join(choices)}")
    if not 1 <= (asked := getattr(selection, repetitions)) <= 1000:
        raise UsageError(f"--{repetitions} {asked}: from 1 to 1000")


def check_rates(rates: Sequence[float]) -> None:
    """Refuse learning rates to try of which two would be trained in one folder: its name has six digits of them."""
    if len({f"{rate:g}" for rate in rates}) < len(rates):
        raise UsageError(f"learning rates {', '.join(map(str, rates))}: two are one in the name of their run")


def still_to_do(runs: Sequence[PlannedRun], out: Path) -> tuple[list[PlannedRun], int]:
    """Return the runs that are not done, and how many are."""
    waiting = [run for run in runs if state_of(out, run.name) != DONE]
    return waiting, len(runs) - len(waiting)


def keep_settings(path: Path, settings: Any, what: str) -> None:
    """Write what all runs of a folder, `what`, have in common; `AnatoBenchError` if it holds something else."""
    out = path.parent
    if not path.exists() and out.exists() and any(out.iterdir()):
        raise AnatoBenchError(f"{out}: not empty and not {what}: choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json_bytes(asdict(settings)))
    except OSError as error:
        raise AnatoBenchError(f"{out}: cannot be written ({error.strerror}): choose another --out") from None


def write_configs(runs: Sequence[PlannedRun], out: Path) -> None:
    """Write what these runs are trained with."""
    for run in runs:
        path = config_file(out, run.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        run.config.write(path)


def chains_of(runs: Sequence[PlannedRun], out: Path) -> list[Chain]:
    """Train and evaluate, each run in the chain of the one that it takes its initial weights from."""
    found: dict[str, list[Command]] = {}
    for run in runs:
        config, folder = str(config_file(out, run.name)), str(run_folder(out, run.name))
        train = ["train", "--config", config, "--out", folder, "--resume"]
        found.setdefault(run.first or run.name, []).extend([train, ["evaluate", folder]])
    return [Chain(name, commands) for name, commands in found.items()]


def train_here(
    runs: Sequence[PlannedRun], out: Path, workers: int, what: str, done_before: int = 0, until: float = math.inf
) -> None:
    """Train and evaluate these runs on this machine, `workers` chains at a time, with a bar called `what`;
    `OutOfTimeError` if that takes longer than `until`."""
    write_configs(runs, out)
    with progress_bar(done_before + len(runs), what, "run", initial=done_before) as bar:

        def begun(chain: Chain, log: Path) -> None:
            tqdm.write(f"{what}: {chain.name} is at work and says it in {log}", file=sys.stderr)

        for chain in run_chains(chains_of(runs, out), logs_folder(out), workers, begun, until):
            bar.update(len(chain.commands) // 2)
