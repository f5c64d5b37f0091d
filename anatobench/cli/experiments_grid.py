"""`anatobench experiments grid`: the paper's experiments, listed, run here or on a cluster, and collected."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anatobench.cli.arguments import whole
from anatobench.cli.experiment_actions import (
    PAGE_FILE,
    RECORD_FILE,
    add_actions,
    counted_states,
    hand_over,
    print_absent,
    print_tables,
    refuse_missing,
    state_rows,
    states_line,
    train,
    words_of,
    write_results,
)
from anatobench.errors import UsageError
from anatobench.experiments.grid import TABLES, Selection
from anatobench.recipes import FRAMEWORKS, MODELS
from anatobench.system.atomic_files import write_atomically
from anatobench.tasks import TASKS

if TYPE_CHECKING:
    from anatobench.experiments.grid_runs import GridSettings
    from anatobench.experiments.runs import PlannedRun

CSV_FILE = "results.csv"
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
    summaries = {
        "list": (run_list, "every run with its state, and what training them takes"),
        "run": (lambda args: train(args, "grid", *_to_do(args)), "train and evaluate on this machine"),
        "submit": (
            lambda args: hand_over(args, *_to_do(args)),
            "train and evaluate as one Slurm job array, when no earlier one is still queued",
        ),
    }
    collecting = {"collect": (run_collect, "one table beside the paper's, with differences and intervals over seeds")}
    add_actions(actions, collecting, _add_selection)
    add_actions(actions, summaries, _add_selection_and_settings)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    defaults = Selection()
    parser.add_argument(
        "--out", type=Path, default=Path("grid"), metavar="DIR", help="folder of the runs (default: grid)"
    )
    for name, choices in (("tables", TABLES), ("datasets", TASKS), ("models", MODELS), ("frameworks", FRAMEWORKS)):
        parser.add_argument(f"--{name}", metavar="NAMES",
                            help=f"only these of {', '.join(choices)}, separated by commas")  # fmt: skip
    parser.add_argument("--seeds", type=whole(1), default=defaults.seeds, help="repetitions (default: %(default)s)")


def _add_selection_and_settings(parser: argparse.ArgumentParser) -> None:
    _add_selection(parser)
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
        name: words_of(text)
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


def _to_do(args: argparse.Namespace) -> tuple[list[PlannedRun], int]:
    """Return the runs that are not done, and how many are, the folder being begun."""
    from anatobench.experiments.grid_runs import GRID_FILE, planned, what_is_missing
    from anatobench.experiments.runs import DONE, keep_settings, state_of

    settings = _settings(args)
    cells = _selection(args, settings).cells
    waiting = [cell for cell in cells if state_of(args.out, cell.name) != DONE]
    refuse_missing(what_is_missing(waiting, settings))
    keep_settings(args.out / GRID_FILE, settings, "this grid")
    return planned(waiting, settings), len(cells) - len(waiting)


def run_list(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.experiments.grid_runs import work_of
    from anatobench.report.summary import text_table

    settings = _settings(args)
    selection = _selection(args, settings)
    works = [work or (None, None) for work in work_of(selection.cells, settings)]
    rows = state_rows(args.out, (cell.name for cell in selection.cells))
    cells = [
        {"cell": cell.name, "tables": list(selection.tables_of(cell.condition)), **row, "steps": steps, "flop": flop}
        for cell, row, (steps, flop) in zip(selection.cells, rows, works, strict=True)
    ]
    states = counted_states(rows)
    if not args.json:
        header = ("cell", "tables", "state", "step", "of", "PFLOP", f"hours at {REFERENCE_FLOPS / 1e12:.0f} TFLOP/s")
        print(text_table(header, [_list_row(row) for row in cells]))
        counted = sum(flop for _, flop in works if flop is not None)
        print(states_line(states))
        print(f"training takes {_petaflop(counted)} PFLOP, {_hours(counted)} GPU-hours at "
              f"{REFERENCE_FLOPS / 1e12:.0f} TFLOP/s, runs whose store is missing not counted")  # fmt: skip
    return {"settings": asdict(settings), "states": states, "cells": cells}


def _list_row(row: dict[str, Any]) -> tuple[str, ...]:
    work = ("-",) * 3 if row["flop"] is None else (str(row["steps"]), _petaflop(row["flop"]), _hours(row["flop"]))
    return (row["cell"], ",".join(row["tables"]), row["state"], str(row["step"]), *work)


def _petaflop(flop: float) -> str:
    return f"{flop / 1e15:.3g}" if flop < 1e18 else f"{flop / 1e15:.0f}"


def _hours(flop: float) -> str:
    return f"{flop / REFERENCE_FLOPS / 3600:.2g}" if flop < 1e20 else f"{flop / REFERENCE_FLOPS / 3600:.0f}"


def run_collect(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.experiments import grid_results
    from anatobench.report.grid_page import build_grid_page

    settings = _settings(args)
    record = grid_results.collect(_selection(args, settings), settings, args.out)
    remarks = grid_results.notes_of(record)
    tables = (grid_results.result_table(record), grid_results.gain_table(record), grid_results.framework_table(record))
    print_tables(tables)
    for number, note in enumerate(remarks, start=1):
        print(f"[{number}] {note}")
    tiny = [dataset for dataset, size in record["sizes"].items() if size == "tiny"]
    if tiny:
        print(f"{', '.join(tiny)}: tiny models on tiny scans, which the paper's figures are not about")
    if record["synthetic"]:
        print(f"{', '.join(record['synthetic'])}: a synthetic cohort, which the paper's figures are not about")
    print_absent(record)
    write_results(args.out, record, build_grid_page(record, *tables, remarks))
    write_atomically(args.out / CSV_FILE, grid_results.csv_text(record).encode())
    print(f"AUC and gains with 95 % intervals over seeds; {args.out / PAGE_FILE} shows them, {RECORD_FILE} and "
          f"{CSV_FILE} beside it hold all")  # fmt: skip
    return record
