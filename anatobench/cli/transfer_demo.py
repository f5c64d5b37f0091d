"""`anatobench experiments transfer demo`: the whole way of the transfer on synthetic cohorts."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anatobench.cli.arguments import positive, whole
from anatobench.cli.demo import run_command
from anatobench.experiments.transfer import ALL
from anatobench.phantom.cohort import FORMATS

SOURCES = 3
PRETRAINING_SEED, SEED = 11, 12
"""Of the two cohorts: other patients are pre-trained on than are diagnosed."""
BATCH = "batch_size=5"
LEAST_CASES = 40
"""Of a cohort, for a training split that has 20 and a test split with every finding."""


def add_parser(actions: Any) -> None:
    """`demo`, beside the actions that it calls."""
    demo = actions.add_parser(
        "demo",
        help="raw scans -> stores -> pre-training -> transfer -> table and plot, on synthetic cohorts",
        description="The whole way, small: write a synthetic cohort whose sources annotated organs of their own (with\n"
        "--weights none,partial_masks,all_masks also the same patients with whole masks) and other patients with\n"
        "diagnoses; prepare them, pre-train, transfer to few cases, put the table and the plot together. It prints\n"
        "every command as a person would call it. Minutes on two cores; called again, it goes on where it\n"
        "stopped. Cohorts and models are toys: the figures show that it works.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--out", type=Path, default=Path("transfer-demo"), metavar="DIR",
                      help="folder for everything (default: %(default)s)")  # fmt: skip
    for name, default, what in (
        ("cases", 160, "synthetic patients with diagnoses"),
        ("pretraining-cases", 60, "synthetic patients with masks"),
        ("steps", 40, "of a transfer"),
        ("pretraining-steps", 80, "of a pre-training"),
        ("repetitions", 2, "seeds and draws of cases"),
        ("workers", min(os.cpu_count() or 1, 4), "chains of runs at a time"),
    ):
        least = whole(LEAST_CASES if name.endswith("cases") else 1)
        demo.add_argument(f"--{name}", type=least, default=default, help=f"{what} (default: %(default)s)")
    for name, words in (
        ("weights", "none,partial_masks"),
        ("modes", "frozen,fine_tuned"),
        ("counts", "5,all"),
        ("frameworks", "torch,jax"),
        ("frozen-rates", "1e-2"),
        ("fine-tuned-rates", "4e-3"),
    ):
        demo.add_argument(f"--{name}", default=words, help="as of `run` (default: %(default)s)")
    demo.add_argument("--task", choices=tuple(FORMATS), default="ct_rate", help="the cohorts' (default: %(default)s)")
    demo.add_argument("--pretraining-rate", type=positive, default=4e-3, help="default: %(default)s")
    demo.add_argument("--json", action="store_true", help="print the outcome as one JSON object")
    demo.set_defaults(run_experiment=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    started = time.monotonic()
    args.goes_on = True
    for command in commands(args):
        run_command(*command)
    transfer = args.out / "transfer"
    seconds = round(time.monotonic() - started, 1)
    return {"report": str(transfer / "report.html"), "record": str(transfer / "record.json"), "seconds": seconds}


def commands(args: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """Yield what a person would call, in order; each goes on where it stopped."""
    out: Path = args.out
    cohorts = {"partial": (args.pretraining_cases, PRETRAINING_SEED, SOURCES), "diagnosis": (args.cases, SEED, 0)}
    if ALL in args.weights:
        cohorts["whole"] = (args.pretraining_cases, PRETRAINING_SEED, 0)
    for name, (cases, seed, sources) in cohorts.items():
        raw = out / "raw" / name
        masks = ("--masks", str(raw / "masks")) if FORMATS[args.task].masks_apart else ()
        yield ("phantom", "--format", args.task, "--size", "tiny", "--cases", str(cases), "--seed", str(seed),
               "--partial", str(sources), "--out", str(raw))  # fmt: skip
        yield ("prepare", "--dataset", args.task, "--size", "tiny", "--raw", str(raw), *masks,
               "--store", str(out / "stores" / name), "--validation-fraction", "0.1")  # fmt: skip
    selected = ["--out", str(out / "transfer"), "--repetitions", str(args.repetitions)]
    for name in ("weights", "modes", "counts", "frameworks"):
        selected += [f"--{name}", getattr(args, name)]
    stores = ["--store", str(out / "stores" / "diagnosis"), "--partial-store", str(out / "stores" / "partial")]
    if "whole" in cohorts:
        stores += ["--whole-store", str(out / "stores" / "whole")]
    settings = ["--steps", str(args.steps), "--pretraining-steps", str(args.pretraining_steps), "--set", BATCH,
                "--pretraining-set", BATCH, "--frozen-rates", args.frozen_rates,
                "--fine-tuned-rates", args.fine_tuned_rates,
                "--pretraining-rate", str(args.pretraining_rate)]  # fmt: skip
    yield ("experiments", "transfer", "run", *selected, *stores, *settings, "--workers", str(args.workers))
    yield ("experiments", "transfer", "collect", *selected)
