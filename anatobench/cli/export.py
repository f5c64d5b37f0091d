"""`anatobench export`: a run's weights, or all that training goes on from, as one file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write the best checkpoint of a run as one .safetensors file under torchvision's parameter names, without the\n"
        "segmentation head, which only training uses. Its metadata says model, size and task, so `anatobench predict`\n"
        "needs nothing else; and axes, spacing, crop, window and pooling, for those who have torchvision and not\n"
        "AnatoBench (docs/exported_models.md). Where the run trained no classifier it says that, too: such a file\n"
        "is to begin with (`train --initial-weights`), not to predict with.\n\n"
        "--state hands over all that training goes on from instead: the newest checkpoint's weights, moments, step\n"
        "count and teacher, whichever framework wrote them (docs/checkpoints.md)."
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder that `anatobench train` has written")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="for example model.safetensors")
    parser.add_argument("--state", action="store_true",
                        help="the newest checkpoint's arrays as model/NAME, optimizer/exp_avg/NAME, "
                             "optimizer/exp_avg_sq/NAME, optimizer/step and teacher/NAME")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print what was written as one JSON object")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.errors import UsageError
    from anatobench.objectives.heads import CLASSIFIER, UNTRAINED
    from anatobench.prediction.exported_model import export_run
    from anatobench.prediction.exported_state import export_state

    if args.to.suffix != ".safetensors":
        raise UsageError(f"--to {args.to}: the name must end in .safetensors")
    if args.state:
        written = export_state(args.run_folder, args.to)
        print(f"{written['file']}: {', '.join(written['trees'])} of step {written['step']}, "
              f"{written['bytes'] / 1e6:.1f} MB")  # fmt: skip
        return written
    written = export_run(args.run_folder, args.to)
    untrained = "; its classifier is untrained: begin with it (train --initial-weights), predict nothing"
    print(f"{written['file']}: {written['model']} ({written['size']}) for {written['task']}, "
          f"{written['bytes'] / 1e6:.1f} MB{untrained if written.get(CLASSIFIER) == UNTRAINED else ''}")  # fmt: skip
    return written
