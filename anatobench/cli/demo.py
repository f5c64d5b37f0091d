"""`anatobench demo`: the whole way from raw scans to trained models in both frameworks, on a synthetic cohort."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anatobench.cli.arguments import SEED, whole
from anatobench.errors import AnatoBenchError
from anatobench.experiments import child_processes
from anatobench.experiments.runs import PlannedRun, chains_of, initial_weights_of, write_configs
from anatobench.system.atomic_files import write_atomically
from anatobench.system.command_line import shown
from anatobench.system.json_text import parse_json
from anatobench.training.run_folder import configure

if TYPE_CHECKING:
    from anatobench.report.run_results import RunResults

TASK = "ratic"
MODEL = "r3d_18"
RUNS = {"torch_seg": "torch", "jax_seg": "jax"}
"""Both with segmentation supervision. What it gains does not show in minutes (docs/demo.md), so nothing is trained
without it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The whole way on a synthetic cohort in RATIC's format: write raw DICOM series, prepare them, train a tiny\n"
        "model in both frameworks with segmentation supervision on the same batches, evaluate, prove parity, and\n"
        "write a report of parity, speed and organs. Under six minutes on two cores; called again, it goes on where\n"
        "it stopped. The cohort is synthetic and small: the figures show that the suite works, not what supervision\n"
        "gains (`anatobench experiments auc` asks that, for hours)."
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything (default: demo)")
    parser.add_argument("--cases", type=whole(SMALLEST), default=CASES, help=f"synthetic patients (default: {CASES})")
    parser.add_argument("--epochs", type=whole(1), default=EPOCHS, help=f"passes over the data (default: {EPOCHS})")
    parser.add_argument("--seed", type=SEED, default=0, help="of the cohort, the weights and the order of cases")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")


MASKS = "masks"
"""Where the synthetic cohort keeps its organ masks."""
CASES = 140
EPOCHS = 15
BATCH_SIZE = 4
SMALLEST = 8 * BATCH_SIZE
"""Patients that make a few batches."""
LEARNING_RATE = 2e-3
"""Twenty times the paper's: the tiny model is trained for a minute, not for days."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.report.page import build_page
    from anatobench.report.run_results import read_runs
    from anatobench.report.setting import SYNTHETIC
    from anatobench.report.summary import agreement_lines, text_table

    args.goes_on = True
    started = time.monotonic()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    raw, store, runs = out / "raw", out / "store", out / "runs"
    seed = ["--seed", str(args.seed)]

    run_command("phantom", "--format", TASK, "--size", "tiny", "--injuries", "large", "--cases", str(args.cases),
                "--out", raw, *seed)  # fmt: skip
    run_command("prepare", "--dataset", TASK, "--size", "tiny", "--raw", raw, "--masks", raw / MASKS, "--store", store,
                "--validation-fraction", "0.1", *seed)  # fmt: skip
    for chain in chains_of(planned_runs(out, store, args.epochs, args.seed), out):
        for command in chain.commands:
            run_command(*command)
    parity = run_command(
        "parity", "--model", MODEL, "--task", TASK, "--dtype", "float64", "--size", "tiny", "--steps", "10", "--json",
        capture=True,
    )  # fmt: skip
    write_atomically(out / "parity.json", f"{parity}\n".encode())
    figures = parse_json(parity)

    results = read_runs([runs / name for name in RUNS])
    page = out / "report.html"
    write_atomically(page, build_page(results, figures, "AnatoBench demo").encode())
    errors = figures["max_rel_error"]
    print(SYNTHETIC)
    print(text_table(*speed_and_organs(results)))
    print("\n".join(agreement_lines(results)))
    print("parity in float64, ten steps, largest relative error: "
          + ", ".join(f"{rung} {error:.0e}" for rung, error in errors.items() if error is not None))  # fmt: skip
    print(f"{page} shows curves, organs on slices and ROC plots; {time.monotonic() - started:.0f} s in all")
    return {
        "report": str(page),
        "parity": figures,
        "runs": {name: result.test for name, result in zip(RUNS, results, strict=True)},
    }


def planned_runs(out: Path, store: Path, epochs: int, seed: int) -> list[PlannedRun]:
    """Return what is trained, written where `train --config` reads it. The second framework begins with the weights
    that the first one drew: what differs then is arithmetic alone."""
    settings = [f"epochs={epochs}", f"batch_size={BATCH_SIZE}", f"learning_rate={LEARNING_RATE}", f"seed={seed}"]
    planned = []
    for name, framework in RUNS.items():
        first = name.replace("jax", "torch")
        config = configure(
            store,
            MODEL,
            framework,
            settings,
            initial_weights=None if first == name else initial_weights_of(out, first),
            evaluate_every=3,
        )
        planned.append(PlannedRun(name, config, None if first == name else first))
    write_configs(planned, out)
    return planned


def speed_and_organs(results: Sequence[RunResults]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the header and a row per run: what a step took and how well the organs were found."""
    dice = [{} if run.organ_dice is None else run.organ_dice.to_json() for run in results]
    organs = list(dict.fromkeys(name for found in dice for name in found))
    words = ("mean" if name == "macro" else name.replace("_", " ") for name in organs)
    header = ("run", "seconds per step", "steps", *(f"Dice, {word}" for word in words))
    rows = [
        (
            run.label,
            "not measured" if run.median_step_seconds is None else f"{run.median_step_seconds:.3f}",
            str(len(run.steps)),
            *("-" if (value := found.get(name)) is None else f"{value:.3f}" for name in organs),
        )
        for run, found in zip(results, dice, strict=True)
    ]
    return header, rows


def run_command(command: str, *arguments: str | Path, capture: bool = False) -> str:
    """Run a command as a person would, each in a process of its own: PyTorch and JAX then do not share threads."""
    words = [command, *map(str, arguments)]
    print(f"\n$ {shown(*words)}", file=sys.stderr, flush=True)
    printed = child_processes.run_command(words, capture)
    if printed is None:
        raise AnatoBenchError(f"`{shown(*words)}` failed; its message stands above")
    return printed.strip().splitlines()[-1] if capture else ""
