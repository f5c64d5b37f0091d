"""`anatobench train`: train a model on a store."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anatobench.cli.arguments import whole
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.recipes import FRAMEWORKS, MODELS, SIZES, Recipe, override
from anatobench.system.command_line import shown
from anatobench.system.cuda_driver import describe_cuda, driver_version
from anatobench.system.gpus import insist_on_cpu
from anatobench.system.image import describe_image, in_words
from anatobench.system.processes import find_processes
from anatobench.training.run_folder import AUTO, CONFIG_FILE, OF_THE_MACHINE, RunConfig, configure

if TYPE_CHECKING:
    from anatobench.session import Introduction

RUN_FIELDS = ("patience", "evaluate_every", "checkpoint_every", "sharpness_every")
"""Options that are `RunConfig`'s fields."""
NAMED = ("task", "model", "no_seg", "pretrained")
"""Options that a named run stands for."""
RESTATING = ("named", *NAMED, "size", "epochs", "steps", *RUN_FIELDS, "initial_weights")
"""Options that say what a configuration says already."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a model on a store, as the paper's Table 6 says unless --set says otherwise.\n\n"
        "RUN holds config.json, metrics.jsonl (one line per step and evaluation), tensorboard/ and checkpoints/.\n"
        "Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP saves a checkpoint and stops with exit status 130; the same with --resume\n"
        "goes on as if nothing had happened, also after a kill or a power cut.\n\n"
        "With srun or torchrun, one task per GPU, all tasks train one model together; batch_size counts the cases of\n"
        "all of them."
    )
    parser.epilog = (
        "examples:\n"
        "  anatobench train --task ratic --store store --model r3d_18 --framework jax --out runs/ratic_jax\n"
        "  anatobench train --resume --out runs/ratic_jax\n"
        "  anatobench train --named ratic/r3d_18 --store store --out runs/ratic       one of the paper's\n"
        "  anatobench train --config runs/ratic/config.json --out runs/again          what another run was trained with"
    )
    parser.add_argument("--named", metavar="NAME",
                        help="one of the paper's models, as `anatobench experiments named` lists them: short for "
                             "--task, --model, --pretrained and --no-seg; --framework is torch unless it is "
                             "given")  # fmt: skip
    parser.add_argument("--config", type=Path, metavar="FILE",
                        help="train what this file says, which holds what a run's config.json does: task, store, "
                             "framework, model, size and recipe; other fields have defaults. Of the options that say "
                             "what is trained only --store, --framework, --set fast= and --set compile= can stand "
                             "beside it")  # fmt: skip
    parser.add_argument("--task", help="ratic, ct_rate, rad_chestct, or the name in the store's manifest")
    parser.add_argument("--store", help="folder that `anatobench prepare` has written; it says whether full or tiny")
    parser.add_argument("--store-copy", type=Path, metavar="DIR",
                        help="read the cases from this copy of the store, on a disk of this machine; the run still "
                             "remembers --store")  # fmt: skip
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--framework", choices=FRAMEWORKS)
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--no-seg", action="store_true", help="without segmentation supervision: the paper's baseline")
    parser.add_argument("--size", choices=("full", "tiny"), help="only to check: the store's size must be this one")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="settings",
                        help="change the recipe, for example --set batch_size=4; can be repeated. Fields: "
                             f"{', '.join(asdict(Recipe()))}")  # fmt: skip
    parser.add_argument("--epochs", type=whole(1), help="short for --set epochs=N")
    parser.add_argument("--steps", type=whole(1), help="end after so many steps, the learning rate's decay with it")
    parser.add_argument("--patience", type=whole(1), metavar="EVALUATIONS",
                        help="end after so many validations in a row that were no better than the best one (default: "
                             "never); the best checkpoint stands for the run")  # fmt: skip
    parser.add_argument("--evaluate-every", type=whole(1), metavar="EPOCHS", help="validation (default: 1)")
    parser.add_argument("--checkpoint-every", type=whole(1), metavar="STEPS",
                        help="besides those after each validation (default: 500)")  # fmt: skip
    parser.add_argument("--sharpness-every", type=whole(0), metavar="STEPS",
                        help="measure the largest eigenvalue of the loss's Hessian on the run's first batch (default: "
                             "never; a measurement costs as much as up to 60 steps; one process only)")  # fmt: skip
    parser.add_argument("--initial-weights", type=Path, metavar="RUN|FILE",
                        help="begin with these instead of weights drawn from the seed: another run's "
                             "folder (its best checkpoint) or its initial.safetensors, the folder of a checkpoint, or "
                             "an export")  # fmt: skip
    parser.add_argument("--pretrained", metavar="FILE|auto",
                        help="begin with torchvision's Kinetics-400 weights, stem and heads drawn from the seed: its "
                             ".pth file, or the same as .safetensors; `auto` looks in $ANATOBENCH_PRETRAINED and in "
                             "PyTorch's cache, then downloads it. Size full only")  # fmt: skip
    parser.add_argument(
        "--workers", type=whole(0), default=0, help="threads that read cases ahead (default: 0, the library's)"
    )
    parser.add_argument("--profile", nargs="?", const="trace", choices=("trace", "nsys"),
                        help="trace five steps after the first three into RUN/profile, in the first process; nsys: "
                             "PyTorch's NVTX ranges for Nsight Systems, which must have started it "
                             "(docs/profiling.md)")  # fmt: skip
    parser.add_argument("--mllog", action="store_true",
                        help="keep a log in MLPerf's form, RUN/mlperf.log; `bench mllog` checks one")  # fmt: skip
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto",
                        help="auto: the GPU if there is one; in a job that has GPUs, nothing else. cpu: the CPU in any "
                             "case (default: auto)")  # fmt: skip
    parser.add_argument("--resume", action="store_true",
                        help="go on with RUN if it exists (then --out alone is enough; --set fast= and compile= may "
                             "change), begin it if not")  # fmt: skip
    parser.add_argument("--switch-framework", action="store_true",
                        help="with --resume: allow a --framework other than the one that began the run")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object")


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Train; the outcome, or None in a process that does not lead."""
    from anatobench.session import train_run

    if args.device == "cpu":
        insist_on_cpu()
    processes = find_processes()
    outcome = train_run(
        args.out,
        _configuration(args),
        store_copy=args.store_copy,
        processes=processes,
        resume=args.resume,
        switch_framework=args.switch_framework,
        workers=args.workers,
        introduce=_introduce,
        say=lambda sentence: print(sentence, file=sys.stderr),
        progress=True,
        profile=args.profile,
        mllog=args.mllog,
    )
    if not processes.leads:
        return None
    best = outcome.best
    judged = "no validation score, so the last checkpoint stands for the run"
    if best is not None:
        judged = f"best {best.name} {best.score:.4f} after step {best.step}"
    print(f"{outcome.run}: {outcome.steps} steps, {judged}; next: {shown('evaluate', outcome.run)}")
    return outcome.to_json()


def _introduce(introduction: Introduction) -> None:
    print(introduction, file=sys.stderr)
    if (driver := driver_version()) is not None:
        print(describe_cuda(introduction.framework, driver), file=sys.stderr)
    if (image := describe_image()) is not None:
        print(in_words(image), file=sys.stderr)
    if not introduction.validated:
        print("train: no validation cases in the store, so the last checkpoint stands for the run", file=sys.stderr)


def _configuration(args: argparse.Namespace) -> RunConfig:
    """Return what the command line asks for; with `--resume --out RUN` alone, the run's own."""
    of_the_machine = all(setting.partition("=")[0] in OF_THE_MACHINE for setting in args.settings)
    restated = _given(args, RESTATING)
    restated += [] if of_the_machine else ["--set of anything but fast and compile"]
    if args.config is not None:
        if restated:
            raise UsageError(f"{', '.join(restated)}: --config says it already: leave one of them out")
        return _of_here(_with_overrides(RunConfig.read_file(args.config), args))
    if args.resume and (args.out / CONFIG_FILE).exists():
        if not restated:
            return _with_overrides(RunConfig.read(args.out), args)
        if _missing(args):
            raise UsageError(
                f"{args.out}: goes on as {CONFIG_FILE} says it began, which {', '.join(restated)} would restate: "
                "leave that out (--store, --framework, --set fast= and --set compile= may stand beside --resume), or "
                "give all that the run began with"
            )
    return _new_configuration(args)


def _missing(args: argparse.Namespace) -> list[str]:
    """Return the options that a new run lacks."""
    wanted = ("store",) if args.named is not None else ("task", "store", "model", "framework")
    return [f"--{name}" for name in wanted if getattr(args, name) is None]


def _given(args: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Return those of these options that a person gave."""
    given = [name for name in names if getattr(args, name) is not None and getattr(args, name) is not False]
    return [f"--{name.replace('_', '-')}" for name in given]


def _of_here(config: RunConfig) -> RunConfig:
    """Make a file's configuration one of this machine: paths from this folder, the packages that are installed."""
    initial = config.initial_weights
    return replace(
        config,
        store=str(Path(config.store).resolve()),
        initial_weights=None if initial is None else str(Path(initial).resolve()),
        versions=RunConfig.installed_versions(config.framework),
    )


def _with_overrides(config: RunConfig, args: argparse.Namespace) -> RunConfig:
    """Change what a machine may: where the store lies, the framework, how it computes."""
    return replace(
        config,
        store=args.store or config.store,
        framework=args.framework or config.framework,
        recipe=override(config.recipe, args.settings),
    )


def _take_named(args: argparse.Namespace) -> None:
    """Fill in what a named run stands for."""
    from anatobench.experiments.named import named_run

    stated = _given(args, NAMED)
    if stated:
        raise UsageError(f"{', '.join(stated)}: --named says it already: leave one of them out")
    named = named_run(args.named)
    condition = named.condition
    args.task, args.model = condition.dataset, condition.model
    args.pretrained = AUTO if condition.pretrained else None
    args.no_seg = condition.segmentation_weight == 0
    args.settings = [*named.settings, *args.settings]
    if named.size != SIZES[0]:  # full models may be tried on a tiny store
        args.size = args.size or named.size
    args.framework = args.framework or FRAMEWORKS[0]


def _what_to_do_without(missing: list[str], args: argparse.Namespace) -> str:
    """Return the sentence for a new run that lacks options, which may have been meant as one that exists."""
    options = ", ".join(missing)
    if (args.out / CONFIG_FILE).exists():
        return f"{args.out}: holds a run: add --resume to go on with it, or give another --out and {options}"
    if args.resume:
        return f"{args.out}: no run here to go on with, and a new one lacks {options}: is --out right?"
    return f"{options}: missing (only a run that exists goes on with --resume --out RUN alone)"


def _new_configuration(args: argparse.Namespace) -> RunConfig:
    if args.named is not None:
        _take_named(args)
    if missing := _missing(args):
        raise UsageError(_what_to_do_without(missing, args))
    epochs = [] if args.epochs is None else [f"epochs={args.epochs}"]
    baseline = ["segmentation_weight=0"] if args.no_seg else []
    config = configure(
        args.store,
        args.model,
        args.framework,
        [*args.settings, *epochs, *baseline],
        pretrained=args.pretrained,
        initial_weights=args.initial_weights,
        max_steps=args.steps,
        **{name: value for name in RUN_FIELDS if (value := getattr(args, name)) is not None},
    )
    if args.task != config.task.name:
        if args.named is not None:
            raise AnatoBenchError(
                f"{args.store}: was prepared for task {config.task.name}, --named {args.named} is a run on "
                f"{args.task}: give a store of that task, or --task, --model and --framework in place of --named"
            )
        raise AnatoBenchError(
            f"the store was prepared for task {config.task.name}, not {args.task}: give --task {config.task.name}"
        )
    if args.size not in (None, config.size):
        raise AnatoBenchError(f"{args.store}: is a store of size {config.size}, not {args.size}: prepare another")
    return config
