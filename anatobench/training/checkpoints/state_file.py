"""`state.json`: written last, it makes a checkpoint of a folder. It carries its own checksum and that of every file."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from anatobench.system.atomic_files import flush_folder, write_atomically
from anatobench.system.json_text import MAX_BYTES, parse_json
from anatobench.system.state_files import ORBAX, SAFETENSORS
from anatobench.training.checkpoints.progress import Progress

STATE_FILE = "state.json"
FORMAT = 2
OLD_FORMAT = 1
"""Without a writer: safetensors alone."""
FORMS = (SAFETENSORS, ORBAX)
_BLOCK = 1 << 20


@dataclass(frozen=True)
class State:
    """What `state.json` says."""

    progress: Progress
    form: str
    """One of `FORMS`."""
    files: Mapping[str, Mapping[str, Any]]
    """`bytes` and `blake2b` of every file but this one, by its path in the folder."""


def seal(folder: Path, progress: Progress, writer: Mapping[str, str]) -> None:
    """Make a checkpoint of what lies in the folder, once the disk has all of it; OSError where it refuses.

    `writer` says in which `form` it was written, and by which version of what.
    """
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        size, digest = _measured(path, flush=True)
        files[path.relative_to(folder).as_posix()] = {"bytes": size, "blake2b": digest}
    for path in folder.rglob("*"):
        if path.is_dir():
            flush_folder(path)
    state = {"format": FORMAT, "writer": dict(writer), **progress.to_json(), "files": files}
    write_atomically(folder / STATE_FILE, sealed(state))


def read_state(path: Path) -> State:
    """Read a `state.json`; ValueError, KeyError, TypeError, AttributeError or OverflowError if it is damaged."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
        raise ValueError("not a file")
    if found.st_size > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    state = _unsealed(path.read_bytes())
    if state["format"] not in (OLD_FORMAT, FORMAT):
        raise ValueError(f"format {state['format']}, this version reads {OLD_FORMAT} and {FORMAT}")
    form = SAFETENSORS if state["format"] == OLD_FORMAT else state["writer"]["form"]
    if form not in FORMS:
        raise ValueError(f"form {form!r}, this version reads {', '.join(FORMS)}")
    files = {str(name): dict(expected) for name, expected in state["files"].items()}
    for name in files:
        parts = PurePosixPath(name).parts
        if not parts or name != "/".join(parts) or any(part in ("/", "..", STATE_FILE) for part in parts):
            raise ValueError(f"{name!r} is no file of a checkpoint")
    return State(Progress.from_json(state), form, files)


def verify(path: Path, expected: Mapping[str, Any]) -> None:
    """Raise ValueError if a file has another size or checksum than `expected`, OSError if it cannot be read."""
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise ValueError(f"{size} bytes instead of {expected['bytes']}")
    if _measured(path)[1] != expected["blake2b"]:
        raise ValueError("its checksum differs")


def sealed(state: Mapping[str, Any]) -> bytes:
    """JSON that carries its own checksum."""
    text = json.dumps(state, sort_keys=True)
    return json.dumps({**state, "blake2b": digest(text.encode())}, indent=2, sort_keys=True).encode() + b"\n"


def _unsealed(content: bytes) -> dict[str, Any]:
    state = parse_json(content)
    if not isinstance(state, dict):
        raise ValueError("not a JSON object")
    expected = state.pop("blake2b")
    if digest(json.dumps(state, sort_keys=True).encode()) != expected:
        raise ValueError("its checksum differs")
    return dict(state)


def digest(content: bytes) -> str:
    """Return the checksum that is written down."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _measured(path: Path, flush: bool = False) -> tuple[int, str]:
    """Size and checksum of a file, without its content in memory; with `flush` the disk has it first."""
    total, size = hashlib.blake2b(digest_size=16), 0
    with path.open("rb") as file:
        if flush:
            os.fsync(file.fileno())
        for block in _blocks(file):
            total.update(block)
            size += len(block)
    return size, total.hexdigest()


def _blocks(file: Any) -> Iterator[memoryview]:
    buffer = bytearray(_BLOCK)
    while count := file.readinto(buffer):
        yield memoryview(buffer)[:count]
