"""An executable that stands for `python` where tests start commands by its path: what it is asked to run begins in a
process forked from one that has both frameworks imported (`forked_python.py`), which saves five seconds of a core.

The executable hands its words, environment, folder and standard streams over, passes signals on and ends as that
process ends; killed, it takes that process with it a moment later. That process sees the executable's host name and
mounts, is in nobody's process tree or control group, and does not end with whoever started the executable. What a fork
cannot give, it leaves to the real `python`: interpreter options, other variables that modules read when they are
imported, processes of `multiprocessing`.
"""

from __future__ import annotations

import ctypes
import gc
import inspect
import marshal
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from forked_python import CONTEXT, become, read_at_import

from anatobench.system.parent import PARENT_VARIABLE

PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

CLIENT = """#!{python} -IS
from __future__ import annotations
import marshal, os, signal, socket, sys

PASSED_ON = {signals}
ignored = [number for number in PASSED_ON if signal.getsignal(number) == signal.SIG_IGN]
words, environment = sys.argv[1:], dict(os.environ)
if words[:1] == ["-u"]:
    words.pop(0)
    environment["PYTHONUNBUFFERED"] = "1"
environment.pop({parent!r}, None)

{read_at_import}
changed = read_at_import(environment) != {known}
option = not words or (words[0].startswith("-") and words[0] not in ("-m", "-c"))
if changed or option or "from multiprocessing." in words[1:2]:
    os.execv({python!r}, [{python!r}, *words])

signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
asked = marshal.dumps((words, environment, os.getcwd(), ignored))
socket.send_fds(server, [len(asked).to_bytes(8, "little")], [0, 1, 2])
server.sendall(asked)
process = int.from_bytes(server.recv(4), "little")
for number in PASSED_ON:
    if number not in ignored:
        signal.signal(number, lambda number, frame: os.kill(process, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
status = int.from_bytes(server.recv(4), "little", signed=True)
if status < 0:
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@contextmanager
def preloaded_python(folder: Path) -> Iterator[Path]:
    """Write the executable into that folder and serve it within the block."""
    address = str(folder / "server")
    text = CLIENT.format(
        python=sys.executable,
        signals=tuple(map(int, PASSED_ON)),
        read_at_import=inspect.getsource(read_at_import),
        known=read_at_import(os.environ),
        address=address,
        parent=PARENT_VARIABLE,
    )
    client = folder / "python"
    client.write_text(text)
    client.chmod(0o755)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    ours, theirs = socket.socketpair()
    server = CONTEXT.Process(target=_serve, args=(listener, theirs, str(client)))
    server.start()
    listener.close()
    theirs.close()
    ours.recv(1)  # a test may give what it starts few seconds
    try:
        yield client
    finally:
        ours.close()
        server.join()


def _serve(listener: socket.socket, tests: socket.socket, executable: str) -> None:
    """Fork a keeper for each connection until the tests end."""
    sys.executable = executable  # what its processes start by that path begins at once, too
    gc.collect()
    gc.freeze()  # else the collector of each process looks at all modules' objects, and so copies the pages they share
    tests.send(b".")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how keepers ended
    while tests not in select.select([listener, tests], [], [])[0]:
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            tests.close()
            _keep(connection)
        connection.close()


def _keep(connection: socket.socket) -> NoReturn:
    """Begin what the executable asks for; when one of the two is gone, tell or end the other."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, streams, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as file:
        words, environment, folder, ignored = marshal.loads(file.read(int.from_bytes(length, "little")))
    process = os.fork()
    for descriptor, stream in enumerate(streams):
        os.dup2(stream, descriptor)
        os.close(stream)
    if not process:
        _enter_namespaces_of(connection)
        connection.close()
        os.setsid()
        sys.stdin = os.fdopen(0, closefd=False)
        for number in PASSED_ON:
            ordinary = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if number in ignored else ordinary)
        become(words, environment, folder)
    os.closerange(0, 3)
    connection.sendall(process.to_bytes(4, "little"))
    ended = os.pidfd_open(process)
    if ended not in select.select([connection.fileno(), ended], [], [])[0]:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    with suppress(OSError):
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "little", signed=True))
    os._exit(0)


def _enter_namespaces_of(connection: socket.socket) -> None:
    """Take the host name and the mounts of the process at the other end, where they are not this one's."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    process, _, _ = struct.unpack("3i", credentials)
    library = ctypes.CDLL(None, use_errno=True)
    for kind in ("uts", "mnt"):
        path = f"/proc/{process}/ns/{kind}"
        if os.readlink(path) != os.readlink(f"/proc/self/ns/{kind}"):
            with open(path) as namespace:
                if library.setns(namespace.fileno(), 0):
                    raise OSError(ctypes.get_errno(), "setns", path)
