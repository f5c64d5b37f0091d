"""Time forward, backward and optimizer step on random scans. Needs no data set.

  anatobench bench step --framework torch --model r3d_18 --geometry chest
  anatobench bench step --framework torch,jax --model swin3d_t --geometry abdomen --precision bf16 --both-seg --json
  anatobench bench step --framework torch --peer benchmarks/peers/step_torchvision.py:eager,compile ...
  anatobench bench step --framework jax --model swin3d_t --geometry chest --compile-only --cache NEW_FOLDER

  anatobench bench step --image torch=torch.sif --image jax=jax.sif --model swin3d_t --geometry chest --precision bf16
  anatobench bench step --python torch=torch-venv/bin/python --python jax=jax-venv/bin/python ...
  anatobench bench step --framework torch,jax --gpus 4 --batch-size 32 ...

Several arms (frameworks, peers) run in processes of their own and take turns; ratios come with a 95 % interval.
An arm that fails does not stop the others: the record names it, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from anatobench.cli.arguments import SEED, TASK_OF_GEOMETRY, positive, whole
from anatobench.cli.bench_homes import add_home_arguments, homes_of
from anatobench.errors import UsageError
from anatobench.objectives.heads import diagnosis_heads
from anatobench.recipes import FRAMEWORKS, MODELS, PRECISIONS, SIZES, Recipe, override, paper_recipe
from anatobench.system.gpus import choose_gpus, visible_gpus
from anatobench.system.progress import named_on
from anatobench.tasks import TASKS, Task

NOT_COMPARED = "first losses are not compared, since each arm draws its own dropout: --set dropout=false compares them"
PROFILES = ("trace", "nsys")
CHANGEABLE = ("recompute", "dropout", "segmentation_loss", "fast", "compile")
"""Fields of the recipe that change what a step costs and have no option of their own."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `--help`."""
    parser.add_argument("--framework", type=_frameworks, default=(), metavar="F[,F]", help="torch, jax, or torch,jax")
    parser.add_argument(
        "--peer", action="append", default=[], type=peer, metavar="FILE.py:VARIANT[,VARIANT]",
        help="another implementation to measure beside (may be repeated); see benchmarks/peers",
    )  # fmt: skip
    add_home_arguments(parser)
    add_model_arguments(parser)
    seg = parser.add_mutually_exclusive_group()
    seg.add_argument("--no-seg", action="store_true", help="without the segmentation branch")
    seg.add_argument("--both-seg", action="store_true", help="every arm with and without it")
    parser.add_argument(
        "--batch-size", type=whole(1), help="cases per step, of all GPUs together (default: the paper's)"
    )
    parser.add_argument(
        "--gpus", type=whole(1), default=1, metavar="N",
        help="of this machine, with data parallelism: a process of each framework on each. Without any GPU here, N "
        "processes on the CPU (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--repeats", type=whole(2), default=20, help="rounds after the warm-up (default: %(default)s)")
    parser.add_argument("--steps-per-turn", type=whole(1), default=1, help="timed steps per arm and round (default: 1)")
    parser.add_argument("--seconds", type=positive, help="end after about so long, with the rounds done by then")
    parser.add_argument(
        "--prepare-together", action="store_true", help="compile all arms at once: sooner, less exact compile times"
    )
    parser.add_argument(
        "--compile-only", action="store_true", help="one arm after the other: compile, tell how long it took, no more"
    )
    add_cache_argument(parser)
    parser.add_argument(
        "--profile", type=Path, metavar="DIR",
        help="after the measurement each arm traces five more steps into DIR/<arm>, which Perfetto opens",
    )  # fmt: skip
    parser.add_argument(
        "--profile-kind", choices=PROFILES, default=PROFILES[0],
        help="trace: the framework's own; nsys: PyTorch's NVTX ranges for Nsight Systems, which must have started this",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the record as one JSON object")


def add_cache_argument(parser: argparse.ArgumentParser) -> None:
    """Add what `bench step` and `bench memory` share."""
    parser.add_argument(
        "--cache", type=Path, metavar="DIR",
        help="each arm keeps its compiled programs in a folder of its own below it, and the record says whether there "
        "were any (default: wherever the environment says)",
    )  # fmt: skip


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `bench step` and `bench memory` share."""
    parser.add_argument("--model", required=True, choices=MODELS)
    parser.add_argument("--geometry", required=True, choices=TASK_OF_GEOMETRY, help="which crop size and which loss")
    parser.add_argument("--size", choices=SIZES, default="full", help="full (the paper's) or tiny (for a CPU)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--seed", type=SEED, default=0)
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="settings",
        help=f"change the paper's recipe: {', '.join(CHANGEABLE)}",
    )  # fmt: skip


def task_and_recipe(args: argparse.Namespace) -> tuple[Task, Recipe]:
    """Return task and recipe of the arguments; `UsageError` for a setting that this cannot take."""
    task = TASKS[TASK_OF_GEOMETRY[args.geometry]]
    for setting in args.settings:
        if setting.partition("=")[0] not in CHANGEABLE:
            raise UsageError(f"--set {setting}: here only {', '.join(CHANGEABLE)} can be set")
    recipe = override(paper_recipe(task, args.model), args.settings)
    return task, dataclasses.replace(recipe, precision=args.precision, seed=args.seed)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure; the record."""
    from anatobench.bench.compilation import bench_compilation
    from anatobench.bench.quiet import warn_if_busy
    from anatobench.bench.step import StepBenchmark, bench_step
    from anatobench.engine import ModelSpec
    from anatobench.system.host import describe_host

    task, recipe = task_and_recipe(args)
    if args.batch_size is not None:
        recipe = dataclasses.replace(recipe, batch_size=args.batch_size)
    if recipe.batch_size % args.gpus:
        raise UsageError(
            f"--gpus {args.gpus}: {recipe.batch_size} cases cannot be shared out evenly: give a --batch-size that can"
        )
    crop_size = task.geometry(args.size).crop_size
    asked = StepBenchmark(
        arms=_arms(args),
        spec=ModelSpec(args.model, args.size, task, crop_size, diagnosis_heads(not args.no_seg)),
        recipe=recipe,
        rounds=args.repeats,
        steps_per_turn=args.steps_per_turn,
        seconds=args.seconds,
        prepare_together=args.prepare_together,
        cache=args.cache,
        profile=args.profile,
        profile_kind=args.profile_kind,
    )
    measure, show = (bench_compilation, print_compilation) if args.compile_only else (bench_step, print_step)
    warn_if_busy(describe_host())
    with tqdm(total=args.repeats + 2, desc="bench step", file=sys.stderr, leave=False, disable=None) as bar:
        record = measure(asked, named_on(bar))
    show(record)
    return record


def print_step(record: dict[str, Any]) -> None:
    """For a person."""
    from anatobench.bench.energy import in_words

    what = ("model", "size", "geometry", "batch_size")
    together = f"{record['processes']} x " if record["processes"] > 1 else ""
    device = f"{together}{record['device']['name']}"
    print(", ".join(f"{name} {record[name]}" for name in what) + f"; {device}")
    width = max(len(arm["name"]) for arm in record["arms"])
    for arm in record["arms"]:
        low, high = arm["ci95_s"]
        memory = f"{arm['peak_memory_bytes'] / 2**30:.2f} GiB ({arm['peak_memory_of']})"
        print(
            f"{arm['name']:{width}}  {arm['precision']}  {arm['median_s']:.4f} s [{low:.4f}, {high:.4f}]  "
            f"{arm['samples_per_s']:.2f} cases/s  {utilisation(arm)}  {memory}  {first_step(arm)}"
            f"{'  ' if arm['energy'] else ''}{in_words(arm['energy'])}",
        )
    for ratio in record["ratios"]:
        low, high = ratio["ci95"]
        times = f"{ratio['ratio']:.3f} [{low:.3f}, {high:.3f}]"
        print(f"{ratio['of']} takes {times} times as long as {ratio['to']}")
    if said := first_losses(record):
        print(said)
    for arm in record["arms"]:
        if arm["trace"] is not None:
            print(f"{arm['name']}: profile: {arm['trace']}", file=sys.stderr)
    for warning in record["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print_failed(record)


def first_losses(record: Mapping[str, Any]) -> str:
    """Return whether the arms did the same work, as far as their first losses tell; empty where there is one alone."""
    arms = record["arms"]
    if sum(arm["segmentation"] == arms[0]["segmentation"] for arm in arms) < 2:
        return ""
    if record["same_first_loss"] is None:
        return NOT_COMPARED
    return "first losses agree" if record["same_first_loss"] else "first losses differ"


def print_compilation(record: dict[str, Any]) -> None:
    """For a person."""
    width = max((len(arm["name"]) for arm in record["arms"]), default=0)
    for arm in record["arms"]:
        print(f"{arm['name']:{width}}  {first_step(arm)}")
    print_failed(record)


def print_failed(record: dict[str, Any]) -> None:
    """Say which arms there are no figures of, and why."""
    for name, failure in record["failed"].items():
        print(f"{name} failed: {failure['error']}", file=sys.stderr)


def utilisation(arm: Mapping[str, Any]) -> str:
    """Return the share of the data sheet's peak, where it is known, and of the fastest matrix product that was
    measured."""
    measured = f"{100 * arm['mfu_measured']:.1f} % of a measured product"
    if arm["mfu_data_sheet"] is None:
        return measured
    return f"MFU {100 * arm['mfu_data_sheet']:.1f} % of the data sheet, {measured}"


def first_step(arm: Mapping[str, Any]) -> str:
    """Return how long it took, and whether anything compiled lay there before, where that is known."""
    cache = {"empty": " (nothing cached)", "filled": " (with a filled cache)"}.get(arm["compile_cache"], "")
    return f"first step {arm['compile_s']:.1f} s{cache}"


def _arms(args: argparse.Namespace) -> tuple[Any, ...]:
    from anatobench.bench.arms import Arm

    for path, _ in args.peer:
        if not path.is_file():  # now, and not when the other arms are compiled
            raise UsageError(f"--peer {path}: no such Python file of a peer")
    homes = homes_of(args)
    named = [*args.framework, *(framework for framework in homes if framework not in args.framework)]
    arms = [Arm(framework, home=homes.get(framework)) for framework in named]
    _check_gpus(args)
    arms = [dataclasses.replace(arm, processes=args.gpus) for arm in arms]
    arms += [Arm(None, path, variant) for path, variants in args.peer for variant in variants]
    if not arms:
        raise UsageError("name what to measure: --framework torch,jax, --peer FILE.py:VARIANT, or both")
    with_head = [] if args.no_seg else arms
    without = [dataclasses.replace(arm, segmentation=False) for arm in arms] if args.no_seg or args.both_seg else []
    return _distinct((*with_head, *without))


def _check_gpus(args: argparse.Namespace) -> None:
    if args.gpus > 1 and args.peer:
        raise UsageError("--gpus: peers know one GPU: leave --peer out")
    if args.gpus > 1 and visible_gpus():
        choose_gpus(args.gpus)  # refuses more than there are


def _distinct(arms: Sequence[Any]) -> tuple[Any, ...]:
    names = [arm.name for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{', '.join(twice)}: named twice")
    return tuple(arms)


def _frameworks(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in FRAMEWORKS:
            raise argparse.ArgumentTypeError(f"{name!r}: choose from {', '.join(FRAMEWORKS)}")
    return names


def peer(text: str) -> tuple[Path, tuple[str, ...]]:
    """FILE.py:VARIANT[,VARIANT] of the command line."""
    path, colon, variants = text.rpartition(":")
    if not colon or not variants or not path.endswith(".py"):
        raise argparse.ArgumentTypeError(f"{text!r}: write FILE.py:VARIANT, such as step_torchvision.py:eager")
    return Path(path).absolute(), tuple(variants.split(","))
