"""What every process of a parallel run does for the tests: a few steps on its part of each batch, each of the next
phase.

python parallel_steps.py FRAMEWORK MODEL STEPS OUT [FIELD=VALUE ...], started with RANK, WORLD_SIZE, LOCAL_RANK,
MASTER_ADDR, MASTER_PORT.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from phased_kind import phased

from anatobench.engine import ModelSpec, load_engine
from anatobench.objectives.registry import KINDS, plan_of
from anatobench.parity.inputs import learning_rate, parity_batch, parity_recipe, perturbed_weights
from anatobench.recipes import override
from anatobench.system.array_files import safetensors_bytes
from anatobench.system.processes import find_processes
from anatobench.tasks import get_task

BATCH_SIZE = 4


def main() -> None:
    framework, model, steps, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    processes = find_processes()
    KINDS["phased"] = phased
    recipe = override(parity_recipe("float64", 0), sys.argv[5:])
    plan = plan_of(recipe, get_task("ratic"))
    spec = ModelSpec(model, "tiny", get_task("ratic"), (20, 16, 36), plan.heads)
    if framework == "torch":  # the graphs as they are: what Inductor makes of them takes minutes on a CPU
        import torch_ref.compilation

        torch_ref.compilation.BACKEND = "aot_eager"
    engine = load_engine(framework, spec, recipe, processes)
    engine.load_weights(perturbed_weights(engine.weights(), 0))
    share = processes.share(BATCH_SIZE)
    own = slice(processes.index * share, (processes.index + 1) * share)
    figures, stops = [], []
    for step in range(steps):
        batch = parity_batch(spec, BATCH_SIZE, 0, step)
        part = batch.part(own)
        # Each step another process is asked to stop, in the last step nobody.
        stop = step % processes.count == processes.index and step + 1 < steps
        found = engine.train_step(part, learning_rate(step), step, stop, step % len(plan.phases)).fetch()
        figures += [found.loss, *found.terms.values(), found.gradient_norm]
        stops.append(found.stop)
        cases = engine.gather(found.case_losses).reshape(-1)
    logits = engine.gather(engine.predict(batch["volume"][own])).reshape(BATCH_SIZE, -1)
    names = {"model": "weights"}
    arrays = {
        f"{names.get(tree, tree)}/{name}": array
        for tree, found_in in engine.state().items()
        for name, array in found_in.items()
    }
    arrays |= {"figures": np.array(figures), "stops": np.array(stops), "case_losses": cases, "logits": logits}
    path = out / f"process_{processes.index}_of_{processes.count}.safetensors"
    path.write_bytes(safetensors_bytes(arrays, {"device": str(engine.device()["count"])}))
    engine.close()


if __name__ == "__main__":
    main()
