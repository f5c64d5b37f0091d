"""Prints which collectives one training step takes in two processes (PyTorch) or on two devices (JAX), as JSON.

python collectives_of_a_step.py FRAMEWORK MODEL [FIELD=VALUE ...]; PyTorch's with RANK, WORLD_SIZE and so on set.
Printed are `collectives`, a list of kind and shapes of what one process gives; of how many elements the parameters are;
how many BatchNorms there are; and for PyTorch the graphs that were compiled and why any was parted.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import numpy as np

from anatobench.engine import Engine, ModelSpec, load_engine
from anatobench.parity.inputs import parity_batch, parity_recipe
from anatobench.recipes import override
from anatobench.system.processes import find_processes
from anatobench.tasks import RATIC

CASES, CROP = 4, (8, 16, 16)
KINDS = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"


def of_torch(spec: ModelSpec, settings: list[str]) -> tuple[Engine, dict[str, Any]]:
    """As the profiler sees them in a step that is not the first."""
    import torch
    from torch._dynamo.utils import counters

    import torch_ref.compilation

    torch_ref.compilation.BACKEND = "aot_eager"
    processes = find_processes()
    engine = load_engine("torch", spec, override(parity_recipe("float32", 0), settings), processes)
    share = processes.share(CASES)
    batch = parity_batch(spec, CASES, 0, 0).part(slice(processes.index * share, (processes.index + 1) * share))
    for step in range(2):  # DistributedDataParallel fills its buckets anew after the first
        engine.train_step(batch, 1e-3, step).fetch()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        engine.train_step(batch, 1e-3, 2).fetch()
    found = [
        (event.name.removeprefix("gloo:"), event.input_shapes)
        for event in profile.events()
        if event.name.startswith("gloo:")
    ]
    graphs = {"graphs": counters["stats"]["unique_graphs"], "graph_breaks": list(counters["graph_break"])}
    return engine, {"collectives": found, **graphs}


def of_jax(spec: ModelSpec, settings: list[str]) -> tuple[Engine, dict[str, Any]]:
    """As they stand in the step's optimised program; a collective in a loop counts once and is marked."""
    import jax

    from jax_impl import parallel
    from jax_impl.engine import JaxEngine

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), (parallel.CASES,))
    parallel.join = lambda processes: mesh
    parallel.place_whole = lambda mesh, array, dtype: jax.device_put(np.asarray(array, dtype), parallel.whole(mesh))
    parallel.place_by_case = lambda mesh, array: jax.device_put(array, parallel.by_case(mesh))
    engine = load_engine("jax", spec, override(parity_recipe("float32", 0), settings))
    assert isinstance(engine, JaxEngine)
    batch = parity_batch(spec, CASES, 0, 0)
    arrays = {name: parallel.place_by_case(mesh, array) for name, array in batch.arrays.items()}
    asked = parallel.place_by_case(mesh, np.zeros(2, np.float32))
    with engine._precision.applied():
        lowered = engine._train_step.lower(0, engine._state, arrays, asked, np.float32(1e-3), np.uint32(0))
        text = lowered.compile().as_text()
    assert text is not None
    found = []
    for types, kind, rest in re.findall(rf"= (.*?) ({KINDS})(?:-start)?\((.*)", text):
        shapes = [[int(n) for n in shape.split(",") if n] for shape in re.findall(r"[a-z]\w*\[([\d,]*)\]", types)]
        found.append((f"{kind} in a loop" if "/while/body/" in rest else kind, shapes))
    return engine, {"collectives": found}


def main() -> None:
    framework, model, *settings = sys.argv[1:]
    spec = ModelSpec(model, "tiny", RATIC, CROP)
    engine, found = {"torch": of_torch, "jax": of_jax}[framework](spec, settings)
    sizes = [int(np.prod(shape)) for shape in engine.parameter_shapes().values()]
    norms = sum(name.endswith("running_mean") for name in engine.weights())
    print(json.dumps({**found, "parameters": sum(sizes), "batch_norms": norms}))
    engine.close()


if __name__ == "__main__":
    main()
