"""`anatobench train`: train a model on a store."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anatobench.backbones import card_of
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.objectives.registry import plan_of
from anatobench.recipes import FRAMEWORKS, MODELS, Recipe, override, paper_recipe
from anatobench.store.mask_noise import MaskNoise
from anatobench.store.reader import Store
from anatobench.system.processes import Processes, after_leader, find_processes
from anatobench.system.signals import Interrupted
from anatobench.tasks import Task, get_task
from anatobench.training.run_folder import CONFIG_FILE, OF_THE_MACHINE, RunConfig, as_on, begin_run, locked

if TYPE_CHECKING:
    from anatobench.engine import Engine
    from anatobench.store.batch import Batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a model on a store, as the paper's Table 6 says unless --set says otherwise.\n\n"
        "RUN holds config.json, metrics.jsonl (one line per step and evaluation), tensorboard/ and checkpoints/.\n"
        "Ctrl-C, SIGTERM or SIGUSR1 saves a checkpoint and stops with exit status 130; the same command with --resume\n"
        "goes on as if nothing had happened, also after a kill or a power cut.\n\n"
        "With srun or torchrun, one task per GPU, all tasks train one model together; batch_size counts the cases of\n"
        "all of them."
    )
    parser.epilog = (
        "examples:\n"
        "  anatobench train --task ratic --store store --model r3d_18 --framework jax --out runs/ratic_jax\n"
        "  anatobench train --resume --out runs/ratic_jax"
    )
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
    parser.add_argument("--epochs", type=int, help="short for --set epochs=N")
    parser.add_argument("--steps", type=int, help="end after so many steps, the learning rate's decay with it")
    parser.add_argument("--evaluate-every", type=int, metavar="EPOCHS", help="validation (default: 1)")
    parser.add_argument("--checkpoint-every", type=int, metavar="STEPS",
                        help="besides those after each validation (default: 500)")  # fmt: skip
    parser.add_argument("--sharpness-every", type=int, metavar="STEPS",
                        help="measure the largest eigenvalue of the loss's Hessian on the run's first batch (default: "
                             "never; a measurement costs as much as up to 60 steps; one process only)")  # fmt: skip
    parser.add_argument("--initial-weights", type=Path, metavar="FILE",
                        help="begin with these instead of weights drawn from the seed: another run's "
                             "initial.safetensors or checkpoint, or an export")  # fmt: skip
    parser.add_argument("--pretrained", metavar="FILE|auto",
                        help="begin with torchvision's Kinetics-400 weights, stem and heads drawn from the seed: its "
                             ".pth file, or the same as .safetensors; `auto` looks in $ANATOBENCH_PRETRAINED and in "
                             "PyTorch's cache, then downloads it. Size full only")  # fmt: skip
    parser.add_argument(
        "--workers", type=int, default=0, help="threads that read cases ahead (default: 0, the library's)"
    )
    parser.add_argument("--resume", action="store_true",
                        help="go on with RUN if it exists (then --out alone is enough; --set fast= and compile= may "
                             "change), begin it if not")  # fmt: skip
    parser.add_argument("--switch-framework", action="store_true",
                        help="with --resume: allow a --framework other than the one that began the run")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object")


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Train; the outcome, or None in a process that does not lead."""
    from anatobench.evaluation.judges import validator
    from anatobench.evaluation.run_evaluation import open_store
    from anatobench.store.batches import steps_per_epoch, training_batches
    from anatobench.training.loop import TrainingData, train

    processes = find_processes()
    config = _asked_for(args)
    store = open_store(config)
    if args.store_copy is not None:
        store = _copy_of(store, args.store_copy)
    recipe = config.recipe
    steps = steps_per_epoch(store, recipe.batch_size)
    if config.sharpness_every and not processes.alone:
        raise UsageError("--sharpness-every: for runs of one process only")
    processes.share(recipe.batch_size)  # refuses what cannot be shared out before anybody waits for anybody
    started = time.monotonic()
    with ExitStack() as stack:
        config, engine = _begin(args, config, processes, stack)
        device = engine.device()
        validate = validator(engine, store, recipe.batch_size)
        if processes.leads:
            train_cases = [store.cases[index] for index in store.split("train")]
            with_mask = sum(case.has_mask for case in train_cases)
            _introduce(config, engine, device, (len(train_cases), with_mask), steps, validate is not None)
        with training_batches(
            store,
            recipe.seed,
            recipe.batch_size,
            process_index=processes.index,
            process_count=processes.count,
            workers=args.workers,
            reads=plan_of(recipe, store.task).reads(steps),
            mask_noise=MaskNoise.of(recipe, store.task),
        ) as batches:
            data = TrainingData(
                batches, steps, lambda index: store.cases[index].case_id, validate, _sharpness_batch(config, store)
            )
            try:
                progress = train(args.out, config, engine, data)
            except Interrupted:
                engine.close()
                raise
        engine.close()
    if not processes.leads:
        return None
    return {
        "run": str(args.out),
        "steps": progress.step,
        "epochs": progress.epoch,
        "best": None if progress.best is None else progress.best.to_json(),
        "framework": engine.name,
        "device": device,
        "seconds": round(time.monotonic() - started, 3),
    }


def _begin(
    args: argparse.Namespace, config: RunConfig, processes: Processes, stack: ExitStack
) -> tuple[RunConfig, Engine]:
    """The run's folder, begun and locked by the process that leads, and the engine."""
    from anatobench.engine import load_engine

    def begin() -> RunConfig:
        begun = begin_run(args.out, config, args.resume, args.switch_framework)
        stack.enter_context(locked(args.out))
        return begun

    if processes.alone:  # a folder that cannot be used is known before the engine is built
        begun = begin()
        return begun, load_engine(begun.framework, begun.spec, begun.recipe)
    engine = load_engine(config.framework, config.spec, config.recipe, processes)
    begun_by_leader = after_leader(processes, engine.gather, begin)
    if begun_by_leader is not None:
        return begun_by_leader, engine
    saved = RunConfig.read(args.out)
    recipe = as_on(saved.recipe, config.recipe)
    return replace(saved, framework=config.framework, store=config.store, recipe=recipe), engine


def _sharpness_batch(config: RunConfig, store: Store) -> Batch | None:
    """The run's first batch, if it is needed."""
    from anatobench.store.batches import training_batches

    if not config.sharpness_every:
        return None
    recipe = config.recipe
    reads, noise = plan_of(recipe, store.task).reads(1), MaskNoise.of(recipe, store.task)
    with training_batches(store, recipe.seed, recipe.batch_size, workers=0, reads=reads, mask_noise=noise) as batches:
        return next(batches)


def _introduce(
    config: RunConfig, engine: Engine, device: Mapping[str, Any], cases: tuple[int, int], steps: int, validated: bool
) -> None:
    """Say what is trained; `cases` are those for training, and those of them that have a mask."""
    count = engine.processes.count
    total, with_mask = cases
    supervision = "without segmentation supervision"
    if config.segmentation and with_mask:
        supervision = f"with segmentation supervision of the {with_mask} of them that have a mask"
    elif config.segmentation:
        supervision = "without segmentation supervision, because none of them has a mask"
    print(
        f"{config.model} ({config.size}) on {config.task.name} with {engine.name} on {device['name']}"
        f"{f' x {count} processes' if count > 1 else ''}: {total} training cases, {supervision}, "
        f"{config.total_steps(steps)} steps of {config.recipe.batch_size}",
        file=sys.stderr,
    )
    if not validated:
        print("train: no validation cases in the store, so the last checkpoint stands for the run", file=sys.stderr)


def _asked_for(args: argparse.Namespace) -> RunConfig:
    """The configuration on the command line; with `--resume --out RUN` alone, the run's own."""
    restated = (args.task, args.model, args.size, args.epochs, args.steps, args.evaluate_every, args.checkpoint_every,
                args.sharpness_every, args.initial_weights, args.pretrained)  # fmt: skip
    of_the_machine = all(setting.partition("=")[0] in OF_THE_MACHINE for setting in args.settings)
    alone = all(value is None for value in restated) and of_the_machine and not args.no_seg
    if args.resume and alone and (args.out / CONFIG_FILE).exists():
        saved = RunConfig.read(args.out)
        recipe = override(saved.recipe, args.settings)
        return replace(
            saved, store=args.store or saved.store, framework=args.framework or saved.framework, recipe=recipe
        )
    missing = [f"--{name}" for name in ("task", "store", "model", "framework") if getattr(args, name) is None]
    if missing:
        raise UsageError(
            f"{', '.join(missing)}: missing (only a run that exists goes on with --resume --out RUN alone)"
        )
    store = Store.open(args.store)
    task = _task(args.task, store.task)
    if args.size not in (None, store.size):
        raise AnatoBenchError(f"{args.store}: is a store of size {store.size}, not {args.size}: prepare another")
    return RunConfig(
        task=task,
        store=str(Path(args.store).resolve()),
        framework=args.framework,
        model=args.model,
        size=store.size,
        recipe=(recipe := _recipe(args, task)),
        segmentation=recipe.segmentation_weight > 0,
        initial_weights=None if args.initial_weights is None else str(args.initial_weights.resolve()),
        pretrained=_pretrained(args),
        max_steps=args.steps,
        versions=RunConfig.installed_versions(args.framework),
        **{
            name: value
            for name in ("evaluate_every", "checkpoint_every", "sharpness_every")
            if (value := getattr(args, name)) is not None
        },
    )


def _copy_of(store: Store, path: Path) -> Store:
    """The copy at `path`; AnatoBenchError if it holds anything else than `store`."""
    copy = Store.open(path)
    if replace(copy, root=store.root) != store:
        raise AnatoBenchError(f"{path}: is not a copy of {store.root}: copy it again, or leave --store-copy out")
    return copy


def _task(name: str, stored: Task) -> Task:
    """The task of that name; a store made from a manifest brings its own."""
    task = stored if name == stored.name else get_task(name)
    if task != stored:
        raise AnatoBenchError(f"the store was prepared for task {stored.name}, not {name}: give --task {stored.name}")
    return task


def _pretrained(args: argparse.Namespace) -> str | None:
    """As a configuration names it: `auto` as the published file's name, which is the same wherever it lies."""
    if args.pretrained is None:
        return None
    if args.pretrained == "auto":
        return card_of(args.model).published_weights().file
    return str(Path(args.pretrained).resolve())


def _recipe(args: argparse.Namespace, task: Task) -> Recipe:
    epochs = [] if args.epochs is None else [f"epochs={args.epochs}"]
    baseline = ["segmentation_weight=0"] if args.no_seg else []
    return override(paper_recipe(task, args.model), [*args.settings, *epochs, *baseline])
