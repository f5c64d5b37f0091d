"""The model and the optimizer as dicts of numpy arrays under torchvision's names, and back.

The canonical form holds parameters and BatchNorm's running mean and variance; what torchvision keeps besides
(`is_unread`) is left out, and a file that has it loads all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from anatobench.engine import Arrays, check_arrays, is_unread
from anatobench.objectives.heads import of_another_head
from torch_ref.models.diagnosis_model import DiagnosisModel


def canonical_name(name: str) -> str:
    """Return torchvision's own name of a backbone's parameter; auxiliary heads have `<auxiliary head>_head.*`."""
    return name.removeprefix("backbone.")


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(canonical name, parameter) in the order of the optimizer."""
    for name, parameter in model.named_parameters():
        yield canonical_name(name), parameter


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the canonical form, sharing memory with the model."""
    return {canonical_name(n): t for n, t in model.state_dict().items() if not is_unread(n)}


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Return a contiguous copy on the host, of the same shape and type."""
    return np.array(tensor.detach().cpu().numpy(), order="C")


def export_weights(model: DiagnosisModel) -> Arrays:
    """Canonical weights, copied."""
    return {name: to_numpy(tensor) for name, tensor in named_tensors(model).items()}


def import_weights(model: DiagnosisModel, weights: Mapping[str, np.ndarray]) -> None:
    """Fill the model with canonical weights. An auxiliary head that it does not have is dropped; any other mismatch is
    an error."""
    given = {n: w for n, w in weights.items() if not is_unread(n)}
    given = {n: w for n, w in given.items() if not of_another_head(n, model.auxiliary)}
    copy_by_name(named_tensors(model), given, "weights")


def copy_by_name(targets: Mapping[str, Tensor], given: Mapping[str, np.ndarray], what: str) -> None:
    """Copy arrays into tensors of the same names and shapes; an error lists every mismatch before anything changes."""
    check_arrays(given, {name: tuple(tensor.shape) for name, tensor in targets.items()}, what)
    with torch.no_grad():
        for name, tensor in targets.items():
            tensor.copy_(torch.from_numpy(np.asarray(given[name], order="C")))


def optimizer_tensors(model: DiagnosisModel, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """`exp_avg/<name>`, `exp_avg_sq/<name>` of the parameter's shape (zeros before the first step), sharing memory with
    the optimizer, and `step`, an int64 scalar, the largest count; where counts differ, each parameter's as
    `step/<name>`, too."""
    tensors: dict[str, Tensor] = {}
    steps: dict[str, Tensor] = {}
    for name, parameter in named_parameters(model):
        state = optimizer.state.get(parameter)
        count = 0.0 if state is None else state["step"]
        steps[name] = torch.as_tensor(count, dtype=torch.float32, device=parameter.device)
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}/{name}"] = torch.zeros_like(parameter.detach()) if state is None else state[moment]
    # Together: from a device every number would cost its own wait.
    counts = dict(zip(steps, map(int, torch.stack(list(steps.values())).tolist()), strict=True))
    if len(set(counts.values())) > 1:
        tensors |= {f"step/{name}": torch.tensor(count, dtype=torch.int64) for name, count in counts.items()}
    return {"step": torch.tensor(max(counts.values()), dtype=torch.int64), **tensors}


def import_optimizer(model: DiagnosisModel, optimizer: torch.optim.AdamW, arrays: Mapping[str, np.ndarray]) -> None:
    """Take up what `optimizer_tensors` names; names and shapes are checked as for weights."""
    parameters = dict(named_parameters(model))
    targets = {
        f"{moment}/{name}": torch.zeros_like(parameter)
        for name, parameter in parameters.items()
        for moment in ("exp_avg", "exp_avg_sq")
    }
    targets["step"] = torch.zeros((), dtype=torch.int64)
    if any(name.startswith("step/") for name in arrays):
        targets |= {f"step/{name}": torch.zeros((), dtype=torch.int64) for name in parameters}
    copy_by_name(targets, arrays, "optimizer state")
    fused = optimizer.param_groups[0]["fused"]  # then its counts are the device's
    for name, parameter in parameters.items():
        count = float(targets.get(f"step/{name}", targets["step"]))
        optimizer.state[parameter] = {
            "step": torch.tensor(count, device=parameter.device if fused else "cpu"),
            "exp_avg": targets[f"exp_avg/{name}"],
            "exp_avg_sq": targets[f"exp_avg_sq/{name}"],
        }
