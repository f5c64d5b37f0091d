"""`anatobench experiments`: many runs that answer one question."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from anatobench.cli import experiments_demo, experiments_grid, experiments_named, experiments_transfer
from anatobench.cli.arguments import positive, whole
from anatobench.cli.experiment_actions import (
    PAGE_FILE,
    RECORD_FILE,
    add_submission,
    hand_over,
    print_tables,
    words_of,
    write_results,
)
from anatobench.experiments.auc_study import AucStudy, begin, cohort_commands, planned
from anatobench.experiments.child_processes import Chain, run_chains
from anatobench.experiments.runs import DONE, logs_folder, state_of, train_here
from anatobench.phantom.plan import INJURIES
from anatobench.recipes import MODELS
from anatobench.tasks import TASKS

DEFAULTS = AucStudy()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    experiments = parser.add_subparsers(dest="experiment", metavar="EXPERIMENT", required=True)
    auc = experiments.add_parser(
        "auc",
        help="AUC of both frameworks, with and without segmentation supervision, over several seeds",
        description="Train every backbone in both frameworks, with and without segmentation supervision, from several\n"
        "seeds on one synthetic cohort, and state with 95 % intervals over seeds (a) how far the frameworks'\n"
        "AUCs are apart, whether they are equivalent, and how far rounding alone moves an AUC, (b) what\n"
        "segmentation supervision gains, beside the paper's gain. Called again with the same settings, it goes on\n"
        "where it stopped; models and seeds may be added.",
        epilog="On two cores the default takes several hours; a quick look:\n"
        "  anatobench experiments auc --out auc --models r3d_18 --seeds 2 --cases 100 --steps 100",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    auc.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for everything")
    auc.add_argument("--task", choices=tuple(TASKS), default=DEFAULTS.task, help="the cohort's (default: %(default)s)")
    auc.add_argument("--models", default=",".join(DEFAULTS.models), help="separated by commas (default: all three)")
    auc.add_argument("--seeds", type=whole(1), default=DEFAULTS.seeds, help="repetitions (default: %(default)s)")
    auc.add_argument("--control-seeds", type=whole(1), help="repetitions that have the control (default: all)")
    auc.add_argument("--cases", type=whole(1), default=DEFAULTS.cases, help="synthetic patients (default: %(default)s)")
    auc.add_argument("--steps", type=whole(1), default=DEFAULTS.steps, help="of each run (default: %(default)s)")
    auc.add_argument("--batch-size", type=whole(1), default=DEFAULTS.batch_size, help="default: %(default)s")
    auc.add_argument("--injuries", choices=INJURIES, default=DEFAULTS.injuries,
                     help="ratic alone: how visible in the synthetic scans (default: %(default)s)")  # fmt: skip
    auc.add_argument("--dropout", action="store_true", help="with the models' dropout and stochastic depth")
    auc.add_argument("--learning-rate", type=positive, help="of every model (default: one per model)")
    auc.add_argument(
        "--margin", type=positive, default=DEFAULTS.margin, help="of equivalence, AUC (default: %(default)s)"
    )
    auc.add_argument(
        "--workers", type=whole(1), default=min(os.cpu_count() or 1, 8), metavar="W",
        help="runs at a time; 1 where they would share a GPU (default here: %(default)s)",
    )  # fmt: skip
    auc.add_argument("--submit", action="store_true",
                     help="prepare the cohort here, give the runs to Slurm, and end; the same command without it then "
                          "makes the record")  # fmt: skip
    add_submission(auc)
    auc.add_argument("--json", action="store_true", help="print the record as one JSON object")
    auc.set_defaults(run_experiment=run_auc)
    experiments_grid.add_parser(experiments)
    experiments_transfer.add_parser(experiments)
    experiments_demo.add_parser(experiments)
    experiments_named.add_parser(experiments)


def run(args: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = args.run_experiment(args)
    return figures


def run_auc(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.experiments import auc_results
    from anatobench.report.auc_page import build_auc_page

    settings = {field.name: getattr(args, field.name) for field in fields(AucStudy) if hasattr(args, field.name)}
    asked = words_of(args.models)
    models = dict.fromkeys(name for name in (*MODELS, *asked) if name in asked)  # in one order, whoever asks
    study = AucStudy(**{**settings, "models": tuple(models)})
    out: Path = args.out
    begin(study, out)
    args.goes_on = True
    log = logs_folder(out) / "cohort.log"
    print(f"experiments auc: the cohort is made or checked; what is done is in {log}", file=sys.stderr)
    list(run_chains([Chain("cohort", cohort_commands(study, out))], logs_folder(out), workers=1))
    runs = planned(study, out)
    waiting = [run for run in runs if state_of(out, run.name) != DONE]
    before = len(runs) - len(waiting)
    if args.submit:
        return hand_over(args, waiting, before)
    train_here(waiting, out, args.workers, "experiments auc", before)
    record = auc_results.collect(study, out)
    write_results(out, record, build_auc_page(record))
    print_tables(make(record) for make in (auc_results.auc_table, auc_results.difference_table, auc_results.gain_table))
    print(f"{out / PAGE_FILE} shows it; the record is {out / RECORD_FILE}")
    return record
