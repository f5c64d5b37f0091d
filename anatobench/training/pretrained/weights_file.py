"""Files of published weights: found where PyTorch keeps them or downloaded, checked, and read without running anything
that may be in them.

PyTorch's `.pth` is a pickle, so PyTorch itself reads it, with its unpickler that builds nothing but tensors
(torch_ref/pretrained_file.py); `.safetensors` needs no framework.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from anatobench.backbones.published_weights import PublishedWeights
from anatobench.engine import framework_module
from anatobench.errors import AnatoBenchError
from anatobench.system.atomic_files import write_atomically
from anatobench.system.progress import progress_bar

FOLDER_VARIABLE = "ANATOBENCH_PRETRAINED"
MAX_BYTES = 512 << 20
"""Four times the largest published file; no memory is taken for more."""
CONNECT_TIMEOUT_S = 10.0
_CHUNK_BYTES = 1 << 20
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.pth$")
"""torch.hub's convention: a file's name carries the beginning of its SHA-256."""


@dataclass(frozen=True)
class WeightsFile:
    """A file that was read."""

    path: Path
    sha256: str
    arrays: Mapping[str, np.ndarray]
    """Under torchvision's names, of any shapes: they are checked when a model takes them."""


def read_weights_file(path: Path) -> WeightsFile:
    """Read `.pth`, `.pt` or `.safetensors`; `AnatoBenchError` if the file is none, too large, damaged or not weights.

    Where the name of a `.pth` carries the beginning of its SHA-256, as those that torchvision publishes do, it must
    be right: a download that was cut short is found out here.
    """
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise AnatoBenchError(f"{path}: give a .pth or .safetensors file of weights")
    content = _content(path)
    sha256 = hashlib.sha256(content).hexdigest()
    _check_hash_in_name(path.name, sha256, f"{path}: cut short or damaged", "delete it and fetch it again")
    if path.suffix != ".safetensors":
        return WeightsFile(path, sha256, _read_pth(path, content))
    try:
        return WeightsFile(path, sha256, load(content))
    except (ValueError, TypeError, KeyError, SafetensorError) as error:
        raise AnatoBenchError(f"{path}: cannot be read as weights: {error}") from None


def find_or_download(published: PublishedWeights) -> Path:
    """Return the published file where `find` sees it; if it is nowhere, it is downloaded into the first of these
    folders.

    `AnatoBenchError` says what to fetch, from which address and where to put it, if that fails.
    """
    return find(published) or _download(published, search_folders())


def find(published: PublishedWeights) -> Path | None:
    """Return the published file, or a `.safetensors` of the same name, in `$ANATOBENCH_PRETRAINED` or in PyTorch's
    cache."""
    converted = Path(published.file).with_suffix(".safetensors").name
    for folder in search_folders():
        for name in (converted, published.file):  # the one that every installation can read comes first
            if (folder / name).is_file():
                return folder / name
    return None


def how_to_fetch(published: PublishedWeights, reason: str = "") -> str:
    """Return a sentence for a file that `find` does not see."""
    folders = search_folders()
    looked_in = " or ".join(str(folder) for folder in folders)
    return (
        f"{published.file}: not in {looked_in}{reason}: fetch {published.address} where there is network and put it "
        f"into {folders[0]}"
    )


def search_folders() -> list[Path]:
    """`$ANATOBENCH_PRETRAINED` if it is set, then where torch.hub keeps its checkpoints."""
    own = os.environ.get(FOLDER_VARIABLE)
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    torch_home = os.environ.get("TORCH_HOME") or os.path.join(cache, "torch")
    texts = [*([own] if own else []), os.path.join(torch_home, "hub", "checkpoints")]
    return [Path(os.path.expanduser(text)) for text in texts]


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise AnatoBenchError(f"{path}: no such file of weights")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise AnatoBenchError(f"{path}: {size} bytes, over the limit of {MAX_BYTES}: is it a file of weights?")
        return path.read_bytes()
    except OSError as error:
        raise AnatoBenchError(f"{path}: cannot be read ({error.strerror})") from None


def _check_hash_in_name(name: str, sha256: str, what: str, remedy: str) -> None:
    named = _HASH_IN_NAME.search(name)
    if named is not None and not sha256.startswith(named[1]):
        raise AnatoBenchError(f"{what}: its SHA-256 begins with {sha256[:8]}, its name says {named[1]}: {remedy}")


def _read_pth(path: Path, content: bytes) -> Mapping[str, np.ndarray]:
    try:
        reader: Callable[[bytes, int], Mapping[str, np.ndarray]]
        reader = framework_module("torch", "pretrained_file").read_state_dict
    except ModuleNotFoundError as error:
        raise AnatoBenchError(
            f"{path}: reading .pth needs the Python package {error.name}: pip install torch (its CPU build will do), "
            "or convert the file to .safetensors where PyTorch is installed (docs/pretrained.md)"
        ) from error
    try:
        return reader(content, MAX_BYTES)
    except AnatoBenchError as error:
        raise AnatoBenchError(f"{path}: {error}") from None


def _download(published: PublishedWeights, folders: list[Path]) -> Path:
    """Fetch the file whole, check its hash, then let it appear in the first folder."""
    path = folders[0] / published.file
    try:
        content = fetch(published.address)
    except (OSError, HTTPException) as error:
        reason = f", and cannot be downloaded ({error})"
        raise AnatoBenchError(f"{how_to_fetch(published, reason)}, or name the file with --pretrained") from None
    sha256 = hashlib.sha256(content).hexdigest()
    _check_hash_in_name(published.file, sha256, f"{published.address}: the download is damaged", "try again")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise AnatoBenchError(
            f"{path}: cannot be written ({error.strerror}): set {FOLDER_VARIABLE} to a folder with room for it"
        ) from None
    return path


def fetch(address: str) -> bytes:
    """Return the file at an address, OSError if it is too large."""
    content = bytearray()
    with urlopen(address, timeout=CONNECT_TIMEOUT_S) as response:
        length = response.length or 0
        with progress_bar(length or None, address.rpartition("/")[2], "B", unit_scale=True) as bar:
            while chunk := response.read(_CHUNK_BYTES):
                content += chunk
                if len(content) > MAX_BYTES:
                    raise OSError(f"more than {MAX_BYTES} bytes")
                bar.update(len(chunk))
    if len(content) < length:
        raise OSError(f"it ended after {len(content)} of {length} bytes")
    return bytes(content)
