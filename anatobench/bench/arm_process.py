"""One arm of a step benchmark, in a process of its own: a framework or a peer, told what to do over pipes.

Every line of stdin is one request, {"do": ...}, and is answered by one line of JSON: the figures asked for, or `error`
with one sentence and `out_of_memory`. Whatever a framework prints goes to stderr. When stdin closes, the process ends.

It imports the framework it measures and nothing that a node without data sets may lack.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors.numpy import load_file

from anatobench.bench.arm_group import MEMBER, Group
from anatobench.bench.energy import Spent, energy_counter
from anatobench.bench.random_batch import read_batch
from anatobench.engine import Arrays, Collective, Instruments, ModelSpec, PendingMetrics, load_engine
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.objectives.heads import diagnosis_heads, of_auxiliary
from anatobench.recipes import Recipe
from anatobench.store.batch import Batch
from anatobench.system.array_files import safetensors_bytes
from anatobench.system.device_memory import is_out_of_memory
from anatobench.system.gpus import refuse_unwanted_cpu
from anatobench.system.host import describe_code
from anatobench.system.host_memory import host_memory
from anatobench.system.parent import end_with_parent, signal_at_parents_end
from anatobench.system.processes import ALONE, Processes, find_processes
from anatobench.system.signals import Interrupted, ended_by_signals
from anatobench.tasks import Task


class Model(Protocol):
    """What is measured: any engine, and any peer's `build(variant, spec, recipe)`."""

    recipe: Recipe
    """Its precision is the one that operations are counted against."""

    def train_step(self, batch: Batch, learning_rate: float, step: int) -> PendingMetrics: ...

    def weights(self) -> Arrays:
        """See `anatobench.engine.Trainable.weights`."""

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """See `anatobench.engine.Trainable.load_weights`."""

    def device(self) -> dict[str, Any]: ...

    def instruments(self) -> Instruments: ...


class Arm:
    """The model once it is built, and the batch that every step is given."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        """`AnatoBenchError` if the framework or the peer's file is not there, or finds none of the job's GPUs."""
        self._batch = read_batch(Path(request["batch"]))
        self._digest = self._batch.digest()
        self._processes = find_processes() if request.get(MEMBER) else ALONE
        share = self._processes.share(self._batch.size)
        self._part = self._batch.part(slice(self._processes.index * share, (self._processes.index + 1) * share))
        start = time.perf_counter()
        self._model = _build(request, self._processes)
        refuse_unwanted_cpu(self._model.device()["kind"])
        self._instruments = self._model.instruments()
        self._build_seconds = time.perf_counter() - start
        self._joules = energy_counter(self._processes.local_index)
        self._steps = 0
        self._last_loss = float("nan")

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked for."""
        action: Callable[[Mapping[str, Any]], dict[str, Any]] = getattr(self, request["do"])
        return action(request)

    def close(self) -> None:
        """Part from the other processes, if there are any."""
        if not self._processes.alone and isinstance(self._model, Collective):
            self._model.close()

    def describe(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return what it is and runs on; the batch's digest as this process read it."""
        device = self._model.device()
        return {
            "precision": self._model.recipe.precision,
            "build_s": self._build_seconds,
            "held_bytes": host_memory()[0],
            "versions": device.pop("versions"),
            "device": device,
            "code": describe_code(),
            "batch_digest": self._digest,
        }

    def limit_memory(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Allocations beyond what is taken now plus so many bytes fail, as they would on a smaller machine."""
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + int(request["bytes"])
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return {}

    def ceiling(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the rate of a large matrix product on this device."""
        return {"matrix_product_flops": self._instruments.matrix_product_rate()}

    def save_weights(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return what it begins with, so that all arms begin with the same."""
        if self._processes.leads:
            Path(request["file"]).write_bytes(safetensors_bytes(self._model.weights()))
        return {}

    def load_weights(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inverse; a file without segmentation head leaves this model's as it is."""
        own = of_auxiliary(self._model.weights())
        self._model.load_weights(own | load_file(request["file"]))
        return {}

    def prepare(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the first step, with compilation and choice of kernels, then the warm-up."""
        compile_seconds = self._step()
        first_loss = self._last_loss
        warm_up_seconds = [self._step() for _ in range(request["warm_up"])]
        self._instruments.release_memory()  # for the arms that compile next
        return {"compile_s": compile_seconds, "warm_up_s": warm_up_seconds, "first_loss": first_loss}

    def turn(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Time steps after those that bring back what the other arm's turn drove out of caches and memory."""
        for _ in range(request["settling_steps"]):
            self._step()
        began, joules_before = time.time(), self._joules()
        seconds = [self._step() for _ in range(request["steps"])]
        joules, ended = self._joules(), time.time()
        if request["release_memory"]:
            self._instruments.release_memory()
        used = None if joules is None or joules_before is None else joules - joules_before
        return {"seconds": seconds, "spent": asdict(Spent(began, ended, used, len(seconds)))}

    def profile(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Trace some steps, which nobody times; `trace`: whether there is one, or why not."""
        if request["kind"] not in self._instruments.profiles():
            return {"trace": f"no {request['kind']} here: {' or '.join(self._instruments.profiles())}"}
        with self._instruments.trace(Path(request["folder"]), "steps", request["kind"]):
            for _ in range(request["steps"]):
                with self._instruments.named_range("step"):
                    self._step()
        return {"trace": request["kind"]}

    def finish(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Memory, the last loss, and the batch's digest once more: no step has changed it."""
        memory = self._instruments.memory()
        return {
            "peak_memory_bytes": host_memory()[1] if memory is None else memory.peak,
            "peak_memory_of": "process" if memory is None else "device",
            "reserved_memory_bytes": None if memory is None else memory.reserved,
            "total_memory_bytes": None if memory is None else memory.total,
            "batch_digest": self._batch.digest(),
            "last_loss": self._last_loss,
        }

    def _step(self) -> float:
        """Seconds until the device has done the whole step, the update of the weights included."""
        start = time.perf_counter()
        metrics = self._model.train_step(self._part, self._model.recipe.learning_rate, self._steps).fetch()
        self._instruments.synchronise()
        seconds = time.perf_counter() - start
        self._steps += 1
        self._last_loss = metrics.loss
        if not np.isfinite(metrics.loss):
            raise AnatoBenchError(f"the loss of step {self._steps} is {metrics.loss}: no step to measure")
        return seconds


def _build(request: Mapping[str, Any], processes: Processes) -> Model:
    task = Task.from_json(request["task"])
    depth, height, width = request["crop_size"]
    heads = diagnosis_heads(request["segmentation"])
    spec = ModelSpec(request["model"], request["size"], task, (depth, height, width), heads)
    recipe = Recipe(**request["recipe"])
    if not request["segmentation"]:
        recipe = replace(recipe, segmentation_weight=0.0)
    if request["framework"]:
        return load_engine(request["framework"], spec, recipe, processes)
    path, variant = Path(request["peer"]), request["variant"]
    loaded = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    if loaded is None or loaded.loader is None or not path.is_file():
        raise UsageError(f"{path}: no such Python file of a peer")
    module = importlib.util.module_from_spec(loaded)
    sys.modules[loaded.name] = module
    try:
        loaded.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise AnatoBenchError(f"{path} needs the Python package {error.name}: install it") from error
    if variant not in module.VARIANTS:
        raise UsageError(f"{path}: no variant {variant!r}: choose one of {', '.join(module.VARIANTS)}")
    model: Model = module.build(variant, spec, recipe)
    return model


def _failure(error: BaseException) -> dict[str, Any]:
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return {
        "error": first if isinstance(error, AnatoBenchError) else f"{type(error).__name__}: {first}"[:400],
        "out_of_memory": is_out_of_memory(error),
    }


def _begin(request: Mapping[str, Any], stack: ExitStack) -> Arm | Group:
    """Return this process's own model, or the processes that have one each."""
    count = request.get("processes", 1)
    if request.get(MEMBER):
        signal_at_parents_end(signal.SIGKILL)
    elif count > 1:
        stack.enter_context(ended_by_signals())  # and its members with it
        return stack.enter_context(Group(count, [sys.executable, "-m", "anatobench.bench.arm_process"]))
    arm = Arm(request)
    stack.callback(arm.close)
    return arm


def main() -> int:
    """Answer requests until stdin closes."""
    end_with_parent(signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    arm: Arm | Group | None = None
    try:
        with ExitStack() as stack:
            for line in sys.stdin:
                request = json.loads(line)
                try:
                    if arm is None:
                        arm = _begin(request, stack)
                    answer = arm.answer(request)
                except Exception as error:
                    answer = _failure(error)
                answers.write(json.dumps(answer) + "\n")
    except Interrupted:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
