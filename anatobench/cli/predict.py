"""`anatobench predict`: probabilities for one scan, or for a folder of scans."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anatobench.recipes import FRAMEWORKS
from anatobench.system.progress import named_if_slow

if TYPE_CHECKING:
    from anatobench.prediction.one_scan import ScanInput, ScanPrediction, ScanPredictor

WARNING = "Not calibrated and not for clinical use: these numbers rank scans in a benchmark, nothing more."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Probabilities for one scan or a folder of scans, read, resampled and cropped as `anatobench prepare` does\n"
        "it. Only the crop at the scan's centre is seen, as in evaluation. A finding is called positive from the\n"
        "threshold on that the run's evaluation chose, each class by its own; without one, from 0.5 on.\n" + WARNING
    )
    parser.add_argument("weights", type=Path, metavar="WEIGHTS|RUN",
                        help="a file that `anatobench export` has written, or a run's folder")  # fmt: skip
    parser.add_argument("scan", type=Path, metavar="SCAN", nargs="?",
                        help="a NIfTI file, a RAD-ChestCT .npz, or a folder with one DICOM series")  # fmt: skip
    parser.add_argument("--batch", type=Path, metavar="FOLDER",
                        help="predict every scan in this folder, at any depth; a bad scan is recorded and passed by, "
                             "and what is done is not done again")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="where --batch writes results.csv and .jsonl, and --attribution its files")  # fmt: skip
    parser.add_argument("--overlay", type=Path, metavar="DIR",
                        help="write the organs that the auxiliary head predicts: organs.nii.gz on the scan's own grid "
                             "and organs.png; needs a run's folder")  # fmt: skip
    parser.add_argument("--attribution", metavar="FINDING|all",
                        help="write where the evidence for a finding lies (Grad-CAM) into --out, as NIfTI on the "
                             "scan's own grid and as PNG")  # fmt: skip
    parser.add_argument("--rescale", choices=("auto", "hu"), default="auto",
                        help="hu: the scans are in HU whatever their voxels look like")  # fmt: skip
    parser.add_argument("--framework", choices=FRAMEWORKS, help="default: the first that is installed")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.errors import AnatoBenchError
    from anatobench.evaluation.thresholds import find_thresholds
    from anatobench.prediction.exported_model import read_model
    from anatobench.prediction.many_scans import batch_settings, predict_folder, read_scan_apart
    from anatobench.prediction.one_scan import ScanPredictor, asked_findings, installed_framework

    _check(args)
    if not os.path.exists(args.weights):  # a name may be longer than any file's
        raise AnatoBenchError(f"{args.weights}: no such file or run")
    organs = args.overlay is not None
    model = read_model(args.weights, organs)
    task = model.spec.task
    findings = asked_findings(task, args.attribution)
    if args.batch is None and not os.path.exists(args.scan):
        raise AnatoBenchError(f"{args.scan}: no such file or folder")
    thresholds = find_thresholds(args.weights, task, model.step)
    scan = None if args.batch is not None else read_scan_apart(args.scan, task, model.spec.size, args.rescale)
    framework = args.framework or installed_framework()
    with named_if_slow(f"predict: starting {framework}"):
        predictor = ScanPredictor(model, framework, thresholds)
    if scan is None:
        args.goes_on = True
        settings = batch_settings(
            predictor, model.weights, overlay=organs, attribution=list(findings), rescale=args.rescale
        )

        def write(name: str, scan: ScanInput, prediction: ScanPrediction) -> Mapping[str, Any]:
            overlay = args.overlay / name if organs else None
            return _write_files(predictor, scan, prediction, overlay, args.out / name)

        summary = predict_folder(predictor, args.batch, args.out, settings, write, organs, findings)
        print(_summary(summary))
        print(f"Thresholds: {thresholds.source}.\n{WARNING}")
        return {"weights": str(args.weights), "batch": str(args.batch), "calibrated": False, **summary}
    with named_if_slow("predict: the model is at work"):
        prediction = predictor.predict(scan, organs, findings)
    files = _write_files(predictor, scan, prediction, args.overlay, args.out)
    print(_lines(prediction.figures))
    print(f"Thresholds: {thresholds.source}.\n{WARNING}")
    if written := _paths(files):
        print(f"Written: {', '.join(written)}")
    return {"weights": str(args.weights), "scan": str(args.scan), **prediction.figures, **files}


def _check(args: argparse.Namespace) -> None:
    from anatobench.errors import UsageError

    if (args.scan is None) == (args.batch is None):
        raise UsageError("give either one SCAN, or --batch FOLDER for all scans in a folder")
    if args.out is None and (args.batch is not None or args.attribution is not None):
        raise UsageError("--batch and --attribution write files: give --out DIR as well")
    if args.out is not None and args.batch is None and args.attribution is None:
        raise UsageError("--out: there is nothing to write without --batch or --attribution")
    for option in ("out", "overlay"):
        folder = getattr(args, option)
        if args.batch is not None and folder is not None and folder.resolve().is_relative_to(args.batch.resolve()):
            raise UsageError(
                f"--{option} {folder}: lies in the folder of scans, where its files would be taken for scans"
            )
    if args.overlay is not None and args.weights.is_file():
        raise UsageError(
            f"--overlay: {args.weights} is an export, which leaves the auxiliary head out: give the run's folder"
        )


def _write_files(
    predictor: ScanPredictor, scan: ScanInput, prediction: ScanPrediction, overlay: Path | None, out: Path | None
) -> dict[str, Any]:
    """Return what was asked for, and the names of the files; nothing for nothing."""
    if overlay is None and not prediction.attributions:
        return {}
    from anatobench.prediction.files import write_attribution, write_organs

    task = predictor.spec.task
    files: dict[str, Any] = {}
    if overlay is not None:
        files["overlay"] = write_organs(overlay, scan, prediction, task)
    if out is not None and prediction.attributions:
        files["attribution"] = {
            finding: write_attribution(out, scan, prediction, task, finding) for finding in prediction.attributions
        }
    return files


def _paths(files: Mapping[str, Any]) -> list[str]:
    """Return every name in what `_write_files` says."""
    return [path for value in files.values() for path in (_paths(value) if isinstance(value, Mapping) else [value])]


def _lines(figures: Mapping[str, Any]) -> str:
    """Return one line per finding, and how much of the scan was seen."""
    width = max(len(name) for name in figures["findings"])
    lines = [f"{'finding':<{width}}  probability  threshold  call"]
    for name, found in figures["findings"].items():
        lines.append(f"{name:<{width}}  {found['probability']:11.4f}  {found['threshold']:9.4f}  {found['call']}")
    seen, whole = (" x ".join(f"{mm:.0f}" for mm in figures["crop"][name]) for name in ("seen_mm", "scan_mm"))
    lines += [f"Note: {note}" for note in figures["notes"]]
    lines.append(f"Seen: {seen} mm of {whole} mm (head to foot, front to back, right to left): "
                 f"{figures['crop']['policy']}.")  # fmt: skip
    return "\n".join(lines)


def _summary(summary: Mapping[str, Any]) -> str:
    failed = "".join(f"\n  {name}: {reason}" for name, reason in summary["failed"].items())
    return (
        f"{summary['scans']} scans: {summary['predicted']} predicted, {summary['skipped']} done before, "
        f"{len(summary['failed'])} failed; {summary['table']}, {summary['results']} and what was asked for besides lie "
        f"in {Path(summary['table']).parent}{failed}"
    )
