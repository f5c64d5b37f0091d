"""What the scripts in benchmarks/ do with the record of a measurement: they write it, print it, or both."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def add_record_options(parser: argparse.ArgumentParser) -> None:
    """Add `--out` and `--json`."""
    parser.add_argument("--out", type=Path, help="write the record to this JSON file")
    parser.add_argument("--json", action="store_true", help="print the record as the last line of stdout")


def hand_out(record: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Write and print the record as the options say; the file's folder is made."""
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    if args.json:
        print(json.dumps(record))
