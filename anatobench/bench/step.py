"""Time of a training step (forward, backward, optimizer) of several arms that take turns on one machine.

Every arm has a process of its own, because two frameworks in one would fight over memory and threads. All read the same
batch from files, begin with the same weights, and take turns in rounds, forwards and backwards, so that whatever slows
the machine slows all of them; ratios are those of rounds, with a bootstrap interval.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.backbones import card_of
from anatobench.bench.arm_cache import ArmCache, arm_cache
from anatobench.bench.arms import Arm, ArmError, ArmProcess
from anatobench.bench.energy import Spent, energy_record
from anatobench.bench.flops import count
from anatobench.bench.gpu_watch import GpuWatch, watched_gpus
from anatobench.bench.intervals import median_interval, paired_ratio
from anatobench.bench.peaks import peak_flops
from anatobench.bench.quiet import OtherWork, disturbances, gpu_use
from anatobench.bench.random_batch import random_batch, write_batch
from anatobench.engine import TRACE, ModelSpec
from anatobench.errors import AnatoBenchError
from anatobench.objectives.heads import diagnosis_heads
from anatobench.recipes import Recipe
from anatobench.system.compile_cache import compile_cache
from anatobench.system.host import describe_code, describe_host

SHARE_FOR_PREPARING = 0.7
"""Of a limited time: what is not compiled by then is left out."""
FEWEST_ROUNDS = 2
PROFILED_STEPS = 5
DIFFERENT_LOSSES = "the arms' first losses differ: they did not do the same work"
DIFFERENT_CODE = "the arms ran different versions of the suite: build both images from one commit"
DIFFERENT_DEVICES = "the arms did not compute on the same device"
LOSS_TOLERANCE = {"fp64": 1e-9, "fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}
"""How far first losses may lie apart, relatively, that started from the same weights and bytes."""


@dataclass(frozen=True)
class StepBenchmark:
    """What is measured, and how."""

    arms: tuple[Arm, ...]
    spec: ModelSpec
    recipe: Recipe
    rounds: int = 20
    steps_per_turn: int = 1
    """Timed steps in a row, whose median is the arm's time in that round."""
    warm_up: int = 2
    """Steps between the first one, which compiles, and the first round."""
    seconds: float | None = None
    """End after about so long, with the rounds that were done; None: as long as it takes."""
    prepare_together: bool = False
    """Let all arms compile at the same time: sooner, but compilation times then disturb each other."""
    cache: Path | None = None
    """Below it every arm keeps its compiled programs; None: wherever the environment says."""
    profile: Path | None = None
    """Where every arm leaves a trace of some steps after the measurement, in a folder of its own."""
    profile_kind: str = TRACE

    @property
    def settling_steps(self) -> int:
        """Untimed steps at the start of a turn, where others had theirs in between."""
        return 0 if len(self.arms) == 1 else 1


@dataclass
class _Contestant:
    """An arm at work, and what it has told so far."""

    arm: Arm
    process: ArmProcess
    cache: ArmCache
    told: dict[str, Any]
    seconds: list[float]
    spent: list[Spent]


def bench_step(asked: StepBenchmark, progress: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """Measure; the record of `anatobench bench step --json` (benchmarks/results/schemas/step.json).

    Arms that fail are named in `failed` and do not stop the others; `AnatoBenchError` if none is left, or if two arms
    did not see the same bytes.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    deadline = None if asked.seconds is None else clock + asked.seconds
    failed: dict[str, ArmError] = {}
    host, others = describe_host(), OtherWork()
    with tempfile.TemporaryDirectory(prefix="anatobench-bench-") as name, ExitStack() as processes:
        folder = Path(name)
        batch = random_batch(asked.spec, asked.recipe.batch_size, asked.recipe.seed)
        write_batch(batch, folder)
        gpus = max(arm.processes for arm in asked.arms)
        gpu_before = gpu_use(gpus)
        contestants = []
        for number, arm in enumerate(asked.arms):
            cache = arm_cache(asked.cache, arm)
            process = ArmProcess(arm, folder, number, cache.environment)
            contestants.append(_Contestant(arm, processes.enter_context(process), cache, {}, [], []))
        preparing = _Turns(contestants, failed, None if deadline is None else _part(clock, deadline))
        _prepare(preparing, asked, folder, progress)
        with watched_gpus(gpus) as gpu:
            _measure(_Turns(contestants, failed, None), asked, deadline, progress)
            _Turns(contestants, failed, None).each_in_turn("finish")
        if asked.profile is not None:
            _profile(_Turns(contestants, failed, None), asked.profile, asked.profile_kind, folder / "traces", progress)
    left = [c for c in contestants if c.arm.name not in failed]
    if not left:
        raise AnatoBenchError("; ".join(f"{name}: {error}" for name, error in failed.items()))
    digest = batch.digest()
    for contestant in left:
        if contestant.told["batch_digest"] != digest:
            raise AnatoBenchError(f"{contestant.arm.name} did not see the batch that was made, or changed it")
    ceilings: dict[str, float] = {}
    for contestant in left:  # two measured the same device: the faster product is nearer to what it can do
        precision, rate = contestant.told["precision"], contestant.told["matrix_product_flops"]
        ceilings[precision] = max(rate, ceilings.get(precision, 0.0))
    arms = [_arm_record(c, asked, ceilings, gpu) for c in left]
    same_first_loss = _same_first_loss(left, asked)
    machine = {
        **host,
        "load_1m_after": os.getloadavg()[0],
        "other_cores": others.cores(),
        "gpu_before": gpu_before,
        "gpu": gpu.to_json(),
    }
    return {
        "kind": "step",
        **arms[0],  # the figures of the first arm stand at the top, too
        "passed": not failed,
        **spec_record(asked.spec),
        "batch_size": asked.recipe.batch_size,
        "processes": gpus,
        "repeats": len(left[0].seconds),
        "batch_digest": digest,
        "same_first_loss": same_first_loss,
        "arms": arms,
        "ratios": list(_ratios(left)),
        "failed": {name: error.to_json() for name, error in failed.items()},
        "warnings": [*disturbances(machine), *_differences(arms, same_first_loss)],
        "protocol": {
            "steps_per_turn": asked.steps_per_turn,
            "settling_steps": asked.settling_steps,
            "warm_up": asked.warm_up,
            "prepared_together": asked.prepare_together,
            "compilation_cache": bool(
                asked.cache or os.environ.get("JAX_COMPILATION_CACHE_DIR") or compile_cache("jax")
            ),
            "seconds": round(time.monotonic() - clock, 1),
        },
        "machine": machine,
        "code": describe_code(),
        "started": started.isoformat(timespec="seconds"),
    }


@dataclass
class _Turns:
    """Asks one contestant after the other; whoever fails is out."""

    contestants: Sequence[_Contestant]
    failed: dict[str, ArmError]
    deadline: float | None

    def left(self) -> list[_Contestant]:
        return [c for c in self.contestants if c.arm.name not in self.failed]

    def each_in_turn(self, what: str, order: int = 1, **details: Any) -> None:
        for contestant in self.left()[::order]:
            self._try(contestant, lambda c: c.process.send(what, **details))
            self.hear(contestant)

    def all_at_once(self, what: str, details: Callable[[Arm], dict[str, Any]]) -> None:
        for contestant in self.left():
            self._try(contestant, lambda c: c.process.send(what, **details(c.arm)))
        for contestant in self.left():
            self.hear(contestant)

    def hear(self, contestant: _Contestant) -> None:
        if contestant.arm.name not in self.failed:
            self._try(contestant, lambda c: c.told.update(c.process.receive(self.deadline)))

    def _try(self, contestant: _Contestant, action: Callable[[_Contestant], object]) -> None:
        try:
            action(contestant)
        except ArmError as error:
            self.failed[contestant.arm.name] = error
            contestant.process.__exit__(ArmError)  # its memory is for the others


def _part(start: float, deadline: float) -> float:
    return start + SHARE_FOR_PREPARING * (deadline - start)


def _prepare(turns: _Turns, asked: StepBenchmark, folder: Path, progress: Callable[[str], None]) -> None:
    progress("building")
    turns.all_at_once("describe", lambda arm: build_request(arm, asked.spec, asked.recipe, folder))
    turns.each_in_turn("ceiling")
    weights = str(folder / "weights.safetensors")
    with_head_first = sorted(turns.left(), key=lambda c: not c.arm.segmentation)
    for giver in with_head_first[:1]:
        _Turns([giver], turns.failed, turns.deadline).each_in_turn("save_weights", file=weights)
        if giver.arm.name not in turns.failed:
            turns.each_in_turn("load_weights", file=weights)
    progress("compiling and warming up")
    if asked.prepare_together:
        turns.all_at_once("prepare", lambda arm: {"warm_up": asked.warm_up})
    else:
        turns.each_in_turn("prepare", warm_up=asked.warm_up)


def spec_record(spec: ModelSpec) -> dict[str, Any]:
    """Return what a record says of the model that was measured."""
    return {
        "model": spec.model,
        "size": spec.size,
        "geometry": spec.task.anatomy,
        "crop_size": list(spec.crop_size),
    }


def build_request(arm: Arm, spec: ModelSpec, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Return the first request to an arm's process: what to build, and where the batch lies."""
    return {
        "framework": arm.framework,
        "peer": None if arm.peer is None else str(arm.peer),
        "variant": arm.variant,
        "model": spec.model,
        "size": spec.size,
        "task": spec.task.to_json(),
        "crop_size": list(spec.crop_size),
        "segmentation": arm.segmentation,
        "processes": arm.processes,
        "recipe": asdict(recipe),
        "batch": str(folder),
    }


def _measure(turns: _Turns, asked: StepBenchmark, deadline: float | None, progress: Callable[[str], None]) -> None:
    """Take rounds, one forwards, the next backwards, until the deadline; every round is whole."""
    for number in range(asked.rounds):
        late = deadline is not None and time.monotonic() > deadline
        if (late and number >= FEWEST_ROUNDS) or not turns.left():
            return
        turns.each_in_turn(
            "turn",
            order=1 if number % 2 == 0 else -1,
            settling_steps=asked.settling_steps,
            steps=asked.steps_per_turn,
            release_memory=len(turns.left()) > 1,
        )
        for contestant in turns.left():
            contestant.seconds.append(float(np.median(contestant.told.pop("seconds"))))
            if (spent := contestant.told.pop("spent", None)) is not None:  # an older image's process does not say
                contestant.spent.append(Spent(**spent))
        progress(f"round {number + 1} of {asked.rounds}")


def _profile(turns: _Turns, into: Path, kind: str, work: Path, progress: Callable[[str], None]) -> None:
    """Let each arm trace some steps where every home can write, and copy what it leaves to `into`/<arm>. One that fails
    here keeps what it has measured."""
    progress("tracing")
    for contestant in turns.left():
        name = contestant.arm.name.replace(":", "_").replace(" ", "_")
        one = _Turns([contestant], {}, None)
        one.each_in_turn("profile", folder=str(work / name), steps=PROFILED_STEPS, kind=kind)
        for error in one.failed.values():
            contestant.told["trace"] = f"failed: {error}"
        if (work / name).is_dir():
            try:
                shutil.copytree(work / name, into / name, dirs_exist_ok=True)
            except OSError as error:
                raise AnatoBenchError(f"{into / name}: the trace cannot be written ({error.strerror})") from None


def _arm_record(
    contestant: _Contestant, asked: StepBenchmark, ceilings: Mapping[str, float], gpu: GpuWatch
) -> dict[str, Any]:
    arm, told = contestant.arm, contestant.told
    seconds, batch_size = np.array(contestant.seconds), asked.recipe.batch_size
    median = float(np.median(seconds))
    flops = count(replace(asked.spec, heads=diagnosis_heads(arm.segmentation))).training * batch_size
    peak_of_one = peak_flops(told["device"]["name"], told["precision"])
    peak = peak_of_one and peak_of_one * arm.processes
    measured = ceilings[told["precision"]] * arm.processes
    ceiling = peak or measured
    power = list(gpu.power.values()) if len(gpu.power) == arm.processes else []
    return {
        "name": arm.name,
        "framework": arm.framework,
        "peer": arm.peer_name,
        "segmentation": arm.segmentation,
        "precision": told["precision"],
        "median_s": median,
        "ci95_s": list(median_interval(seconds)),
        "seconds": contestant.seconds,
        "samples_per_s": batch_size / median,
        "model_flops_per_step": flops,
        "mfu": flops / median / ceiling,
        "mfu_of": "data sheet" if peak else "measured matrix product",
        "ceiling_flops": ceiling,
        "mfu_data_sheet": flops / median / peak if peak else None,
        "mfu_measured": flops / median / measured,
        "energy": None if told["device"]["kind"] == "cpu" else energy_record(contestant.spent, power, batch_size),
        "trace": told.get("trace"),
        "compile_cache": contestant.cache.state,
        "home": None if arm.home is None else arm.home.to_json(),
        **{key: told[key] for key in _TOLD},
    }


_TOLD = (
    "matrix_product_flops",
    "peak_memory_bytes",
    "peak_memory_of",
    "reserved_memory_bytes",
    "total_memory_bytes",
    "build_s",
    "compile_s",
    "warm_up_s",
    "first_loss",
    "last_loss",
    "batch_digest",
    "device",
    "versions",
    "code",
)


def _same_first_loss(contestants: Sequence[_Contestant], asked: StepBenchmark) -> bool | None:
    """Return whether arms that do the same work found the same loss at the same weights: that they did see the same
    bytes.

    None where nothing can be compared: one arm, or a model that draws dropout at random.
    """
    losses = [c.told["first_loss"] for c in contestants if c.arm.segmentation == contestants[0].arm.segmentation]
    if len(losses) < 2 or (asked.recipe.dropout and card_of(asked.spec.model).has_dropout):
        return None
    tolerance = max(LOSS_TOLERANCE[c.told["precision"]] for c in contestants)
    return bool(max(losses) - min(losses) <= tolerance * max(map(abs, losses)))


def _differences(arms: Sequence[Mapping[str, Any]], same_first_loss: bool | None) -> Iterator[str]:
    """Yield what makes arms hard to compare."""
    if same_first_loss is False:
        yield DIFFERENT_LOSSES
    codes = {(arm["code"]["version"], arm["code"]["commit"]) for arm in arms if arm["code"]["commit"]}
    if len(codes) > 1 or len({arm["code"]["version"] for arm in arms}) > 1:
        yield DIFFERENT_CODE
    if len({arm["device"]["name"] for arm in arms}) > 1:
        yield DIFFERENT_DEVICES


def _ratios(contestants: Sequence[_Contestant]) -> Iterator[dict[str, Any]]:
    """Yield the ratio of every arm's time to that of each before it."""
    for before, after in combinations(contestants, 2):
        ratio = paired_ratio(np.array(after.seconds), np.array(before.seconds))
        yield {"of": after.arm.name, "to": before.arm.name, "ratio": ratio.value, "ci95": [ratio.low, ratio.high]}
