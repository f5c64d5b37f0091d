"""Files like those that torchvision publishes: its own names, shapes and types, with random values."""

import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.models import video


def published_state(model: str, seed: int = 0) -> dict[str, Tensor]:
    """Return the state dict of torchvision's unchanged model with 400 classes, no two values alike but its index
    tables'."""
    state: dict[str, Tensor] = getattr(video, model)(num_classes=400).state_dict()
    generator = np.random.default_rng(seed)
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(generator.standard_normal(tuple(tensor.shape), np.float32)))
    return state


def pth_bytes(state: object, older_form: bool = False) -> bytes:
    """Return what torch.save writes, today or before version 1.6, from which torchvision's oldest files come."""
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=not older_form)
    return buffer.getvalue()


def write_pth(folder: Path, name: str, content: bytes) -> Path:
    """`<name>-<beginning of the SHA-256>.pth`."""
    path = folder / f"{name}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    path.write_bytes(content)
    return path
