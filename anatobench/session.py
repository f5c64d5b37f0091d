"""A training run as one call, for the command line, the experiments and anybody's own program.

    from anatobench.session import configure, train_run

    outcome = train_run("runs/ratic", configure("ratic.store", "r3d_18", "jax"))

Nothing is printed unless the caller asks for it, and what goes wrong is an `AnatoBenchError`. The command line and this
call give equal weights to the bit. It stands after `evaluation`, whose AUC on the validation split it watches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from anatobench.engine import TRACE, Engine, check_engine, load_engine
from anatobench.errors import AnatoBenchError, UsageError, check_kind
from anatobench.evaluation.judges import check_judge, validator
from anatobench.evaluation.run_evaluation import fitting, open_store
from anatobench.objectives.heads import SEGMENTATION, auxiliary_heads
from anatobench.objectives.registry import plan_of
from anatobench.recipes import SIZES
from anatobench.store.augmentation import Augmentation
from anatobench.store.batch import Batch
from anatobench.store.batches import Batches, steps_per_epoch, training_batches
from anatobench.store.mask_noise import MaskNoise
from anatobench.store.reader import Store
from anatobench.store.training_cases import with_training_cases
from anatobench.system.processes import ALONE, Processes, after_leader
from anatobench.system.progress import named_if_slow
from anatobench.system.signals import Interrupted
from anatobench.training.checkpoints import Best
from anatobench.training.loop import TrainingData, train
from anatobench.training.metrics_records import METRICS_FILE
from anatobench.training.mllog import MLLOG_FILE, NO_MLLOG, MlLog, Submission
from anatobench.training.run_folder import PATHS, RunConfig, as_on, begun, configure
from anatobench.training.step_trace import NO_TRACE, StepTrace

__all__ = ["Introduction", "Outcome", "configure", "train_run"]


@dataclass(frozen=True)
class Introduction:
    """What a run is about to train, said once when all of it is known."""

    config: RunConfig
    framework: str
    device: str
    processes: int
    training_cases: int
    with_mask: int
    """Training cases that have organ masks."""
    total_steps: int
    validated: bool
    """Whether the store has validation cases, by which the best checkpoint is chosen."""

    def __str__(self) -> str:
        plan, supervision = self.config.plan, "without segmentation supervision"
        masked, some = bool(auxiliary_heads(plan.heads)), f"of the {self.with_mask} of them that have a mask"
        if plan.papers_segmentation is None:
            supervision = plan.label + (f" {some}" if masked else "")
            supervision += "" if self.config.trains_classifier else " (the classifier stays as it was drawn)"
        elif masked and self.with_mask:
            supervision = f"with segmentation supervision {some}"
        elif masked:
            supervision += ", because none of them has a mask"
        together = f" x {self.processes} processes" if self.processes > 1 else ""
        config = self.config
        return (
            f"{config.model} ({config.size}) on {config.task.name} with {self.framework} on {self.device}{together}: "
            f"{self.training_cases} training cases, {supervision}, "
            f"{self.total_steps} steps of {config.recipe.batch_size}"
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    run: Path
    steps: int
    epochs: int
    """Those begun; the last one of a run that `max_steps` ends need not be whole."""
    best: Best | None
    """The checkpoint that validation judged best; None where it has no score of any."""
    framework: str
    device: Mapping[str, Any]
    """`kind`, `name`, `count` and the framework's `versions`."""
    seconds: float
    """From the first look at the run's folder to the last checkpoint."""

    def to_json(self) -> dict[str, Any]:
        """Return what `anatobench train --json` prints."""
        best = None if self.best is None else self.best.to_json()
        return {**asdict(self), "run": str(self.run), "best": best}


def train_run(
    out: Path | str,
    config: RunConfig,
    *,
    store: Store | None = None,
    store_copy: Path | str | None = None,
    processes: Processes = ALONE,
    resume: bool = False,
    switch_framework: bool = False,
    workers: int = 0,
    introduce: Callable[[Introduction], None] | None = None,
    say: Callable[[str], None] | None = None,
    progress: bool = False,
    profile: str | None = None,
    mllog: bool = False,
) -> Outcome:
    """Train until the run's last step and return what became of it. `out` is the run's folder.

    `store` is `config`'s, opened, if the caller has it open; the cases are read from `store_copy` if there is one. An
    existing run goes on with `resume`, in another framework than it began with `switch_framework`. Several
    `processes`, each of which makes this call, train one model together. `workers` threads read cases ahead.

    `introduce` is told what is trained, `say` the rest that a person may want to know, in the process that leads;
    `progress` shows a bar, or lines now and then, on stderr. `profile` ("trace" or "nsys") traces some steps into
    `out`/profile, `mllog` keeps MLPerf's log in `out`/mlperf.log; both in the process that leads.

    `AnatoBenchError` if the folder, the store or the weights cannot be used, or if the loss is not finite;
    `UsageError`, a kind of it, if the configuration cannot be trained. Ctrl-C, SIGTERM or SIGUSR1 saves a checkpoint
    and raises `Interrupted`, a `KeyboardInterrupt`; the same call with `resume` goes on.
    """
    check_kind("out", out, PATHS, "a path")
    check_kind("config", config, RunConfig, "what `configure` returns")
    check_kind("store", store, (Store, type(None)), "a Store that is open (config names the path)")
    check_kind("store_copy", store_copy, (*PATHS, type(None)), "a path")
    check_kind("processes", processes, Processes, "what `find_processes` returns")
    if type(workers) is not int or workers < 0:
        raise UsageError(f"workers={workers!r}: give a whole number from 0 up")
    for name, function in (("introduce", introduce), ("say", say)):
        if function is not None and not callable(function):
            raise UsageError(f"{name} must be a function, not {function!r:.80}")
    out = Path(out)
    store = open_store(config) if store is None else fitting(store, config)
    if store_copy is not None:
        store = _copy_of(store, Path(store_copy))
    store = with_training_cases(store, config.recipe.cases, config.recipe.draw)
    _refuse_unannotated(store, config)
    if not (resume and (out / METRICS_FILE).is_file()):  # a run of an earlier version goes on as it began
        _refuse_unsupervised(store, config)
    steps = steps_per_epoch(store, config.recipe.batch_size)
    if config.patience is not None and not store.split("validation"):
        raise UsageError(
            f"--patience {config.patience}: {store.root} has no validation cases to judge by: prepare it with "
            "--validation-fraction, or leave --patience out"
        )
    if config.sharpness_every and not processes.alone:
        raise UsageError("--sharpness-every: for runs of one process only")
    # What cannot be trained is refused before a folder is made, and before anybody waits for anybody.
    processes.share(config.recipe.batch_size)
    check_judge(config.plan.judge)
    started, began = time.monotonic(), time.time()
    with ExitStack() as stack:
        with named_if_slow(f"train: starting {config.framework}") if progress and processes.leads else nullcontext():
            check_engine(config.framework, config.spec, config.recipe)
            config, engine = _begin(out, config, processes, resume, switch_framework, stack)
        recipe, device = config.recipe, engine.device()
        wanted_trace = profile is not None and processes.leads
        trace = (
            StepTrace(engine.instruments(), out, profile or TRACE, say or _say_nothing) if wanted_trace else NO_TRACE
        )
        if mllog and processes.leads and say is not None and not store.split("validation"):
            say("--mllog: the store has no validation cases: the log will lack evaluations, which MLPerf's form wants")
        validate = validator(engine, store, recipe.batch_size, silent=not progress)
        if processes.leads and introduce is not None:
            cases = [store.cases[index] for index in store.split("train")]
            masks, total = sum(case.has_mask for case in cases), config.total_steps(steps)
            told = (engine.name, device["name"], processes.count, len(cases), masks, total, validate is not None)
            introduce(Introduction(config, *told))
        if processes.leads and say is not None and (warning := _warning_of_size(config, device["kind"])):
            say(warning)
        with _batches_of(config, store, steps, workers, processes) as batches:
            data = TrainingData(
                batches, steps, lambda index: store.cases[index].case_id, validate, _sharpness_batch(config, store),
                store.synthetic,
            )  # fmt: skip
            try:
                reached = train(
                    out, config, engine, data, say or _say_nothing, not progress, trace,
                    MlLog(out / MLLOG_FILE, _submission(config, engine, store), began)
                    if mllog and processes.leads else NO_MLLOG,
                )  # fmt: skip
            except Interrupted:
                engine.close()
                raise
        engine.close()
    seconds = round(time.monotonic() - started, 3)
    return Outcome(out, reached.step, reached.epoch, reached.best, engine.name, device, seconds)


def _begin(
    out: Path, config: RunConfig, processes: Processes, resume: bool, switch_framework: bool, stack: ExitStack
) -> tuple[RunConfig, Engine]:
    """Begin the run's folder, held by the process that leads, and build the engine."""

    def begin() -> RunConfig:
        return stack.enter_context(begun(out, config, resume, switch_framework))

    if processes.alone:  # a folder that cannot be used is known before the engine is built
        own = begin()
        return own, load_engine(own.framework, own.spec, own.recipe)
    engine = load_engine(config.framework, config.spec, config.recipe, processes)
    begun_by_leader = after_leader(processes, engine.gather, begin)
    if begun_by_leader is not None:
        return begun_by_leader, engine
    saved = RunConfig.read(out)
    recipe = as_on(saved.recipe, config.recipe)
    return replace(saved, framework=config.framework, store=config.store, recipe=recipe), engine


def _submission(config: RunConfig, engine: Engine, store: Store) -> Submission:
    """Return what stands at the head of MLPerf's log."""
    device = engine.device()
    return Submission(
        benchmark=f"{config.task.name}_{config.model}_{config.size}",
        platform=f"{device['count']} x {device['name']}, {engine.name}",
        train_samples=len(store.split("train")),
        eval_samples=len(store.split("validation")),
        recipe=config.recipe,
    )


def _sharpness_batch(config: RunConfig, store: Store) -> Batch | None:
    """Return the run's first batch, if it is needed."""
    if not config.sharpness_every:
        return None
    with _batches_of(config, store, steps_of_an_epoch=1) as batches:
        return next(batches)


def _batches_of(
    config: RunConfig, store: Store, steps_of_an_epoch: int, workers: int = 0, processes: Processes = ALONE
) -> Batches:
    """Return this process's part of the batches that the run is trained on."""
    recipe = config.recipe
    return training_batches(
        store,
        recipe.seed,
        recipe.batch_size,
        process_index=processes.index,
        process_count=processes.count,
        workers=workers,
        reads=plan_of(recipe, store.task).reads(steps_of_an_epoch),
        mask_noise=MaskNoise.of(recipe, store.task),
        augmentation=Augmentation.of(recipe),
    )


def _warning_of_size(config: RunConfig, device: str) -> str | None:
    """Return what to expect of a full-size model on a CPU, which otherwise looks like a hang; None elsewhere."""
    if config.size != SIZES[0] or device != "cpu":
        return None
    cases = config.recipe.batch_size
    smaller = ", or train with --set batch_size=1" if cases > 1 else ""
    return (
        f"train: a full-size model on a CPU, batch_size={cases}: a step can take minutes and 15 GB of memory or more; "
        f"to try things out, prepare a store with --size tiny{smaller}"
    )


def _refuse_unannotated(store: Store, config: RunConfig) -> None:
    """Refuse organ masks of which a part was drawn where what was not drawn would be taken for background."""
    if SEGMENTATION not in config.spec.heads:
        return
    train = store.split("train")
    partly = sum(store.cases[index].has_mask and not all(store.annotated(index)) for index in train)
    if partly:
        raise UsageError(
            f"{store.root}: in {partly} of {len(train)} training cases only some of the organs are annotated, and the "
            "segmentation head would take the others for background: train with --set objective=partial_masks, or "
            "without masks (--no-seg)"
        )


def _refuse_unsupervised(store: Store, config: RunConfig) -> None:
    """Refuse a head for organ masks where there are none: the run would be called supervised, and nothing supervises
    it."""
    reads_masks = any("organs" in phase.objective.reads for phase in config.plan.phases)
    train = store.split("train")
    if not reads_masks or not auxiliary_heads(config.plan.heads) or not train:
        return
    if not any(store.cases[index].has_mask for index in train):
        raise UsageError(
            f"{store.root}: none of the {len(train)} training cases has an organ mask, so nothing would supervise the "
            "head for them: train with --no-seg (segmentation_weight=0), or prepare with masks (`anatobench masks` "
            "makes them)"
        )


def _copy_of(store: Store, path: Path) -> Store:
    """Open the copy at `path`; AnatoBenchError if it holds anything else than `store`."""
    copy = Store.open(path)
    if replace(copy, root=store.root) != store:
        raise AnatoBenchError(f"{path}: is not a copy of {store.root}: copy it again, or leave --store-copy out")
    return copy


def _say_nothing(sentence: str) -> None:
    """Be silent, as a library is unless it is asked."""
