"""Preparation: volumes per second from raw files to a finished store, for one or several numbers of processes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anatobench.bench.rounds import measure_in_turns, rates
from anatobench.datasets.case import Listing
from anatobench.errors import AnatoBenchError
from anatobench.store.prepare import prepare
from anatobench.system.host import describe_code, host_record
from anatobench.system.progress import progress_bar


@dataclass(frozen=True)
class RawData:
    """What is prepared."""

    dataset: str
    root: Path
    listing: Listing
    size: str
    """Of the store: `full` or `tiny`."""
    synthetic: bool


def bench_prepare(raw: RawData, workers: tuple[int, ...], rounds: int, scratch: Path) -> dict[str, Any]:
    """Return the record that `benchmarks/results/schemas/prepare.json` describes.

    Every round prepares everything anew in a folder below `scratch`, with each number of `workers` in turn; 0 stands
    for this process itself. Volumes are scans and masks.
    """
    preparations = {count: Preparation(raw, count, scratch) for count in workers}
    contestants: Mapping[str, Callable[[], Folder]] = {str(count): run for count, run in preparations.items()}
    with progress_bar(rounds + 1, "bench prepare", "round") as bar:
        measured = measure_in_turns(contestants, rounds, bar.update)
    volumes = preparations[workers[0]].volumes
    results = [{"workers": count, **rates(measured[str(count)], volumes)} for count in workers]
    alone = next((entry for entry in results if entry["workers"] == 1), None)
    for entry in results:
        count = max(1, int(entry["workers"]))
        entry["efficiency"] = None if alone is None else entry["volumes_per_s"] / alone["volumes_per_s"] / count
    return {
        "kind": "prepare",
        "data": {
            "dataset": raw.dataset,
            "size": raw.size,
            "synthetic": raw.synthetic,
            "cases": len(raw.listing.cases),
            "volumes": volumes,
            "bytes": sum(_byte_size(path) for case in raw.listing.cases for path in (case.scan, case.mask) if path),
        },
        "rounds": rounds,
        "results": results,
        "volumes_per_s": max(entry["volumes_per_s"] for entry in results),
        "volumes_per_s_per_core": max(entry["volumes_per_s_per_core"] for entry in results),
        "host": host_record(),
        "code": describe_code(),
    }


@dataclass(frozen=True)
class Folder:
    """A folder to be removed once the clock stands."""

    path: Path

    def close(self) -> None:
        shutil.rmtree(self.path)


class Preparation:
    """Prepares everything into a new store."""

    def __init__(self, raw: RawData, workers: int, scratch: Path) -> None:
        self._raw, self._workers, self._scratch = raw, workers, scratch
        self.volumes = 0

    def __call__(self) -> Folder:
        raw, store = self._raw, self._scratch / f"store_{self._workers}"
        summary = prepare(
            raw.listing, store, raw.size, self._workers, dataset=raw.dataset, raw_root=raw.root, progress=False
        )
        if not summary.prepared:
            raise AnatoBenchError(f"{raw.root}: no case could be prepared: `anatobench prepare` says why")
        self.volumes = round(summary.volumes_per_second * summary.seconds)
        return Folder(store)


def _byte_size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
