"""What got slower or faster between two records: per measured thing the ratio of medians with its interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.bench.arms import WITHOUT_HEAD
from anatobench.bench.intervals import independent_ratio
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.system.json_text import parse_json

LARGEST_RECORD = 64 * 2**20
"""Bytes; a file beyond it is no record."""


@dataclass(frozen=True)
class Change:
    """Of one thing that both records measured. Ratios are new to old: above 1 is slower."""

    what: str
    old_s: float
    new_s: float
    ratio: float
    ci95: tuple[float, float]
    verdict: str
    """`slower` or `faster`: the whole interval lies beyond the threshold; else `same`."""


def compare(old: Path, new: Path, threshold: float, across_frameworks: bool = False) -> dict[str, Any]:
    """Return the figures of `anatobench bench compare`; `passed` is False if something got significantly slower.

    `AnatoBenchError` if a file is no record with timings, or if the two have nothing in common.

    With `across_frameworks` each record holds one arm of a piece of work, whatever its framework, and a slower one is
    no failure. The ratios are always of separate runs, `paired` False: what differed between the runs is in them.
    """
    if not 0 <= threshold < 1:
        raise UsageError(f"--threshold {threshold:g}: a share, at least 0 and below 1")
    records = [read_record(path) for path in (old, new)]
    before, after = (dict(_timings(path, record)) for path, record in zip((old, new), records, strict=True))
    if across_frameworks:
        before, after = _across(old, before), _across(new, after)
    both = [what for what in before if what in after]
    if not both:
        raise AnatoBenchError(
            f"{old} and {new} measured nothing in common: same model, size, batch and precision? "
            "Records of two frameworks are compared with --across-frameworks"
        )
    changes = [_change(what, before[what], after[what], threshold) for what in both]
    return {
        "passed": across_frameworks or not any(change.verdict == "slower" for change in changes),
        "across_frameworks": across_frameworks,
        "paired": False,
        "threshold": threshold,
        "same_machine": _machine(records[0]) == _machine(records[1]),
        "same_environment": _environment(records[0]) == _environment(records[1]),
        "changes": [asdict(change) for change in changes],
        "only_in_old": [what for what in before if what not in after],
        "only_in_new": [what for what in after if what not in before],
    }


def _across(path: Path, timings: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the same without the frameworks' names, of which a record then may hold one alone."""
    found: dict[str, np.ndarray] = {}
    for what, seconds in timings.items():
        work, _, arm = what.rpartition(": ")
        what = work + (WITHOUT_HEAD if arm.endswith(WITHOUT_HEAD) else "")
        if what in found:
            raise AnatoBenchError(
                f"{path}: holds several arms of {what}, so no one can be taken: their ratios stand in it already"
            )
        found[what] = seconds
    return found


def read_record(path: Path) -> dict[str, Any]:
    """Return a record of any kind; `AnatoBenchError` if it is too large, no JSON or no record."""
    try:
        if path.stat().st_size > LARGEST_RECORD:
            raise AnatoBenchError(f"{path}: larger than {LARGEST_RECORD >> 20} MiB: this is no record of a benchmark")
        record = parse_json(path.read_text())
    except OSError as error:
        raise AnatoBenchError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise AnatoBenchError(f"{path}: no JSON: give what `anatobench bench step --json` printed") from None
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        raise AnatoBenchError(f"{path}: no `kind`: this is no record of a benchmark")
    return record


def _change(what: str, old: np.ndarray, new: np.ndarray, threshold: float) -> Change:
    ratio = independent_ratio(new, old)
    slower, faster = ratio.low > 1 + threshold, ratio.high < 1 / (1 + threshold)
    verdict = "slower" if slower else "faster" if faster else "same"
    return Change(what, float(np.median(old)), float(np.median(new)), ratio.value, (ratio.low, ratio.high), verdict)


def _timings(path: Path, record: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    reader = READERS.get(record["kind"])
    if reader is None:
        raise AnatoBenchError(f"{path}: records of kind {record['kind']!r} have no timings to compare")
    try:
        for what, seconds in reader(record):
            if len(seconds) < 2 or not np.isfinite(seconds).all() or not (seconds > 0).all():
                raise ValueError("timings must be two or more positive numbers")
            yield what, seconds
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AnatoBenchError(f"{path}: a damaged record ({type(error).__name__}: {error})") from None


def _of_step(record: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    fixed = f"{record['model']} {record['size']} {record['geometry']} batch {record['batch_size']}"
    if record.get("processes", 1) > 1:
        fixed += f" on {record['processes']} devices"
    for arm in record["arms"]:
        yield f"{fixed} {arm['precision']}: {arm['name']}", np.array(arm["seconds"], np.float64)


def _of_gpu_suite(record: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for part in record["parts"].values():
        found = part["record"]
        if isinstance(found, dict) and found.get("kind") == "step":
            yield from _of_step(found)


READERS: dict[str, Callable[[Mapping[str, Any]], Iterator[tuple[str, np.ndarray]]]] = {
    "step": _of_step,
    "gpu_suite": _of_gpu_suite,
}


def _machine(record: Mapping[str, Any]) -> tuple[Any, ...]:
    machine = _host(record)
    return machine.get("cpu"), machine.get("cores"), (machine.get("gpu") or {}).get("name")


def _environment(record: Mapping[str, Any]) -> Mapping[str, str]:
    """Variables that change timings; empty in records from before they were kept."""
    return _host(record).get("environment") or {}


def _host(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """`machine` where a GPU may have been measured, `host` where it was the processor alone."""
    return record.get("machine") or record.get("host") or {}
