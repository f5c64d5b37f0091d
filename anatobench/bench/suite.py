"""A suite of measurements on one GPU: first everything is compiled, then arms are measured on a machine left alone.

Compilation keeps processors busy and a GPU idle, measuring the reverse, and how long the first takes is not known
before. So it comes first, every arm for itself and several at a time, with what needs no quiet machine (parity) beside
it; what an arm compiled, its cache hands to the measurement. What did not compile is left out there, by name.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anatobench.bench.arms import Arm
from anatobench.bench.commands import Job, Outcome, run_command, run_jobs
from anatobench.errors import UsageError
from anatobench.system.host import describe_code
from anatobench.system.json_text import parse_json

COMPILE, CHECK = "compile", "parity"
"""First words of the first phase's jobs; the second is also the name of the part that its jobs' records make."""
DONE, INCOMPLETE, FAILED, TIMED_OUT, SKIPPED = "done", "incomplete", "failed", "timed out", "skipped"
NOT_REACHED = "not reached"
SHORTEST_PART = 10.0
"""Seconds below which nothing is started."""
SECONDS_TO_FINISH = 12.0
"""What a command needs after its own time limit, to write its record."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """A part: one command that has the machine for itself."""

    name: str
    model: str
    words: tuple[str, ...]
    """Of the command but for its arms; `{seconds}` in place of the time it may take."""
    arms: tuple[Arm, ...]
    reserve: float
    """Seconds that the first phase leaves it. It gets its part of what is left over, too."""

    def key(self, arm: Arm) -> str:
        """Return the arm's name in `Record["compile"]`."""
        return f"{self.model} {arm.name}"

    def command(self, ready: Callable[[str], bool], seconds: float) -> Job | None:
        """Return the command for the arms that are ready; of those with and without head only pairs. None if none is
        left."""
        arms = [arm for arm in self.arms if ready(self.key(arm))]
        both = len({arm.segmentation for arm in self.arms}) == 2
        if both:
            arms = [arm for arm in arms if arm.segmentation and replace(arm, segmentation=False) in arms]
        if not arms:
            return None
        frameworks = [arm.framework for arm in arms if arm.framework and arm.home is None]
        homes = [word for arm in arms if arm.framework and arm.home for word in arm.home.option(arm.framework)]
        peers = [f"{arm.peer}:{arm.variant}" for arm in arms if arm.peer]
        own = f"{max(seconds - SECONDS_TO_FINISH, seconds / 2):.1f}"
        words = [own if word == "{seconds}" else word for word in self.words]
        words += [*(["--framework", ",".join(frameworks)] if frameworks else []), *homes]
        words += [word for peer in peers for word in ("--peer", peer)]
        return Job(self.name, (*words, *(["--both-seg"] if both else [])))


@dataclass(frozen=True)
class Plan:
    """All that is asked."""

    first: tuple[Job, ...]
    """In order: `compile MODEL ARM` and `parity MODEL DTYPE`."""
    measurements: tuple[Measurement, ...]
    """One after the other, in order of importance."""

    def parts(self) -> list[str]:
        """Return their names."""
        checks = any(job.name.startswith(CHECK) for job in self.first)
        return [*([CHECK] if checks else []), *(measurement.name for measurement in self.measurements)]

    def restricted(self, names: Collection[str]) -> Plan:
        """To some parts and what they need."""
        measurements = tuple(m for m in self.measurements if m.name in names)
        needed = {f"{COMPILE} {m.key(arm)}" for m in measurements for arm in m.arms}
        first = (job for job in self.first if job.name in needed or (CHECK in names and job.name.startswith(CHECK)))
        return Plan(tuple(first), measurements)


def not_reached() -> Record:
    """Return a part before its turn, and for good if that never comes."""
    return {"status": SKIPPED, "seconds": 0.0, "record": None, "error": NOT_REACHED}


def run_plan(
    plan: Plan,
    record: Record,
    seconds: float,
    places: int,
    cached: Callable[[str], bool],
    save: Callable[[], object],
) -> None:
    """Do what `record` does not have yet, in so many seconds; its `compile` and `parts` are updated as things end.

    `places` programs compile at a time; `cached(MODEL ARM)` tells whether the arm's cache is still there.
    """
    start = time.monotonic()
    parts = record["parts"]
    todo = [m for m in plan.measurements if parts[m.name]["status"] != DONE]
    first = _first_jobs(plan, todo, record, cached)
    if first:
        _compile(first, record, max(seconds - sum(m.reserve for m in todo), seconds / 2), places, save)

    def ready(key: str) -> bool:
        arm = record["compile"]["arms"].get(key)
        return arm is None or arm["status"] == DONE

    for number, measurement in enumerate(todo):
        left = _time_for(todo[number:], max(start + seconds - time.monotonic(), 0.0))
        found = _measured(measurement, record, ready, left)
        if _worth(found) >= _worth(parts[measurement.name]):
            parts[measurement.name] = found
        _note_cached_steps(measurement, record)
        save()
        print(f"{measurement.name}: {found['status']} after {time.monotonic() - start:.0f} s", file=sys.stderr)


def _first_jobs(plan: Plan, todo: Sequence[Measurement], record: Record, cached: Callable[[str], bool]) -> list[Job]:
    """Return what is missing of the first phase, or was compiled for a cache that is gone."""
    arms = record["compile"]["arms"]
    needed = {m.key(arm) for m in todo for arm in m.arms}
    compiled = {key for key in needed if arms.get(key, {}).get("status") == DONE and cached(key)}
    checked = {_check_name(found) for found in (record["parts"].get(CHECK) or not_reached())["record"] or []}
    there = {f"{COMPILE} {key}" for key in compiled} | checked
    asked = {f"{COMPILE} {key}" for key in needed}
    return [job for job in plan.first if job.name not in there and (job.name in asked or job.name.startswith(CHECK))]


def _check_name(found: Mapping[str, Any]) -> str:
    return f"{CHECK} {found.get('model')} {found.get('dtype')}"


def _compile(jobs: Sequence[Job], record: Record, seconds: float, places: int, save: Callable[[], object]) -> None:
    """Run the first phase."""
    start = time.monotonic()
    arms, parity = record["compile"]["arms"], record["parts"].get(CHECK)
    checks = [job.name for job in jobs if job.name.startswith(CHECK)]
    of_arms = {job.name: job.name.removeprefix(f"{COMPILE} ") for job in jobs if job.name not in checks}
    missing = dict.fromkeys(checks, (SKIPPED, NOT_REACHED))
    checked = list((parity or not_reached())["record"] or [])
    for key in of_arms.values():
        arms[key] = _compiled(Outcome(None, NOT_REACHED, 0.0), SKIPPED)

    def done(name: str, outcome: Outcome) -> None:
        elapsed = round(time.monotonic() - start, 1)
        status = TIMED_OUT if outcome.timed_out else FAILED if outcome.error else DONE
        if name in of_arms:
            arms[of_arms[name]] = _compiled(outcome, status)
        elif outcome.record is None:
            missing[name] = status, outcome.error or "it printed no record"
        else:
            checked.append(outcome.record)
            del missing[name]
        if name in checks:
            record["parts"][CHECK] = _check_part(checked, missing, elapsed)
        record["compile"]["seconds"] = elapsed
        save()
        print(f"{name}: {outcome.error or DONE} after {elapsed:.0f} s", file=sys.stderr)

    record["compile"]["at_a_time"] = places
    save()
    begun = run_jobs(jobs, places, seconds, done)
    late = f"not begun in {seconds:.0f} s"
    for name, key in of_arms.items():
        if name not in begun:
            arms[key]["error"] = late
    if checks:
        missing |= {name: (SKIPPED, late) for name in missing if name not in begun}
        record["parts"][CHECK] = _check_part(checked, missing, record["parts"][CHECK]["seconds"])
    save()


def _compiled(outcome: Outcome, status: str) -> Record:
    arms = (outcome.record or {}).get("arms") or [{}]
    return {
        "status": status,
        "seconds": outcome.seconds,
        "compile_s": arms[0].get("compile_s"),
        "compile_cache": arms[0].get("compile_cache"),
        "from_cache_s": None,
        "error": outcome.error,
    }


def _check_part(checked: Sequence[Record], missing: Mapping[str, tuple[str, str]], seconds: float) -> Record:
    """Parity's part, with the records that there are; `missing`: how and why others came to nothing."""
    red = {_check_name(found): "the frameworks differ" for found in checked if found.get("passed") is False}
    if red:
        status = FAILED
    elif not missing:
        status = DONE
    else:
        status = INCOMPLETE if checked else next(iter(missing.values()))[0]
    errors = red | {name: reason for name, (_, reason) in missing.items()}
    return {"status": status, "seconds": seconds, "record": list(checked) or None, "error": _joined(errors)}


def _joined(errors: Mapping[str, str]) -> str | None:
    return "; ".join(f"{name}: {error}" for name, error in errors.items()) or None


def _time_for(todo: Sequence[Measurement], left: float) -> float:
    """Return how much of what is left the first of them may take: its reserve and its part of the rest, or less
    where there is less."""
    reserved = sum(m.reserve for m in todo)
    if left >= reserved:
        return todo[0].reserve + (left - reserved) / len(todo)
    return left * todo[0].reserve / reserved


def _measured(measurement: Measurement, record: Record, ready: Callable[[str], bool], seconds: float) -> Record:
    start = time.monotonic()
    arms = record["compile"]["arms"]
    left_out = {
        arm.name: f"not compiled: {arms[measurement.key(arm)]['error']}"
        for arm in measurement.arms
        if not ready(measurement.key(arm))
    }
    job = measurement.command(ready, seconds)
    if seconds < SHORTEST_PART:
        return {
            **not_reached(),
            "error": _joined({measurement.name: f"no time was left ({seconds:.0f} s)", **left_out}),
        }
    if job is None:
        return {"status": FAILED, "seconds": 0.0, "record": None, "error": _joined(left_out)}
    outcome = run_command(job, seconds)
    error = outcome.error
    if (outcome.record or {}).get("complete") is False:
        error = "the time was up before the search was done"
    errors = left_out | ({measurement.name: error} if error else {})
    status = DONE if not errors else INCOMPLETE if outcome.record else TIMED_OUT if outcome.timed_out else FAILED
    return {
        "status": status,
        "seconds": round(time.monotonic() - start, 1),
        "record": outcome.record,
        "error": _joined(errors),
    }


def _worth(part: Mapping[str, Any]) -> tuple[bool, int]:
    """Return whether it is done, and of how many arms it has figures."""
    found = part["record"] or {}
    return part["status"] == DONE, len(found.get("arms") or [found]) if found else 0


def _note_cached_steps(measurement: Measurement, record: Record) -> None:
    """Note how long the first step took of arms that found what the first phase had compiled."""
    if measurement.name not in record["parts"]:
        return
    for arm in (record["parts"][measurement.name]["record"] or {}).get("arms") or []:
        compiled = record["compile"]["arms"].get(f"{measurement.model} {arm.get('name')}")
        if compiled and arm.get("compile_cache") == "filled" and compiled["from_cache_s"] is None:
            compiled["from_cache_s"] = arm["compile_s"]


def new_record(plan: Plan, about: Mapping[str, Any], code: Mapping[str, Any]) -> Record:
    """Before anything is done; `about`: kind and options."""
    return {
        **about,
        "code": dict(code),
        "seconds": 0.0,
        "warnings": [],
        "compile": {"seconds": 0.0, "at_a_time": 0, "arms": {}},
        "parts": {name: not_reached() for name in plan.parts()},
    }


def continued_record(path: Path, plan: Plan, about: Mapping[str, Any], code: Mapping[str, Any]) -> Record:
    """Return the record that is there, with a place for every part. `UsageError` if it is of other code or options."""
    try:
        record: Record = parse_json(path.read_text())
        there = {name: record.get(name) for name in about}
        there["code"] = {name: record["code"].get(name) for name in code}
        parts = {name: not_reached() for name in plan.parts()} | record["parts"]
        record["compile"]["arms"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path}: no record that --continue could add to: begin anew with --fresh") from None
    for name, value in {**about, "code": dict(code)}.items():
        if there[name] != value and name != "started":
            raise UsageError(
                f"{path}: it is of another {name} ({_short(there[name])}, here {_short(value)}): "
                "name another --out, or begin anew with --fresh"
            )
    return {**record, "parts": parts}


def _short(value: Any) -> str:
    return json.dumps(value)[:120]


def describe_source(folders: Sequence[Path]) -> dict[str, Any]:
    """`describe_code` and a digest of every Python file, for a copy without history and for uncommitted changes."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return {**describe_code(), "source": digest.hexdigest()}
