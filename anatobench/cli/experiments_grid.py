"""`anatobench experiments grid`: the paper's experiments, listed, run here or on a cluster, and collected."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anatobench.cli.arguments import whole
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.experiments.grid import TABLES, Cell, Selection
from anatobench.recipes import FRAMEWORKS, MODELS
from anatobench.system.atomic_files import write_atomically
from anatobench.system.json_text import json_bytes
from anatobench.tasks import TASKS

if TYPE_CHECKING:
    from anatobench.experiments.grid_runs import GridSettings
    from anatobench.experiments.runs import PlannedRun

RECORD_FILE = "record.json"
CSV_FILE = "results.csv"
PAGE_FILE = "report.html"
REFERENCE_FLOPS = 1e14
"""Per second, for hours that anybody can scale: a tenth of an H100's peak in bfloat16."""


def add_parser(experiments: Any) -> None:
    """`grid` with its four actions, beside the other experiments."""
    grid = experiments.add_parser(
        "grid",
        help="the paper's tables: list, run, submit to Slurm, collect",
        description="The paper's experiments: 3 data sets x 3 backbones x {scratch, pretrained} x {with, without\n"
        "segmentation} (Table 1; 10 and 12 per class), segmentation weights (2, 13), organs (3), distorted boundaries\n"
        "(14) and segmentation losses (losses), each in both frameworks and from several seeds. A run that several\n"
        "tables share is trained once. What is done is never run again, what was stopped goes on.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = grid.add_subparsers(dest="action", metavar="ACTION", required=True)
    parsers = {}
    for name, action, summary in (
        ("list", run_list, "every run with its state, and what training them takes"),
        ("run", run_here, "train and evaluate on this machine"),
        ("submit", run_submit, "train and evaluate as one Slurm job array, when no earlier one is still queued"),
        ("collect", run_collect, "one table beside the paper's, with differences and intervals over seeds"),
    ):
        parsers[name] = actions.add_parser(name, help=summary, description=summary)
        parsers[name].set_defaults(run_experiment=action)
        _add_selection(parsers[name])
    for name in ("list", "run", "submit"):
        _add_settings(parsers[name])
    parsers["run"].add_argument(
        "--workers", type=whole(1), default=1, metavar="W",
        help="runs at a time; they share this machine's cores, and its first GPU if it has any (default: 1)",
    )  # fmt: skip
    add_submission(parsers["submit"])
    for parser in parsers.values():
        parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    defaults = Selection()
    parser.add_argument(
        "--out", type=Path, default=Path("grid"), metavar="DIR", help="folder of the runs (default: grid)"
    )
    for name, choices in (("tables", TABLES), ("datasets", TASKS), ("models", MODELS), ("frameworks", FRAMEWORKS)):
        parser.add_argument(f"--{name}", metavar="NAMES",
                            help=f"only these of {', '.join(choices)}, separated by commas")  # fmt: skip
    parser.add_argument("--seeds", type=whole(1), default=defaults.seeds, help="repetitions (default: %(default)s)")


def add_submission(parser: argparse.ArgumentParser) -> None:
    """Add what may be said about a job array."""
    parser.add_argument("--at-a-time", type=whole(1), metavar="N", help="run at most N elements of the array at once")
    parser.add_argument("--sbatch", action="append", default=[], metavar="OPTION",
                        help="for sbatch, for example --sbatch=--gpus-per-node=4; can be repeated (source "
                             "slurm/site.conf sets the usual ones)")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true",
                        help="write the plan and print the sbatch line, submit nothing")  # fmt: skip


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stores", metavar="DIR",
        help="folder with the stores ratic, ct_rate and rad_chestct, which say whether runs are full or tiny (default: "
             "$ANATOBENCH_STORES, or stores)",
    )  # fmt: skip
    parser.add_argument(
        "--from-scratch", action="store_true",
        help="train pretrained conditions from scratch: stores of size tiny have no pretrained weights",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=whole(1), help="end every run after so many steps (default: the paper's epochs)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="settings",
        help="change the recipe of every run, for example --set batch_size=4; can be repeated",
    )  # fmt: skip


def _selection(args: argparse.Namespace, settings: GridSettings) -> Selection:
    given = {
        name: tuple(dict.fromkeys(word.strip() for word in text.split(",")))
        for name in ("tables", "datasets", "models", "frameworks")
        if (text := getattr(args, name)) is not None
    }
    selection = Selection(**given, seeds=args.seeds, from_scratch=settings.from_scratch)
    if not selection.cells:
        raise UsageError(
            "none of these tables has such a data set and model: give fewer of --tables, --datasets, --models"
        )
    return selection


def _settings(args: argparse.Namespace) -> GridSettings:
    """Return the folder's, or those on the command line."""
    from anatobench.experiments.grid_runs import settings_for

    given = {
        "stores": getattr(args, "stores", None),
        "from_scratch": getattr(args, "from_scratch", False),
        "steps": getattr(args, "steps", None),
        "settings": tuple(getattr(args, "settings", ())),
    }
    asked = {name: value for name, value in given.items() if value not in (None, False, ())}
    return settings_for(args.out, asked, os.environ.get("ANATOBENCH_STORES") or "stores")


def _to_do(args: argparse.Namespace) -> tuple[Selection, GridSettings, list[Cell]]:
    """Return the folder begun and the runs that are not done; `AnatoBenchError` if they lack something."""
    from anatobench.experiments.grid_runs import GRID_FILE, what_is_missing
    from anatobench.experiments.runs import DONE, keep_settings, state_of

    settings = _settings(args)
    selection = _selection(args, settings)
    waiting = [cell for cell in selection.cells if state_of(args.out, cell.name) != DONE]
    missing = what_is_missing(waiting, settings)
    if missing:
        print("\n".join(missing), file=sys.stderr)
        raise AnatoBenchError(f"{len(missing)} of the things that the runs need are missing (above): nothing was begun")
    keep_settings(args.out / GRID_FILE, settings, "this grid")
    return selection, settings, waiting


def run_list(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.experiments.grid_runs import work_of
    from anatobench.experiments.runs import STATES, last_step, run_folder, state_of
    from anatobench.report.summary import text_table

    settings = _settings(args)
    selection = _selection(args, settings)
    cells: list[dict[str, Any]] = []
    for cell, work in zip(selection.cells, work_of(selection.cells, settings), strict=True):
        steps, flop = work or (None, None)
        cells.append({
            "cell": cell.name,
            "tables": list(selection.tables_of(cell.condition)),
            "state": state_of(args.out, cell.name),
            "step": last_step(run_folder(args.out, cell.name)),
            "steps": steps,
            "flop": flop,
        })  # fmt: skip
    states = Counter(str(row["state"]) for row in cells)
    figures = {"settings": asdict(settings), "states": {state: states[state] for state in STATES}, "cells": cells}
    if not args.json:
        header = ("cell", "tables", "state", "step", "of", "PFLOP", f"hours at {REFERENCE_FLOPS / 1e12:.0f} TFLOP/s")
        print(text_table(header, [_list_row(row) for row in cells]))
        counted = [row["flop"] for row in cells if row["flop"] is not None]
        print(f"{len(cells)} runs: {', '.join(f'{states[state]} {state}' for state in STATES)}")
        print(f"training takes {_petaflop(sum(counted))} PFLOP, {_hours(sum(counted))} GPU-hours at "
              f"{REFERENCE_FLOPS / 1e12:.0f} TFLOP/s, runs whose store is missing not counted")  # fmt: skip
    return figures


def _list_row(row: dict[str, Any]) -> tuple[str, ...]:
    work = ("-",) * 3 if row["flop"] is None else (str(row["steps"]), _petaflop(row["flop"]), _hours(row["flop"]))
    return (row["cell"], ",".join(row["tables"]), row["state"], str(row["step"]), *work)


def _petaflop(flop: float) -> str:
    return f"{flop / 1e15:.3g}" if flop < 1e18 else f"{flop / 1e15:.0f}"


def _hours(flop: float) -> str:
    return f"{flop / REFERENCE_FLOPS / 3600:.2g}" if flop < 1e20 else f"{flop / REFERENCE_FLOPS / 3600:.0f}"


def run_here(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.experiments.grid_runs import planned
    from anatobench.experiments.runs import train_here

    selection, settings, waiting = _to_do(args)
    before = len(selection.cells) - len(waiting)
    args.goes_on = True
    train_here(planned(waiting, settings), args.out, args.workers, "grid", before)
    print(f"{len(waiting)} runs trained and evaluated, {before} were done before; next: anatobench experiments grid "
          f"collect --out {args.out}")  # fmt: skip
    return {"out": str(args.out), "done_before": before, "done_now": len(waiting)}


def run_submit(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.experiments.grid_runs import planned

    selection, settings, waiting = _to_do(args)
    return hand_over(args, planned(waiting, settings), len(selection.cells) - len(waiting))


def hand_over(args: argparse.Namespace, waiting: Sequence[PlannedRun], before: int) -> dict[str, Any]:
    """Give the runs to Slurm, `before` of them all being done; the figures name the last job and its plan."""
    from anatobench.experiments.jobs import job_arrays, shell_lines, submit

    figures = {"out": str(args.out), "done_before": before, "submitted": 0, "job": None, "plan": None, "command": None}
    if not waiting:
        print(f"all {before} runs are done: nothing to submit")
        return figures
    arrays = job_arrays(waiting, args.out, args.at_a_time, args.sbatch)
    lines = shell_lines(arrays)
    figures |= {"plan": str(arrays[-1].plan), "command": "\n".join(lines)}
    if args.dry_run:
        if not args.json:
            print("\n".join(lines))
        print(f"{len(waiting)} runs, {before} were done before: nothing was submitted", file=sys.stderr)
        return figures
    jobs = submit(arrays)
    print(f"job {', '.join(jobs)}: {len(waiting)} runs, {before} were done before")
    return figures | {"job": jobs[-1], "submitted": len(waiting)}


def run_collect(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.experiments import grid_results
    from anatobench.report.grid_page import TextTable, build_grid_page
    from anatobench.report.summary import text_table

    settings = _settings(args)
    record = grid_results.collect(_selection(args, settings), settings, args.out)
    remarks = grid_results.notes_of(record)
    tables = (
        TextTable(grid_results.RESULT_HEADER, grid_results.result_rows(record)),
        TextTable(grid_results.GAIN_HEADER, grid_results.gain_rows(record)),
        TextTable(grid_results.FRAMEWORK_HEADER, grid_results.framework_rows(record)),
    )
    for table in tables:
        if table.rows:
            print(text_table(table.header, table.rows) + "\n")
    for number, note in enumerate(remarks, start=1):
        print(f"[{number}] {note}")
    tiny = [dataset for dataset, size in record["sizes"].items() if size == "tiny"]
    if tiny:
        print(f"{', '.join(tiny)}: tiny models on tiny scans, which the paper's figures are not about")
    if record["synthetic"]:
        print(f"{', '.join(record['synthetic'])}: a synthetic cohort, which the paper's figures are not about")
    for kind, what in (("missing", "not done yet"), ("undefined", "evaluated, but the macro AUC is undefined")):
        if record[kind]:
            print(f"{len(record[kind])} runs {what}: {_shortened(record[kind])}")
    write_atomically(args.out / RECORD_FILE, json_bytes(record))
    write_atomically(args.out / CSV_FILE, grid_results.csv_text(record).encode())
    write_atomically(args.out / PAGE_FILE, build_grid_page(record, *tables, remarks).encode())
    print(f"AUC and gains with 95 % intervals over seeds; {args.out / PAGE_FILE} shows them, {RECORD_FILE} and "
          f"{CSV_FILE} beside it hold all")  # fmt: skip
    return record


def _shortened(names: Sequence[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
