"""Work that waits for other processes ends at once when it is asked to, and its cleaning up is not disturbed."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from anatobench.signals import STOPPING, Interrupted, interrupted_by_signals


@pytest.mark.parametrize("number", STOPPING)
def test_a_wait_ends_and_the_cleaning_up_does_not(number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in STOPPING]
    cleaned = False
    with pytest.raises(Interrupted, match=f"stopped by {number.name}"), interrupted_by_signals():  # noqa: PT012
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        try:
            threading.Event().wait(30)
        finally:
            for one in STOPPING:
                os.kill(os.getpid(), one)
            cleaned = True
    assert cleaned
    assert [signal.getsignal(one) for one in STOPPING] == before
