"""`predict` over a folder of scans: one record per scan, written as soon as it is known, and a table at the end.

`OUT/results.jsonl` has a line per scan, in order of completion: the figures of `ScanPrediction`, or `error` with
`reason` and `message`. `OUT/results.csv` is the same as a table. Called again, scans that have figures are left alone
and those with an error are tried once more.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anatobench.array_files import arrays_digest
from anatobench.atomic_files import write_atomically
from anatobench.engine import Arrays
from anatobench.errors import AnatoBenchError, CaseError
from anatobench.progress import progress_bar
from anatobench.scan_prediction import ScanInput, ScanPrediction, ScanPredictor, read_scan
from anatobench.tasks import Task
from anatobench.volumes.dicom import is_dicom_file

SETTINGS_FILE = "settings.json"
RESULTS_FILE = "results.jsonl"
TABLE_FILE = "results.csv"
SCAN_SUFFIXES = (".nii", ".nii.gz", ".npz")

Record = dict[str, Any]
WriteFiles = Callable[[str, ScanInput, ScanPrediction], Mapping[str, Any]]
"""Writes what belongs beside the figures of the scan of that name; what it says is added to them."""


def find_scans(folder: Path) -> list[str]:
    """Scans at any depth by their path relative to the folder, sorted: files that are named like NIfTI or NPZ, and
    folders with DICOM files. Hidden names are passed by; `AnatoBenchError` if there is none."""
    if not folder.is_dir():
        raise AnatoBenchError(f"{folder}: no such folder: give --batch a folder of scans")
    found = []
    for root, folders, files in os.walk(folder):
        visible = [Path(root, name) for name in sorted(files) if not name.startswith(".")]
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(_is_dicom(path) for path in visible if not path.name.endswith(SCAN_SUFFIXES)):
            found.append(Path(root))
            folders.clear()
        else:
            found += [path for path in visible if path.name.endswith(SCAN_SUFFIXES)]
    if not found:
        raise AnatoBenchError(f"{folder}: holds no scan: no .nii, .nii.gz or .npz file and no folder of DICOM files")
    return sorted(path.relative_to(folder).as_posix() for path in found)


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
    names = find_scans(folder)
    done = _begin(out, settings)
    waiting = [name for name in names if name not in done]
    task, size = predictor.spec.task, predictor.spec.size
    failed = 0
    with (out / RESULTS_FILE).open("a", encoding="utf-8") as results:
        bar = progress_bar(len(names), "predict", "scan", initial=len(names) - len(waiting))
        try:
            for name, read in _read_ahead(waiting, lambda name: read_scan(folder / name, task, size)):
                record = _predicted(predictor, name, read, write_files, organs, attribute)
                failed += "error" in record
                results.write(json.dumps({"scan": name, **record}, allow_nan=False) + "\n")
                results.flush()
                bar.set_postfix(failed=failed, refresh=False)
                bar.update()
        finally:
            bar.close()
            records = _read_records(out / RESULTS_FILE)
            write_atomically(out / TABLE_FILE, _table(task, records).encode())
    return {
        "passed": failed < len(names),
        "scans": len(names),
        "predicted": len(waiting) - failed,
        "skipped": len(names) - len(waiting),
        "failed": {name: record["error"]["reason"] for name, record in records.items() if "error" in record},
        "results": str(out / RESULTS_FILE),
        "table": str(out / TABLE_FILE),
    }


def batch_settings(predictor: ScanPredictor, weights: Arrays, **options: Any) -> dict[str, Any]:
    """What the figures of a batch depend on."""
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
    read: Future[ScanInput],
    write_files: WriteFiles,
    organs: bool,
    attribute: Sequence[str],
) -> Record:
    try:
        scan = read.result()
        prediction = predictor.predict(scan, organs, attribute)
    except CaseError as error:
        return _failure(error.reason, str(error))
    except AnatoBenchError as error:
        return _failure("not-finite", str(error))
    except Exception as error:  # a reader's bug or a fault nobody thought of costs this scan alone
        return _failure("internal", f"{type(error).__name__}: {error}")
    return {**prediction.figures, **write_files(name, scan, prediction)}


def _failure(reason: str, message: str) -> Record:
    return {"error": {"reason": reason, "message": message}}


def _read_ahead(names: Sequence[str], read: Callable[[str], ScanInput]) -> Iterator[tuple[str, Future[ScanInput]]]:
    """Each scan with its reading, which began while the model was busy with the scan before."""
    with ThreadPoolExecutor(1) as reader:
        coming = [reader.submit(read, name) for name in names[:1]]
        for position, name in enumerate(names):
            current = coming.pop()
            current.exception()  # waits
            if position + 1 < len(names):
                coming.append(reader.submit(read, names[position + 1]))
            yield name, current


def _begin(out: Path, settings: Mapping[str, Any]) -> set[str]:
    """Keep the settings, or check that the folder was made with the same; the scans that need nothing more. Records of
    errors and a line that a kill cut off are dropped."""
    path = out / SETTINGS_FILE
    try:
        if path.is_file():
            saved = json.loads(path.read_text(encoding="utf-8"))
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
            record = json.loads(line)
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


def _is_dicom(path: Path) -> bool:
    try:
        return is_dicom_file(path)
    except OSError:
        return False
