"""From the arrays of a published file to the weights a changed model begins with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from anatobench.backbones.published_weights import PublishedWeights
from anatobench.engine import Arrays, is_unread
from anatobench.errors import AnatoBenchError, listed
from anatobench.objectives.heads import without_auxiliary


def pretrained_weights(
    published: PublishedWeights, given: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray]
) -> Arrays:
    """Return the canonical weights an engine has `drawn`, with every array replaced that a file under torchvision's
    names has.

    What `published` skips and auxiliary heads stay as drawn. Every other array must be in the file, with the
    model's shape (a relative-position table: any length) and finite, and nothing else may be; `AnatoBenchError` lists
    what is not so. The paper's "modify positional encoding to match the input size" is `resized_table`.
    """
    skipped = tuple(published.skipped)
    taken = {name: a for name, a in given.items() if not name.startswith(skipped) and not is_unread(name)}
    replaced = [name for name in without_auxiliary(drawn) if not name.startswith(skipped)]
    problems = [f"{name} is missing" for name in replaced if name not in taken]
    problems += [f"{name} is unknown" for name in taken if name not in replaced]
    weights = dict(drawn)
    for name in replaced:
        if name not in taken:
            continue
        array, resizable = taken[name], name.endswith(published.resized)
        problem = _problem(array, drawn[name], resizable)
        if problem is not None:
            problems.append(f"{name} {problem}")
            continue
        if resizable:
            array = resized_table(array, len(drawn[name]))
        weights[name] = array.astype(drawn[name].dtype)
    if problems:
        raise AnatoBenchError(f"does not hold the arrays of {published.file}: {listed(problems)}")
    return weights


def _problem(array: np.ndarray, wanted: np.ndarray, resizable: bool) -> str | None:
    free = 1 if resizable and array.ndim and len(array) else 0
    if array.ndim != wanted.ndim or array.shape[free:] != wanted.shape[free:]:
        return f"has shape {array.shape}, the model {wanted.shape}"
    if not np.issubdtype(array.dtype, np.floating):
        return f"is {array.dtype}, no floating-point type"
    if not np.isfinite(array).all():
        return "holds values that are not finite"
    return None


def resized_table(table: np.ndarray, length: int) -> np.ndarray:
    """Return a table [distances, channels] interpolated linearly along its first axis to `length` rows.

    Rows are the centres of equal intervals and the outermost hold beyond the ends: torch.nn.functional.interpolate
    with mode="linear", align_corners=False. The paper does not say how; this is what torchvision's own `_interpolate`
    (models/video/mvit.py) does in the forward pass to a table of another length than the grid asks for, so that a
    resized model begins with the function that torchvision computes from the published table. Distance 0 stays in the
    middle. (Where height and width differ, as in the abdomen, torchvision gives both the longer one's length, and the
    shorter one's is interpolated once more in the forward pass.)
    """
    if len(table) == length:
        return table
    place = ((np.arange(length) + 0.5) * (len(table) / length) - 0.5).clip(0, len(table) - 1)
    before = np.floor(place).astype(np.int64)
    after = np.minimum(before + 1, len(table) - 1)
    weight = (place - before)[:, None]
    resized: np.ndarray = table[before] * (1 - weight) + table[after] * weight
    return resized
