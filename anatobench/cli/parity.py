"""`anatobench parity`: climb the ladder with the two frameworks and say where, if anywhere, they part."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from anatobench.cli.arguments import SEED, crop, whole
from anatobench.fast_forms import BY_DEVICE, FAST_FORMS
from anatobench.objectives.registry import KINDS
from anatobench.parity.climb import SUMMARY_KINDS, Climb, climb
from anatobench.parity.inputs import PRECISION_OF_DTYPE
from anatobench.parity.suite import climb_all, whole_ladder
from anatobench.recipes import COMPILATIONS, MODELS, SIZES
from anatobench.system.gpus import visible_gpus
from anatobench.system.progress import named_on, progress_bar
from anatobench.tasks import TASKS

AS_ONE_VECTOR = "* the gradient as one vector; elsewhere the worst of its arrays"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `--help`."""
    parser.epilog = """\
Both frameworks start from the same weights and see the same batches. Compared are: shapes, weights there and back,
the output of every stage, logits, losses, the gradient of every parameter, one optimizer step, and N steps with
BatchNorm's running values. An error is max|a - b| / max|b| per array, b being PyTorch's. float64 gates everything at
1e-9, float32 the first forward and backward pass at 1e-4; other drift is reported.

  anatobench parity --model r3d_18 --task ratic --dtype float64 --size tiny --steps 10
  anatobench parity --model swin3d_t --task ct_rate --dtype float32 --size full --steps 0 --backward --json
  anatobench parity --all
"""
    parser.add_argument("--all", action="store_true",
                        help="every backbone and task at tiny, odd and full size, as one table; of the other "
                             "options it takes --workers and --json alone")  # fmt: skip
    parser.add_argument("--model", choices=MODELS, default="r3d_18", help="backbone (default: %(default)s)")
    parser.add_argument("--task", choices=TASKS, default="ratic", help="labels, organs, window (default: %(default)s)")
    parser.add_argument(
        "--dtype", choices=PRECISION_OF_DTYPE, default="float64", help="compute precision (default: %(default)s)"
    )
    parser.add_argument("--size", choices=SIZES, default="tiny", help="tiny: for CPUs; full: the paper's crop")
    parser.add_argument("--crop", type=crop, metavar="D,H,W", help="another crop size, in voxels")
    parser.add_argument(
        "--steps",
        type=whole(0),
        default=10,
        metavar="N",
        help="training steps; 0: one pass alone (default: %(default)s)",
    )
    parser.add_argument("--backward", action="store_true", help="with --steps 0: compare the gradients, too")
    parser.add_argument("--batch-size", type=whole(1), metavar="B", help="cases per batch (default: 3 tiny, 1 full)")
    parser.add_argument(
        "--objective", choices=KINDS, default="diagnosis",
        help="what the ladder minimises, as `train --set objective=` (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=SEED, default=0, help="of weights and batches (default: %(default)s)")
    parser.add_argument(
        "--fast", default=BY_DEVICE, metavar="FORMS",
        help=f"layers that take their fast form: auto, true, false, or some of {','.join(FAST_FORMS)} (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--compile", choices=COMPILATIONS, default="false",
        help="whether PyTorch compiles the training steps: auto, as training does; on a GPU that takes longer than ten "
        "steps (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=whole(1), default=default_workers(), metavar="W",
        help="with --all: processes for the tiny models (default here: %(default)s; a GPU is given one)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object on the last line")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Climb; returns the figures, `passed` among them."""
    if args.all:
        return _run_all(args.workers)
    asked = Climb(
        model=args.model,
        task=args.task,
        dtype=args.dtype,
        size=args.size,
        steps=args.steps,
        backward=args.backward,
        crop_size=args.crop,
        batch_size=args.batch_size,
        seed=args.seed,
        fast=args.fast,
        objective=args.objective,
        compile=args.compile,
    )
    with progress_bar(args.steps + 5, "parity", "rung", each=True, leave=False) as bar:
        figures = climb(asked, named_on(bar))
    _print_rungs(figures["rungs"])
    failed = figures["first_failure"]
    print(f"first difference: {failed}" if failed else "no difference beyond the tolerance")
    return figures


def default_workers() -> int:
    """Return one process per core, up to four; one alone where they would share a GPU's memory."""
    return 1 if visible_gpus() else min(os.cpu_count() or 1, 4)


def _run_all(workers: int) -> dict[str, Any]:
    started = time.monotonic()
    climbs = whole_ladder()
    results = []
    print(_row(("model", "task", "size", "dtype", "steps"), SUMMARY_KINDS, "verdict"))
    with progress_bar(len(climbs), "parity", "climb", leave=False) as bar:
        for figures in climb_all(climbs, workers):
            bar.write(_summary_row(figures))
            bar.update()
            results.append(figures)
    print(AS_ONE_VECTOR)
    passed = all(figures["passed"] for figures in results)
    seconds = round(time.monotonic() - started, 1)
    print(
        f"{'every gate passed' if passed else 'SOME GATES FAILED'}: {len(results)} climbs in {seconds:.0f} s",
    )
    return {"passed": passed, "seconds": seconds, "climbs": results}


def _summary_row(figures: dict[str, Any]) -> str:
    errors = figures["max_rel_error"]
    cells = {kind: "-" if errors[kind] is None else f"{errors[kind]:.0e}" for kind in SUMMARY_KINDS}
    if any(rung["name"] == "gradients" and rung["tolerance"] is None for rung in figures["rungs"]):
        cells["grads"] = f"{errors['whole_gradient']:.0e}*"  # an array's error says little there: small ones are noise
    gated = figures["tolerance"] is not None
    verdict = f"DIFFERENT: {figures['first_failure']}" if not figures["passed"] else "equal" if gated else "reported"
    size = "x".join(map(str, figures["crop_size"]))
    name = (figures["model"], figures["task"], f"{figures['size']} {size}", figures["dtype"], str(figures["steps"]))
    return _row(
        name,
        list(cells.values()),
        f"{verdict}  ({figures['seconds']:.0f} s, {figures['peak_memory_bytes'] / 2**30:.1f} GiB)",
    )


def _row(name: tuple[str, ...], cells: tuple[str, ...] | list[str], verdict: str) -> str:
    widths = (9, 11, 16, 8, 5)
    left = "  ".join(f"{text:{width}}" for text, width in zip(name, widths, strict=True))
    return f"{left}  {' '.join(f'{cell:>11}' for cell in cells)}  {verdict}"


def _print_rungs(rungs: list[dict[str, Any]]) -> None:
    width = max(len(rung["name"]) for rung in rungs)
    print(f"{'rung':{width}}  max rel error  tolerance  verdict   worst")
    for rung in rungs:
        tolerance = "-" if rung["tolerance"] is None else f"{rung['tolerance']:.0e}"
        verdict = "reported" if rung["tolerance"] is None else "equal" if rung["passed"] else "DIFFERENT"
        error = f"{rung['error']:.2e}"
        print(f"{rung['name']:{width}}  {error:>13}  {tolerance:>9}  {verdict:9} {rung['worst']}")
