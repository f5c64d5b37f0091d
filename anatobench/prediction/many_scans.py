"""`predict` over a folder of scans: one record per scan, written as soon as it is known, and a table at the end.

`OUT/results.jsonl` has a line per scan, in order of completion: the figures of `ScanPrediction`, or `error` with
`reason` and `message`. `OUT/results.csv` is the same as a table, and `OUT/rejected.csv` says of every file that looks
like a scan and has no figures why. Called again, scans that have figures are left alone and those with an error are
tried once more.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anatobench.datasets.case import Rejection, rejection_table
from anatobench.engine import Arrays
from anatobench.errors import AnatoBenchError, CaseError
from anatobench.prediction.one_scan import ScanInput, ScanPrediction, ScanPredictor, read_scan
from anatobench.system.array_files import arrays_digest
from anatobench.system.atomic_files import write_atomically
from anatobench.system.json_text import parse_json
from anatobench.system.progress import progress_bar
from anatobench.system.time_limit import GRACE, reading_seconds, too_slow
from anatobench.system.worker_pool import TimedOut, WorkerDied, run_in_workers
from anatobench.tasks import Task
from anatobench.volumes.scan_folder import find_scans

SETTINGS_FILE = "settings.json"
RESULTS_FILE = "results.jsonl"
TABLE_FILE = "results.csv"
REJECTED_FILE = "rejected.csv"

Record = dict[str, Any]
WriteFiles = Callable[[str, ScanInput, ScanPrediction], Mapping[str, Any]]
"""Writes what belongs beside the figures of the scan of that name; what it says is added to them."""


@dataclass(frozen=True)
class _Reading:
    """Reads a scan in a process of its own, which a damaged file may keep busy or kill: a job of the worker pool."""

    folder: Path
    task: Task
    size: str
    rescale: str

    def __call__(self, name: str) -> ScanInput | Record:
        try:
            return read_scan(self.folder / name, self.task, self.size, self.rescale)
        except CaseError as error:
            return _failure(error.reason, str(error))
        except AnatoBenchError as error:
            return _failure("unreadable", str(error))

    def seconds(self, name: str) -> float:
        return GRACE * reading_seconds(self.folder / name)


def read_scan_apart(scan: Path, task: Task, size: str, rescale: str = "auto") -> ScanInput:
    """`read_scan` in a process of its own, within its time limit. `CaseError` if the scan cannot be used."""
    [(_, read)] = _read_ahead([str(scan)], _Reading(Path(), task, size, rescale))
    if isinstance(read, ScanInput):
        return read
    reason, message = read["error"]["reason"], read["error"]["message"]
    found = find_scans(scan).scans if reason == "empty-series" else ()
    if nifti := [path for path in found if path.name.lower().endswith((".nii", ".nii.gz"))]:
        message += f"; it holds {len(nifti)} NIfTI file(s): give one of them, or the folder as --batch FOLDER"
    raise CaseError(reason, message)


def _listed(folder: Path) -> tuple[list[str], dict[str, Record]]:
    """Return scans at any depth by their path relative to the folder, and the records of what looks like a scan but
    is none that can be read (`find_scans`). `AnatoBenchError` if there is nothing of either."""
    if not folder.is_dir():
        raise AnatoBenchError(f"{folder}: no such folder: give --batch a folder of scans")
    found = find_scans(folder)
    if not found.scans and not found.passed_over:
        raise AnatoBenchError(f"{folder}: holds no scan: no .nii, .nii.gz or .npz file and no folder of DICOM files")
    passed_over = {_name(folder, one.path): _failure(one.reason, one.message) for one in found.passed_over}
    return [_name(folder, path) for path in found.scans], passed_over


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def predict_folder(
    predictor: ScanPredictor,
    folder: Path,
    out: Path,
    settings: Mapping[str, Any],
    write_files: WriteFiles,
    organs: bool = False,
    attribute: Sequence[str] = (),
) -> dict[str, Any]:
    """Predict every scan of a folder that has no figures in `out` yet; how many there are.

    `settings` is everything that the figures depend on: a folder of results that was made with others is refused.
    A scan that cannot be used is recorded and passed by; a disk that refuses is an `AnatoBenchError`.
    """
    names, passed_over = _listed(folder)
    done = _begin(out, settings)
    waiting = [name for name in names if name not in done]
    task, size = predictor.spec.task, predictor.spec.size
    reading = _Reading(folder, task, size, str(settings.get("rescale", "auto")))
    failed = 0
    with (out / RESULTS_FILE).open("a", encoding="utf-8") as results:
        bar = progress_bar(len(names), "predict", "scan", initial=len(names) - len(waiting))
        try:
            for name, record in passed_over.items():
                results.write(json.dumps({"scan": name, **record}, allow_nan=False) + "\n")
            for name, read in _read_ahead(waiting, reading):
                record = _predicted(predictor, name, read, write_files, organs, attribute)
                failed += "error" in record
                results.write(json.dumps({"scan": name, **record}, allow_nan=False) + "\n")
                results.flush()
                bar.set_postfix(failed=failed, refresh=False)
                bar.update()
        finally:
            bar.close()
            records = _read_records(out / RESULTS_FILE)
            write_atomically(out / TABLE_FILE, _table(task, records).encode(errors="backslashreplace"))
            write_atomically(out / REJECTED_FILE, rejection_table(_rejections(folder, records)))
    return {
        "passed": failed < len(names),
        "scans": len(names),
        "passed_over": len(passed_over),
        "predicted": len(waiting) - failed,
        "skipped": len(names) - len(waiting),
        "failed": {name: record["error"]["reason"] for name, record in records.items() if "error" in record},
        "results": str(out / RESULTS_FILE),
        "table": str(out / TABLE_FILE),
    }


def batch_settings(predictor: ScanPredictor, weights: Arrays, **options: Any) -> dict[str, Any]:
    """Return what the figures of a batch depend on; `weights` in canonical form."""
    return {
        "weights": arrays_digest(weights),
        "task": predictor.spec.task.name,
        "framework": predictor.framework,
        "thresholds": json.loads(json.dumps(asdict(predictor.thresholds))),
        **options,
    }


def _predicted(
    predictor: ScanPredictor,
    name: str,
    read: ScanInput | Record,
    write_files: WriteFiles,
    organs: bool,
    attribute: Sequence[str],
) -> Record:
    if not isinstance(read, ScanInput):
        return read
    try:
        prediction = predictor.predict(read, organs, attribute)
    except CaseError as error:
        return _failure(error.reason, str(error))
    except AnatoBenchError as error:
        return _failure("not-finite", str(error))
    except Exception as error:  # a reader's bug or a fault nobody thought of costs this scan alone
        return _failure("internal", f"{type(error).__name__}: {error}")
    return {**prediction.figures, **write_files(name, read, prediction)}


def _failure(reason: str, message: str) -> Record:
    return {"error": {"reason": reason, "message": message}}


def _rejections(folder: Path, records: Mapping[str, Record]) -> list[Rejection]:
    failed = {name: record["error"] for name, record in records.items() if "error" in record}
    return [Rejection(name, str(folder / name), e["reason"], e["message"]) for name, e in failed.items()]


def _read_ahead(names: Sequence[str], reading: _Reading) -> Iterator[tuple[str, ScanInput | Record]]:
    """Yield each scan as it was read, in a process that reads the next one while the model is busy with this one."""
    with closing(run_in_workers(reading, names, 1, time_limit=reading.seconds)) as results:
        for name, read in results:
            if isinstance(read, TimedOut):
                late = too_slow(reading.folder / name, read.seconds)
                yield name, _failure(late.reason, str(late))
            elif isinstance(read, WorkerDied):
                message = f"{reading.folder / name}: the process that read it ended with exit code {read.exit_code}"
                yield name, _failure("worker-died", f"{message}: too little memory, or it crashes its decoder")
            else:
                yield name, read


def _begin(out: Path, settings: Mapping[str, Any]) -> set[str]:
    """Keep the settings, or check that the folder was made with the same; the scans that need nothing more. Records of
    errors and a line that a kill cut off are dropped."""
    path = out / SETTINGS_FILE
    try:
        if path.is_file():
            saved = {"rescale": "auto", **parse_json(path.read_text(encoding="utf-8"))}
            changed = [name for name in settings if saved.get(name) != settings[name]]
            if changed:
                raise AnatoBenchError(f"{out}: holds results with other {', '.join(changed)}: choose another --out")
        else:
            if out.is_dir() and any(out.iterdir()):
                raise AnatoBenchError(f"{out}: not empty and not a folder of results: choose another --out")
            out.mkdir(parents=True, exist_ok=True)
            write_atomically(path, (json.dumps(settings, indent=1) + "\n").encode())
        good = {n: record for n, record in _read_records(out / RESULTS_FILE).items() if "error" not in record}
        lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in good.values())
        write_atomically(out / RESULTS_FILE, lines.encode())
    except ValueError as error:
        raise AnatoBenchError(f"{path}: damaged ({error}): choose another --out") from None
    except OSError as error:
        raise AnatoBenchError(f"{out}: cannot be written ({error.strerror}): choose another --out") from None
    return set(good)


def _read_records(path: Path) -> dict[str, Record]:
    """By scan, whole lines only."""
    records: dict[str, Record] = {}
    for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else []:
        if line.endswith(b"\n"):
            record = parse_json(line)
            records[record["scan"]] = record
    return records


def _table(task: Task, records: Mapping[str, Record]) -> str:
    """CSV: scan, a probability and a call per class, error."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = task.class_names
    writer.writerow(["scan", *(f"probability:{n}" for n in names), *(f"call:{n}" for n in names), "error"])
    for scan in sorted(records):
        record = records[scan]
        if "error" in record:
            writer.writerow([scan, *[""] * (2 * len(names)), record["error"]["message"]])
        else:
            found = record["findings"]
            probabilities = [repr(found[name]["probability"]) for name in names]
            writer.writerow([scan, *probabilities, *(found[name]["call"] for name in names), ""])
    return text.getvalue()
