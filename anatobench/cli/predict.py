"""`anatobench predict`: probabilities for one scan."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from anatobench.recipes import FRAMEWORKS

WARNING = "Not calibrated and not for clinical use: these numbers rank scans in a benchmark, nothing more."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Probabilities for one scan, read, resampled and cropped as `anatobench prepare` does it.\n" + WARNING
    )
    parser.add_argument("weights", type=Path, metavar="WEIGHTS|RUN",
                        help="a file that `anatobench export` has written, or a run's folder")  # fmt: skip
    parser.add_argument("scan", type=Path, metavar="SCAN",
                        help="a NIfTI file, a RAD-ChestCT .npz, or a folder with one DICOM series")  # fmt: skip
    parser.add_argument("--framework", choices=FRAMEWORKS, help="default: the first that is installed")
    parser.add_argument("--json", action="store_true", help="print probabilities and logits as one JSON object")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.errors import AnatoBenchError
    from anatobench.exporting import read_exported, read_run_model
    from anatobench.scan_prediction import installed_framework, predict_scan

    if not args.weights.exists():
        raise AnatoBenchError(f"{args.weights}: no such file or run")
    model = read_run_model(args.weights) if args.weights.is_dir() else read_exported(args.weights)
    result = predict_scan(model, args.scan, args.framework or installed_framework())
    for name, probability in result["probabilities"].items():
        print(f"{probability:8.4f}  {name}", file=sys.stderr)
    print(WARNING, file=sys.stderr)
    return {"weights": str(args.weights), "scan": str(args.scan), **result}
