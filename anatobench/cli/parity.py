"""`anatobench parity`: climb the ladder with the two frameworks and say where, if anywhere, they part."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tqdm import tqdm

from anatobench.engine import ModelSpec, load_engine
from anatobench.errors import UsageError
from anatobench.parity.inputs import PRECISION_OF_DTYPE, parity_recipe
from anatobench.parity.ladder import Ladder, Rung
from anatobench.recipes import MODELS, SIZES
from anatobench.tasks import TASKS, get_task

TOLERANCES: dict[str, tuple[float | None, float | None]] = {
    "float64": (1e-9, 1e-9),
    "float32": (1e-4, None),
    "bfloat16": (None, None),
}
"""Of the forward pass, and of gradients and training. In float64 two right programs agree to about 1e-12; in float32
training amplifies rounding, so its drift is reported and is no gate."""
SUMMARY_KINDS = ("logits", "seg_logits", "loss", "grads", "params", "batch_stats")
DEFAULT_BATCH_SIZE = {"tiny": 3, "full": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `--help`."""
    parser.epilog = """\
Both frameworks start from the same weights and see the same batches. Compared are: shapes, weights there and back,
the output of every stage, logits, losses, the gradient of every parameter, one optimizer step, and N steps with
BatchNorm's running values. An error is max|a - b| / max|b| per array, b being PyTorch's. float64 gates everything at
1e-9, float32 the forward pass at 1e-4; other drift is reported.

  anatobench parity --model r3d_18 --task ratic --dtype float64 --size tiny --steps 10
  anatobench parity --model r3d_18 --task ct_rate --dtype float32 --size full --steps 0 --json
"""
    parser.add_argument("--model", choices=MODELS, default="r3d_18", help="backbone (default: %(default)s)")
    parser.add_argument("--task", choices=TASKS, default="ratic", help="labels, organs, window (default: %(default)s)")
    parser.add_argument(
        "--dtype", choices=PRECISION_OF_DTYPE, default="float64", help="compute precision (default: %(default)s)"
    )
    parser.add_argument("--size", choices=SIZES, default="tiny", help="tiny: for CPUs; full: the paper's crop")
    parser.add_argument(
        "--steps", type=int, default=10, metavar="N", help="training steps; 0: forward pass only (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, metavar="B", help="cases per batch (default: 3 tiny, 1 full)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object on the last line")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Climb; returns the figures, `passed` among them."""
    batch_size = DEFAULT_BATCH_SIZE[args.size] if args.batch_size is None else args.batch_size
    if args.steps < 0 or batch_size < 1 or args.seed < 0:
        raise UsageError("--steps and --seed must be 0 or more, --batch-size 1 or more")
    task = get_task(args.task)
    spec = ModelSpec(args.model, args.size, task, task.geometry(args.size).crop_size)
    recipe = parity_recipe(args.dtype, args.seed)
    forward_tolerance, training_tolerance = TOLERANCES[args.dtype]
    with tqdm(total=args.steps + 5, desc="parity", unit="rung", file=sys.stderr, leave=False) as bar:

        def progress(what: str) -> None:
            bar.set_postfix_str(what)
            bar.update()

        progress("building both engines")
        reference, candidate = (load_engine(framework, spec, recipe) for framework in ("torch", "jax"))
        ladder = Ladder(reference, candidate, args.steps, batch_size, args.seed, forward_tolerance, training_tolerance)
        rungs = list(ladder.climb(progress))
    _print_table(rungs)
    failed = [rung.name for rung in rungs if not rung.passed]
    print(f"first difference: {failed[0]}" if failed else "no difference beyond the tolerance", file=sys.stderr)
    return {
        "passed": not failed,
        "tolerance": forward_tolerance,
        "max_rel_error": _largest_by_kind(rungs),
        "first_failure": failed[0] if failed else None,
        "rungs": [
            {
                "name": rung.name,
                "error": rung.difference.error,
                "worst": rung.difference.worst,
                "tolerance": rung.tolerance,
                "passed": rung.passed,
            }
            for rung in rungs
        ],
        "model": args.model,
        "task": args.task,
        "dtype": args.dtype,
        "size": args.size,
        "steps": args.steps,
        "batch_size": batch_size,
        "seed": args.seed,
        "devices": {engine.name: engine.device() for engine in (reference, candidate)},
    }


def _largest_by_kind(rungs: list[Rung]) -> dict[str, float | None]:
    """None for what was not measured (gradients and what follows, without steps)."""
    errors: dict[str, float | None] = dict.fromkeys(SUMMARY_KINDS)
    for rung in rungs:
        errors[rung.kind] = max(errors.get(rung.kind) or 0.0, rung.difference.error)
    return errors


def _print_table(rungs: list[Rung]) -> None:
    width = max(len(rung.name) for rung in rungs)
    print(f"{'rung':{width}}  max rel error  tolerance  verdict   worst", file=sys.stderr)
    for rung in rungs:
        tolerance = "-" if rung.tolerance is None else f"{rung.tolerance:.0e}"
        verdict = "reported" if rung.tolerance is None else "equal" if rung.passed else "DIFFERENT"
        error = f"{rung.difference.error:.2e}"
        print(f"{rung.name:{width}}  {error:>13}  {tolerance:>9}  {verdict:9} {rung.difference.worst}", file=sys.stderr)
