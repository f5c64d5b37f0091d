"""`python -m anatobench`, and what the installed command calls: from here on Ctrl-C is one line, not a traceback.

Nothing else is imported before that holds: a command's imports take up to seconds.
"""

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType

INTERRUPTED = 130


def run() -> int:
    """Run the command line; its exit status."""
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # in the background it may be ignored
    if heeded:
        signal.signal(signal.SIGINT, _leave)  # an import could make anything of an exception
    from anatobench.cli.main import main

    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    status = main()
    if heeded:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done but the interpreter's own end
    if status != 0:
        _leave_as_it_is(status)
    return status


def _leave_as_it_is(status: int) -> None:
    """End without taking the interpreter apart. What was left in the middle may still run in threads that Python knows
    nothing of, which then read what is gone (seen: XLA's executions after an interrupted `parity`, a segmentation fault
    in one of four) or are ended while they run (gloo's after a failed save, `terminate called`, seen once)."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it, or it is closed
            stream.flush()
    os._exit(status)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"anatobench: interrupted\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(run())
