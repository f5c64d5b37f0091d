"""PyTorch's own file of weights, `.pth`: a pickled dict of tensors, in the zip form of today or the older bare one.

It has no twin in `jax_impl`: whatever the framework that trains, only PyTorch reads its pickles safely.
"""

from __future__ import annotations

import io
import zipfile

import torch

from anatobench.engine import Arrays
from anatobench.errors import AnatoBenchError


def read_state_dict(content: bytes, byte_limit: int) -> Arrays:
    """Return the tensors of a file's content by name, of any shapes, as numpy arrays on the host.

    torch.load's `weights_only` unpickler builds tensors and nothing else: a file with code in it is refused, and so is
    one that would unpack to more than `byte_limit`. `AnatoBenchError`, without the file's name, for those, for a
    damaged file, and for one that holds anything else than a dict of tensors.
    """
    _check_unpacked_size(content, byte_limit)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle fails in as many ways as there are bytes
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise AnatoBenchError(
            f"cannot be read as weights: damaged, or it holds more than tensors, which is never run ({reason:.120})"
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise AnatoBenchError("is not a dict of tensors by name, as torchvision publishes them")
    try:
        return {name: tensor.detach().numpy() for name, tensor in state.items()}
    except (RuntimeError, TypeError) as error:  # sparse, quantised, bfloat16
        raise AnatoBenchError(f"holds tensors of an unusual kind: {str(error).partition(chr(10))[0]:.120}") from None


def _check_unpacked_size(content: bytes, byte_limit: int) -> None:
    if not zipfile.is_zipfile(io.BytesIO(content)):  # the older form is not compressed
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise AnatoBenchError(f"is a damaged .pth file ({error})") from None
    if size > byte_limit:
        raise AnatoBenchError(f"would unpack to {size} bytes, over the limit of {byte_limit}")
