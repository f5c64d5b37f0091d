"""What the experiments' commands have in common: list, run, submit and collect the runs of one folder."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anatobench.cli.arguments import whole
from anatobench.errors import AnatoBenchError
from anatobench.system.command_line import shown

if TYPE_CHECKING:
    from anatobench.experiments.results import TextTable
    from anatobench.experiments.runs import PlannedRun

RECORD_FILE = "record.json"
PAGE_FILE = "report.html"
Action = Callable[[argparse.Namespace], dict[str, Any]]
SHOWN = 3
"""Names of runs that a line about many of them tells."""


def add_actions(
    actions: Any, summaries: Mapping[str, tuple[Action, str]], add_arguments: Callable[[argparse.ArgumentParser], None]
) -> None:
    """Add a parser per action, with its function and what its help says; `add_arguments` adds what all of them have."""
    for name, (action, summary) in summaries.items():
        parser = actions.add_parser(name, help=summary, description=summary)
        parser.set_defaults(run_experiment=action)
        add_arguments(parser)
        if name == "run":
            parser.add_argument(
                "--workers", type=whole(1), default=1, metavar="W",
                help="runs at a time, but one after the other where a run begins with another's weights; they share "
                     "this machine's cores, and its first GPU if it has any (default: 1)",
            )  # fmt: skip
        if name == "submit":
            add_submission(parser)
        parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object")


def add_submission(parser: argparse.ArgumentParser) -> None:
    """Add what may be said about a job array."""
    parser.add_argument("--at-a-time", type=whole(1), metavar="N", help="run at most N elements of the array at once")
    parser.add_argument("--sbatch", action="append", default=[], metavar="OPTION",
                        help="for sbatch, for example --sbatch=--gpus-per-node=4; can be repeated (source "
                             "slurm/site.conf sets the usual ones)")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true",
                        help="write the plan and print the sbatch line, submit nothing")  # fmt: skip


def words_of(text: str) -> tuple[str, ...]:
    """Return what is separated by commas, each word once."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",")))


def state_rows(out: Path, names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the state of each run and its last step."""
    from anatobench.experiments.runs import last_step, run_folder, state_of

    return [{"state": state_of(out, name), "step": last_step(run_folder(out, name))} for name in names]


def counted_states(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many runs are in each state."""
    from anatobench.experiments.runs import STATES

    states = Counter(row["state"] for row in rows)
    return {state: states[state] for state in STATES}


def states_line(states: Mapping[str, int]) -> str:
    """Write the counts for a person."""
    return f"{sum(states.values())} runs: {', '.join(f'{count} {state}' for state, count in states.items())}"


def refuse_missing(missing: Sequence[str]) -> None:
    """Print what the runs need and lack; `AnatoBenchError` if there is anything."""
    if missing:
        print("\n".join(missing), file=sys.stderr)
        raise AnatoBenchError(f"{len(missing)} of the things that the runs need are missing (above): nothing was begun")


def train(args: argparse.Namespace, name: str, waiting: Sequence[PlannedRun], before: int) -> dict[str, Any]:
    """Train and evaluate on this machine what `experiments NAME` still has to do, `before` runs being done."""
    from anatobench.experiments.runs import train_here

    args.goes_on = True
    train_here(waiting, args.out, args.workers, name, before)
    print(f"{len(waiting)} runs trained and evaluated, {before} were done before; next: "
          f"{shown('experiments', name, 'collect', '--out', args.out)}")  # fmt: skip
    return {"out": str(args.out), "done_before": before, "done_now": len(waiting)}


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


def print_tables(tables: Iterable[TextTable]) -> None:
    """Print those that have rows."""
    from anatobench.report.summary import text_table

    for table in tables:
        if table.rows:
            print(text_table(*table) + "\n")


def print_absent(record: Mapping[str, Any]) -> None:
    """Print which runs a record lacks."""
    for kind, what in (("missing", "not done yet"), ("undefined", "evaluated, but the macro AUC is undefined")):
        names = record[kind]
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            print(f"{len(names)} runs {what}: {', '.join(names[:SHOWN])}{more}")


def write_results(out: Path, record: Mapping[str, Any], page: str) -> None:
    """Write the record and the page that shows it."""
    from anatobench.system.atomic_files import write_atomically
    from anatobench.system.json_text import json_bytes

    write_atomically(out / RECORD_FILE, json_bytes(record))
    write_atomically(out / PAGE_FILE, page.encode())
