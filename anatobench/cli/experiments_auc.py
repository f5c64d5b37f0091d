"""`anatobench experiments auc` and `declare`: the AUC study, and its plan before it runs."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from anatobench.cli.arguments import SEED, positive, share, whole
from anatobench.cli.experiment_actions import (
    PAGE_FILE,
    RECORD_FILE,
    add_submission,
    hand_over,
    print_tables,
    words_of,
    write_results,
)
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.experiments.auc_study import AucStudy, begin, choice_planned, cohort_commands, planned
from anatobench.experiments.child_processes import Chain, OutOfTimeError, run_chains
from anatobench.experiments.runs import logs_folder, still_to_do, train_here
from anatobench.phantom.plan import INJURIES
from anatobench.recipes import MODELS, PRECISIONS, SIZES
from anatobench.system.command_line import shown
from anatobench.tasks import TASKS

DEFAULTS = AucStudy()


def add_parser(experiments: Any) -> None:
    """`auc` and `declare`, beside the other experiments."""
    auc = experiments.add_parser(
        "auc",
        help="AUC of both frameworks, with and without segmentation supervision, over several seeds",
        description="Train every backbone in both frameworks, with and without segmentation supervision, from several\n"
        "seeds on one synthetic cohort, and state with 95 % intervals (a) how far the frameworks' AUCs are apart,\n"
        "whether they are equivalent, and how far rounding alone moves an AUC, (b) what segmentation supervision\n"
        "gains, per class too. With --learning-rates every arm first chooses its own on validation patients. Called\n"
        "again with the same settings, it goes on where it stopped; models and seeds may be added.\n\n"
        "A study is a pilot unless it was declared before it ran: see `experiments declare` and --plan.",
        epilog="On two cores the default takes several hours; a quick look:\n"
        "  anatobench experiments auc --out auc --models r3d_18 --seeds 2 --cases 100 --steps 100",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    auc.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for everything")
    auc.add_argument("--plan", type=Path, metavar="FILE",
                     help="run the study that `experiments declare` wrote, in place of the settings below")  # fmt: skip
    auc.add_argument("--amend", metavar="REASON",
                     help="go on with another plan (more seeds or models, another margin); the record shows the change "
                          "with this reason")  # fmt: skip
    auc.add_argument("--collect", action="store_true", help="train nothing: make the record of the seeds that are done")
    _add_settings(auc.add_argument_group("settings of a study without a plan"))
    auc.add_argument(
        "--workers", type=whole(1), default=min(os.cpu_count() or 1, 8), metavar="W",
        help="runs at a time; 1 where they would share a GPU (default here: %(default)s)",
    )  # fmt: skip
    auc.add_argument("--minutes", type=positive, metavar="M",
                     help="stop after so long, what is at work having saved its state, and make the record of the "
                          "seeds that are done; called again it goes on")  # fmt: skip
    auc.add_argument("--submit", action="store_true",
                     help="prepare the cohort here, give the runs to Slurm, and end; the same command without it then "
                          "makes the record")  # fmt: skip
    add_submission(auc)
    auc.add_argument("--json", action="store_true", help="print the record as one JSON object")
    auc.set_defaults(run_experiment=run)
    _add_declare(experiments)


def _add_declare(experiments: Any) -> None:
    declare = experiments.add_parser(
        "declare",
        help="the plan of an AUC study, written before it runs: hypotheses, seeds by a power calculation, analysis",
        description="Write down what an AUC study asks, of what cohort, with what recipe for each arm, from how many\n"
        "seeds and why, and how it will be judged, before it runs. The record of the study names the file's digest,\n"
        "and what was changed afterwards. With a pilot's record the plan says how many seeds each hypothesis takes\n"
        "for the wished power, and what power the study's seeds have; without --seeds it takes what the hardest takes.",
        epilog="example:\n"
        "  anatobench experiments declare --out plan.json --pilot pilot/record.json --models r3d_18 --task ratic \\\n"
        "    --injuries large --learning-rates 5e-4,1e-3,2e-3 --validation-fraction 0.15 --cohort-seed 6 --seeds 8\n"
        "  anatobench experiments auc --plan plan.json --out auc",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    declare.add_argument("--out", type=Path, required=True, metavar="FILE", help="the plan; never written over")
    declare.add_argument(
        "--pilot", type=Path, metavar="RECORD", help="the record of a pilot, for the power calculation"
    )
    declare.add_argument("--power", type=share, default=0.8, help="that is wished for (default: %(default)s)")
    _add_settings(declare.add_argument_group("settings of the study"))
    declare.add_argument("--json", action="store_true", help="print the plan as one JSON object")
    declare.set_defaults(run_experiment=run_declare)


def _add_settings(group: argparse._ArgumentGroup) -> None:
    """Add an option per field of `AucStudy`; those that are not given are not there, so that its defaults hold."""

    def add(name: str, said: str, **options: Any) -> None:
        group.add_argument(name, default=argparse.SUPPRESS, help=said, **options)

    add("--task", f"the cohort's (default: {DEFAULTS.task})", choices=tuple(TASKS))
    add("--size", f"of scans and models (default: {DEFAULTS.size})", choices=SIZES)
    add("--models", "separated by commas (default: all three)")
    add("--seeds", f"repetitions (default: {DEFAULTS.seeds})", type=whole(1))
    add("--control-seeds", "repetitions that have the control (default: all)", type=whole(1))
    add("--cases", f"synthetic patients (default: {DEFAULTS.cases})", type=whole(1))
    add("--cohort-seed", f"of the synthetic patients (default: {DEFAULTS.cohort_seed})", type=SEED)
    add("--injuries", f"ratic alone: how visible in the synthetic scans (default: {DEFAULTS.injuries})",
        choices=INJURIES)  # fmt: skip
    add("--validation-fraction", "share of the training patients by whom rates are chosen and checkpoints judged "
                                 "(default: 0, the last checkpoint is taken)", type=share)  # fmt: skip
    add("--steps", f"of each run (default: {DEFAULTS.steps})", type=whole(1))
    add("--batch-size", f"default: {DEFAULTS.batch_size}", type=whole(1))
    add("--precision", f"default: {DEFAULTS.precision}", choices=PRECISIONS)
    add("--dropout", "with the models' dropout and stochastic depth", action="store_true")
    add("--learning-rate", "of every run (default: one per model)", type=positive)
    add("--learning-rates", "separated by commas: each arm chooses one of them on validation patients, by runs of "
                            "their own", type=_rates)  # fmt: skip
    add("--choice-seeds", f"runs per arm and rate for that (default: {DEFAULTS.choice_seeds})", type=whole(1))
    add("--margin", f"of equivalence, AUC (default: {DEFAULTS.margin})", type=positive)


def _rates(text: str) -> tuple[float, ...]:
    return tuple(dict.fromkeys(positive(word) for word in text.split(",")))


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return what was asked for by options, the models in one order, whoever asks."""
    given = {field.name: getattr(args, field.name) for field in fields(AucStudy) if hasattr(args, field.name)}
    if "models" in given:
        asked = words_of(given["models"])
        given["models"] = tuple(dict.fromkeys(name for name in (*MODELS, *asked) if name in asked))
    return given


def run_declare(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.experiments.auc_plan import declare, digest_of, seeds_for
    from anatobench.system.atomic_files import write_atomically
    from anatobench.system.json_text import json_bytes

    if args.out.exists():
        raise AnatoBenchError(f"{args.out}: is there already, and a plan is never written over: choose another --out")
    given = _settings(args)
    study = AucStudy(**given)
    if "seeds" not in given:
        if args.pilot is None:
            raise UsageError("--seeds: give a number, or --pilot, by which one is computed")
        study = replace(study, seeds=seeds_for(study, args.pilot, args.power))
    plan = declare(study, args.pilot, args.power)
    content = json_bytes(plan)
    write_atomically(args.out, content)
    if not args.json:
        for row in plan["hypotheses"]:
            needed, power = row["seeds_needed"], row["power"]
            found = (
                "no pilot"
                if row["deviation"] is None
                else (
                    f"{needed or 'over 1000'} seeds for a power of {args.power:g}; {study.seeds} have {power or 0:.2f}"
                )
            )
            print(f"{row['statement']}: {found}")  # fmt: skip
    print(f"{args.out}: {len(study.cells) + len(study.choice)} runs, SHA-256 {digest_of(content)}; next: "
          f"{shown('experiments', 'auc', '--plan', args.out, '--out', 'DIR')}", file=sys.stderr)  # fmt: skip
    return plan


def run(args: argparse.Namespace) -> dict[str, Any]:
    study = _begun(args)
    handed_over: dict[str, Any] | None = None
    args.goes_on = True
    try:
        if not args.collect:
            handed_over = _train(args, study)
    except OutOfTimeError as error:
        print(f"experiments auc: {error}: the same command goes on", file=sys.stderr)
        args.collect = True
    return _results(args, study) if handed_over is None else handed_over


def _train(args: argparse.Namespace, study: AucStudy) -> dict[str, Any] | None:
    """Do what is not done yet; the figures of a submission, if the runs were given to Slurm instead."""
    out: Path = args.out
    until = math.inf if args.minutes is None else time.monotonic() + 60 * args.minutes
    log = logs_folder(out) / "cohort.log"
    print(f"experiments auc: the cohort is made or checked; what is done is in {log}", file=sys.stderr)
    list(run_chains([Chain("cohort", cohort_commands(study, out))], logs_folder(out), workers=1, until=until))
    choosing, done = still_to_do(choice_planned(study, out), out)
    if choosing and args.submit:
        print("the runs that choose learning rates; when they are done, the same command submits the rest",
              file=sys.stderr)  # fmt: skip
        return hand_over(args, choosing, done)
    train_here(choosing, out, args.workers, "experiments auc, learning rates", done, until)
    waiting, done = still_to_do(planned(study, out), out)
    if args.submit:
        return hand_over(args, waiting, done)
    train_here(waiting, out, args.workers, "experiments auc", done, until)
    return None


def _begun(args: argparse.Namespace) -> AucStudy:
    """Return the study that options or a plan say, its folder being begun."""
    from anatobench.experiments.auc_plan import CHANGEABLE, PLAN_FILE, plan_to_keep, read_plan
    from anatobench.system.atomic_files import write_atomically

    given, out = _settings(args), args.out
    if args.plan is None:
        if args.amend is not None:
            raise UsageError("--amend: changes a plan: give --plan, too")
        if (out / PLAN_FILE).is_file():
            raise AnatoBenchError(f"{out}: holds a declared study: go on with its --plan (kept as {out / PLAN_FILE})")
        study = AucStudy(**given)
        begin(study, out)
        return study
    if given:
        raise UsageError(f"--plan: declares everything: leave --{next(iter(given)).replace('_', '-')} out")
    study, content = read_plan(args.plan)
    kept = plan_to_keep(study, content, out, args.amend)
    begin(study, out, CHANGEABLE if args.amend is not None else ())
    if kept is not None:
        write_atomically(*kept)
    return study


def _results(args: argparse.Namespace, study: AucStudy) -> dict[str, Any]:
    from anatobench.experiments import auc_results
    from anatobench.report.auc_page import build_auc_page

    out: Path = args.out
    seeds = auc_results.complete_seeds(study, out)
    record = auc_results.collect(study, out, seeds if args.collect else None)
    write_results(out, record, build_auc_page(record))
    tables = (auc_results.auc_table, auc_results.arm_table, auc_results.difference_table, auc_results.gain_table,
              auc_results.class_table, auc_results.hypothesis_table)  # fmt: skip
    print_tables(make(record) for make in tables)
    if len(seeds) < study.seeds:
        print(f"{len(seeds)} of {study.seeds} seeds are complete; the same command without --collect goes on")
    if record["plan"] is None:
        print("a pilot: nobody declared it before it ran (`anatobench experiments declare`)")
    print(f"{out / PAGE_FILE} shows it; the record is {out / RECORD_FILE}")
    return record
