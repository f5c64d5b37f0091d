"""`anatobench COMMAND`: finds the command, runs it, and turns failures into one line and an exit status.

Each command is a module of this package with `add_arguments(parser)` and `run(args)`. A module is imported only when
its command is called, so `anatobench --help` is instant and `prepare` needs no framework. `run` returns the figures
that `--json` prints as one object, the only line on stdout, or None. What a command found it prints on stdout for a
person, or with `--json` on stderr; how far it is, warnings and failures always go to stderr.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from typing import Any, TextIO

from anatobench import __version__
from anatobench.cli.arguments import OneLineParser
from anatobench.errors import AnatoBenchError, UsageError, refusal_of_disk
from anatobench.system.device_memory import is_out_of_memory
from anatobench.system.parent import end_with_parent
from anatobench.system.signals import ended_by_signals

COMMANDS = {
    "demo": "the whole way on a synthetic cohort: phantom, prepare, train in both frameworks, compare, report",
    "phantom": "write a synthetic cohort as raw data in RATIC's, CT-RATE's or RAD-ChestCT's format",
    "masks": "organ masks for the scans that have none, by TotalSegmentator, and a look over them",
    "prepare": "raw scans and masks to a store of checked, resampled cases",
    "train": "train a model on a store",
    "evaluate": "AUC and the other metrics of a run, with confidence intervals",
    "predict": "probabilities and calls for one scan or a folder of scans, with organs and evidence on request",
    "export": "a run's weights as one .safetensors file under torchvision's names",
    "parity": "prove that the two frameworks compute the same",
    "bench": "measure: step time, memory, loading, preparation, scaling, and what changed between two records",
    "experiments": "many runs that answer one question: AUC over seeds (auc), the paper's tables (grid, demo, named)",
    "report": "one self-contained HTML page from one or more runs, or from benchmark records",
}

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def build_parser(commands: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser with one subparser per command; only the commands named are imported and given their
    arguments."""
    parser = OneLineParser(
        prog="anatobench",
        description="CT diagnosis with anatomical supervision in PyTorch and JAX.",
        epilog="anatobench COMMAND --help explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"anatobench {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name in commands:
            module = importlib.import_module(f"anatobench.cli.{name}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (0 success, 1 failure, 2 wrong arguments, 130 interrupted)."""
    end_with_parent()
    arguments = list(sys.argv[1:] if argv is None else argv)
    with ended_by_signals():  # until the last word is said
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    args = argparse.Namespace()
    command = next((name for name in arguments[:1] if name in COMMANDS), "")
    try:
        args = build_parser([command]).parse_args(arguments)  # imports the command, which takes a while
        for_a_program = getattr(args, "json", False)
        with redirect_stdout(sys.stderr) if for_a_program else nullcontext():
            figures = args.run(args)
        _print_figures(figures if for_a_program else None)
    except UsageError as error:
        return _fail(command, error, EXIT_USAGE)
    except AnatoBenchError as error:
        return _fail(command, error, EXIT_FAILURE)
    except KeyboardInterrupt as interruption:
        return _fail(command, f"{str(interruption) or 'interrupted'}{_going_on(args)}", EXIT_INTERRUPTED)
    except BrokenPipeError:  # `anatobench ... | head`
        _discard(sys.stdout)
        return EXIT_FAILURE
    except OSError as error:
        refusal = refusal_of_disk(error)
        if refusal is None:
            raise
        return _fail(command, refusal, EXIT_FAILURE)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        return _fail(
            command, f"out of memory: take a smaller batch, or a device or job with more ({said})", EXIT_FAILURE
        )
    if isinstance(figures, dict) and figures.get("passed") is False:
        return EXIT_FAILURE
    return 0


def _going_on(args: argparse.Namespace) -> str:
    """Return what to do after an interruption, for a command that says so in `goes_on` once it is at work."""
    return ": the same command goes on where it was" if getattr(args, "goes_on", False) else ""


def _print_figures(figures: dict[str, Any] | None) -> None:
    """Print `--json`'s line, if there is one, and see that all of stdout is out while somebody can still be told."""
    try:
        if figures is not None:
            print(json.dumps(figures, allow_nan=False))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard(sys.stdout)
        raise AnatoBenchError(
            f"standard output cannot be written ({error.strerror}): what the command wrote into files stays"
        ) from None


def _fail(command: str, reason: AnatoBenchError | str, status: int) -> int:
    try:
        print(f"{f'anatobench {command}'.strip()}: {reason}", file=sys.stderr)
    except OSError:  # a log on the same full disk: the status is all that can be told
        _discard(sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # a part of the results that cannot be written either
        _discard(sys.stdout)
    return status


def _discard(stream: TextIO) -> None:
    """Let what the stream still holds go nowhere: the interpreter would try again at its end, and complain."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
