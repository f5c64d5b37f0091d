"""`anatobench experiments transfer`: pre-trained on masks or not, then a diagnosis of few cases."""

from __future__ import annotations

import argparse
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from anatobench.cli import transfer_demo
from anatobench.cli.arguments import positive, whole
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
from anatobench.experiments.runs import PlannedRun, keep_settings, still_to_do
from anatobench.experiments.transfer import (
    ALL_CASES,
    TRANSFER_FILE,
    WEIGHTS,
    TransferSelection,
    TransferSettings,
    planned,
    settings_for,
    what_is_missing,
)
from anatobench.recipes import FRAMEWORKS, MODELS

DEFAULTS = TransferSettings("")
PARTS = TransferSelection()


def add_parser(experiments: Any) -> None:
    """`transfer` with its actions, beside the other experiments."""
    transfer = experiments.add_parser(
        "transfer",
        help="pre-train on organ masks or not, then learn a diagnosis from 5, 10, 20 or all cases",
        description="What pre-training gives a diagnosis of which few cases are labelled: weights that were drawn,\n"
        "Kinetics' (if asked for), those of training on partly annotated masks (objective=partial_masks), and on\n"
        "whole ones; the backbone frozen or fine-tuned; 5, 10, 20 and all cases; several repetitions; both frameworks\n"
        "from the same weights and cases. What is done is never run again, what was stopped goes on.\n"
        "docs/partial_masks.md shows it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = transfer.add_subparsers(dest="action", metavar="ACTION", required=True)
    summaries = {
        "list": (run_list, "every run with its state"),
        "run": (lambda args: train(args, "transfer", *_to_do(args)), "train and evaluate on this machine"),
        "submit": (
            lambda args: hand_over(args, *_to_do(args)),
            "train and evaluate as two Slurm job arrays, the second after the first",
        ),
        "collect": (run_collect, "one table and one plot, with gains and intervals over repetitions"),
    }
    add_actions(actions, summaries, _add_arguments)
    transfer_demo.add_parser(actions)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("transfer"), metavar="DIR",
                        help="folder of the runs (default: transfer)")  # fmt: skip
    selection = parser.add_argument_group("which runs")
    selection.add_argument("--weights", default=",".join(PARTS.weights), metavar="NAMES",
                           help=f"to begin with, of {', '.join(WEIGHTS)} (default: %(default)s)")  # fmt: skip
    selection.add_argument("--modes", default=",".join(PARTS.modes), metavar="NAMES", help="default: %(default)s")
    selection.add_argument("--counts", default="5,10,20,all", metavar="NUMBERS",
                           help="of labelled cases (default: %(default)s)")  # fmt: skip
    selection.add_argument("--frameworks", default=",".join(FRAMEWORKS), metavar="NAMES", help="default: %(default)s")
    selection.add_argument("--repetitions", type=whole(1), default=PARTS.repetitions, help="default: %(default)s")
    settings = parser.add_argument_group("settings, which all runs of a folder share: needed the first time alone")
    settings.add_argument("--store", metavar="DIR", help="whose diagnosis is learned")
    settings.add_argument("--partial-store", metavar="DIR", help="of partly annotated masks; of other patients")
    settings.add_argument("--whole-store", metavar="DIR", help="in which every class is annotated; of other patients")
    settings.add_argument("--model", choices=MODELS, help=f"default: {DEFAULTS.model}")
    settings.add_argument("--steps", type=whole(1), help=f"of a transfer (default: {DEFAULTS.steps})")
    settings.add_argument("--pretraining-steps", type=whole(1), help=f"default: {DEFAULTS.pretraining_steps}")
    settings.add_argument("--frozen-rates", metavar="RATES",
                          help="learning rates of which validation chooses one, separated by commas (default: "
                               f"{DEFAULTS.frozen_rates[0]})")  # fmt: skip
    settings.add_argument("--fine-tuned-rates", metavar="RATES", help=f"default: {DEFAULTS.fine_tuned_rates[0]}")
    settings.add_argument("--pretraining-rate", type=positive, help=f"default: {DEFAULTS.pretraining_rate}")
    for name, what in (("set", "transfers'"), ("pretraining-set", "pre-training's")):
        settings.add_argument(f"--{name}", action="append", metavar="FIELD=VALUE",
                              dest="settings" if name == "set" else "pretraining_settings",
                              help=f"change the {what} recipe; can be repeated")  # fmt: skip


def _selection(args: argparse.Namespace) -> TransferSelection:
    words = {name: words_of(getattr(args, name)) for name in ("weights", "modes", "frameworks")}
    try:
        counts = tuple(ALL_CASES if word == "all" else whole(1)(word) for word in words_of(args.counts))
    except argparse.ArgumentTypeError:
        raise UsageError(f"--counts {args.counts}: numbers above 0 separated by commas, or all") from None
    return TransferSelection(**words, counts=counts, repetitions=args.repetitions)


def _settings(args: argparse.Namespace) -> TransferSettings:
    """Return the folder's, or those on the command line."""
    asked = {
        field.name: value for field in fields(TransferSettings) if (value := getattr(args, field.name)) is not None
    }
    for name, value in asked.items():
        if name.endswith("store"):
            asked[name] = str(Path(value).resolve())
        elif name.endswith("rates"):
            try:
                asked[name] = tuple(float(word) for word in words_of(value))
            except ValueError:
                raise UsageError(f"--{name.replace('_', '-')} {value}: numbers separated by commas") from None
        elif name.endswith("settings"):
            asked[name] = tuple(value)
    return settings_for(args.out, asked)


def _to_do(args: argparse.Namespace) -> tuple[list[PlannedRun], int]:
    """Return the runs that are not done, and how many are, the folder being begun."""
    settings, selection = _settings(args), _selection(args)
    refuse_missing(what_is_missing(selection, settings))
    runs = planned(selection, settings, args.out.resolve())
    keep_settings(args.out / TRANSFER_FILE, settings, "a transfer")
    return still_to_do(runs, args.out)


def run_list(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.report.summary import text_table

    settings, selection = _settings(args), _selection(args)
    missing = what_is_missing(selection, settings)
    runs = [] if missing else planned(selection, settings, args.out.resolve())
    rows = [
        {"run": run.name, "after": run.first, **row, "steps": run.config.max_steps}
        for run, row in zip(runs, state_rows(args.out, (run.name for run in runs)), strict=True)
    ]
    states = counted_states(rows)
    if not args.json:
        header = ("run", "begins with", "state", "step", "of")
        print(text_table(header, [tuple(str(value or "-") for value in row.values()) for row in rows]))
        print("\n".join(missing) or states_line(states))
    return {"settings": asdict(settings), "states": states, "runs": rows, "missing": missing}


def run_collect(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.experiments.transfer_results import collect, dice_table, result_table
    from anatobench.report.transfer_page import PUBLISHED_NOTE, build_transfer_page, interval_note

    record = collect(_selection(args), _settings(args), args.out)
    print_tables((result_table(record), dice_table(record)))
    print("\n".join(note for note in (interval_note(record), PUBLISHED_NOTE) if note))
    print_absent(record)
    write_results(args.out, record, build_transfer_page(record))
    print(f"{args.out / PAGE_FILE} shows it; the record is {args.out / RECORD_FILE}")
    return record
