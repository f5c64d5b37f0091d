"""`anatobench experiments`: many runs that answer one question."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

from anatobench.cli import experiments_demo, experiments_grid
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.experiments.auc_study import AucStudy, cohort_commands, training_chains
from anatobench.experiments.child_processes import Chain, run_chains
from anatobench.phantom.plan import INJURIES
from anatobench.recipes import MODELS
from anatobench.system.atomic_files import write_atomically
from anatobench.system.json_text import parse_json
from anatobench.tasks import TASKS

STUDY_FILE = "study.json"
GROWING = ("models", "seeds", "control_seeds")
"""Settings that may name more runs when a study goes on."""
RECORD_FILE = "record.json"
PAGE_FILE = "report.html"
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
    auc.add_argument("--seeds", type=int, default=DEFAULTS.seeds, help="repetitions (default: %(default)s)")
    auc.add_argument("--control-seeds", type=int, help="repetitions that have the control (default: all)")
    auc.add_argument("--cases", type=int, default=DEFAULTS.cases, help="synthetic patients (default: %(default)s)")
    auc.add_argument("--steps", type=int, default=DEFAULTS.steps, help="of each run (default: %(default)s)")
    auc.add_argument("--batch-size", type=int, default=DEFAULTS.batch_size, help="default: %(default)s")
    auc.add_argument("--injuries", choices=INJURIES, default=DEFAULTS.injuries,
                     help="ratic alone: how visible in the synthetic scans (default: %(default)s)")  # fmt: skip
    auc.add_argument("--dropout", action="store_true", help="with the models' dropout and stochastic depth")
    auc.add_argument("--learning-rate", type=float, help="of every model (default: one per model)")
    auc.add_argument("--margin", type=float, default=DEFAULTS.margin, help="of equivalence, AUC (default: %(default)s)")
    auc.add_argument(
        "--workers", type=int, default=min(os.cpu_count() or 1, 8), metavar="W",
        help="runs at a time; 1 where they would share a GPU (default here: %(default)s)",
    )  # fmt: skip
    auc.add_argument("--json", action="store_true", help="print the record as one JSON object")
    auc.set_defaults(run_experiment=run_auc)
    experiments_grid.add_parser(experiments)
    experiments_demo.add_parser(experiments)


def run(args: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = args.run_experiment(args)
    return figures


def run_auc(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.experiments.auc_results import (
        AUC_HEADER,
        DIFFERENCE_HEADER,
        GAIN_HEADER,
        auc_rows,
        collect,
        difference_rows,
        gain_rows,
    )
    from anatobench.report.auc_page import build_auc_page
    from anatobench.report.summary import text_table

    if args.workers < 1:
        raise UsageError(f"--workers {args.workers}: at least one")
    settings = {field.name: getattr(args, field.name) for field in fields(AucStudy) if hasattr(args, field.name)}
    study = AucStudy(**{**settings, "models": tuple(name for name in MODELS if name in _names(args.models))})
    out: Path = args.out
    _begin(study, out)
    list(run_chains([Chain("cohort", cohort_commands(study, out))], out / "logs", workers=1))
    chains = list(training_chains(study, out))
    with tqdm(total=len(chains), desc="experiments auc", unit="group of runs", file=sys.stderr) as bar:
        for chain in run_chains(chains, out / "logs", args.workers):
            bar.set_postfix_str(chain.name)
            bar.update()
    record = collect(study, out)
    (out / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n")
    (out / PAGE_FILE).write_text(build_auc_page(record), encoding="utf-8")
    for header, rows in (
        (AUC_HEADER, auc_rows(record)),
        (DIFFERENCE_HEADER, difference_rows(record)),
        (GAIN_HEADER, gain_rows(record)),
    ):
        print(text_table(header, rows) + "\n", file=sys.stderr)
    print(f"{out / PAGE_FILE} shows it; the record is {out / RECORD_FILE}", file=sys.stderr)
    return record


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    unknown = sorted(set(names) - set(MODELS))
    if unknown:
        raise UsageError(f"--models {', '.join(unknown)}: choose from {', '.join(MODELS)}")
    return names


def _begin(study: AucStudy, out: Path) -> None:
    """Keep the settings, or check that the folder holds the same study, or one that this one only adds runs to."""
    path = out / STUDY_FILE
    asked = study.to_json()
    if path.exists():
        saved = parse_json(path.read_text())
        changed = [name for name in asked if saved.get(name) != asked[name]]
        if set(changed) - set(GROWING) or not set(_study(saved).cells) <= set(study.cells):
            told = "; ".join(f"{name}: {saved.get(name)} -> {asked[name]}" for name in changed)
            raise AnatoBenchError(
                f"{out}: holds a study with other settings ({told}): choose another --out; seeds and models alone may "
                "be added"
            )
    elif out.exists() and any(out.iterdir()):
        raise AnatoBenchError(f"{out}: not empty and not a study: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asked, indent=1).encode() + b"\n")


def _study(saved: Mapping[str, Any]) -> AucStudy:
    return AucStudy(**{**saved, "models": tuple(saved["models"])})
