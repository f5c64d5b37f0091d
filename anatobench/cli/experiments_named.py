"""`anatobench experiments named`: the paper's models by name, what it found, and the command that trains each."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

GUIDE = (
    "AUC: what the source found, MedMNIST's with ResNet-50 + 3D. GPU-hours: on one H100, - where not measured.",
    "To train one: anatobench train --named NAME --store STORE --out RUN (--json prints each command).",
)
COLUMNS = 100
"""What a terminal has."""


def add_parser(experiments: Any) -> None:
    """`named`, beside the other experiments."""
    named = experiments.add_parser(
        "named",
        help="the paper's models by name, with the AUC it found and the command that trains each",
        description="The models of the paper's Table 1 by name, with Table 6's recipe, the AUC that the paper found\n"
        "(macro, on real scans of full size), the GPU-hours on one H100 where they were measured, and the command\n"
        "that trains it with PyTorch; add --framework jax for the port, --set to change the recipe. Beside them\n"
        "tiny models on MedMNIST's 3D sets, which anybody can download, with the AUC of MedMNIST's own benchmark.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    named.add_argument("--json", action="store_true", help="print them as one JSON object")
    named.set_defaults(run_experiment=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.experiments.named import NAMED_HEADER, NAMED_RUNS
    from anatobench.report.summary import text_table

    named = NAMED_RUNS.values()
    if not args.json:
        print(text_table(NAMED_HEADER, [run.row for run in named]))
        notes = [f"* {run.name}: {run.expected.note}" for run in named if run.expected.note]
        for note in (*notes, *GUIDE):
            print(textwrap.fill(note, COLUMNS, subsequent_indent="  ", break_on_hyphens=False))
    return {"runs": [run.to_json() for run in named]}
