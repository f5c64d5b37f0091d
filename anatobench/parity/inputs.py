"""Weights and batches with which no difference between two engines can hide.

Nothing is zero, constant or at its initial value: BatchNorm's running statistics are off 0 and 1, biases off 0;
volumes leave the window at both ends; every organ is there; there are cases of every grade, one with an unknown label,
one without mask and one with part of its mask unknown.
"""

from __future__ import annotations

import numpy as np

from anatobench.engine import Arrays, ModelSpec
from anatobench.recipes import Recipe
from anatobench.store.batch import Batch
from anatobench.store.batches import TABLES
from anatobench.tasks import IGNORED_ORGAN, MISSING_TARGET, Size, Task

PRECISION_OF_DTYPE = {"float64": "fp64", "float32": "fp32", "tensorfloat32": "tf32", "bfloat16": "bf16"}


def parity_recipe(dtype: str, seed: int) -> Recipe:
    """Let every term of the loss weigh, clip the gradient, and take weight decay and epsilon large enough to
    see.

    Nothing is drawn at random: no two frameworks draw the same.
    """
    return Recipe(
        precision=PRECISION_OF_DTYPE[dtype],
        seed=seed,
        weight_decay=0.01,
        clip_norm=0.5,
        any_injury_weight=0.5,
        segmentation_weight=0.7,
        segmentation_loss="ce_dice",
        dropout=False,
    )


def learning_rate(step: int) -> float:
    """Return another rate for every step, so that a shift by a step shows."""
    return 1e-3 * 0.9**step


def perturbed_weights(weights: Arrays, seed: int) -> Arrays:
    """Return the weights with constant arrays (biases, BatchNorm's scales and running values) moved off their
    constants; names, shapes and types stay."""
    generator = np.random.default_rng(seed)
    perturbed = {}
    for name, array in weights.items():
        noise = generator.standard_normal(array.shape)
        if name.endswith("running_var"):
            array = array * np.exp(0.3 * noise)
        elif array.min() == array.max():
            array = array + 0.1 * noise
        perturbed[name] = array.astype(weights[name].dtype)
    return perturbed


def parity_batch(spec: ModelSpec, batch_size: int, seed: int, step: int) -> Batch:
    """Return the batch of a step.

    Case 0 is healthy throughout, the others are not. From two cases on, one has an unknown label: an injured case in
    even steps, the healthy one in odd steps. From three on, the last has no mask.
    """
    generator = np.random.default_rng([seed, step])
    organs = np.stack([_organs(generator, spec.crop_size, len(spec.task.organs)) for _ in range(batch_size)])
    volume = np.stack([_volume(generator, case, spec.task) for case in organs])
    organs[0, :2] = IGNORED_ORGAN
    if batch_size >= 3:
        organs[-1] = IGNORED_ORGAN
    targets = _targets(generator, spec.task, batch_size)
    if batch_size >= 2:
        targets[1 - step % 2, step % len(spec.task.groups)] = MISSING_TARGET
    arrays = {"volume": volume, "organs": organs, "targets": targets}
    for name, table in TABLES.items():
        if name not in arrays:
            arrays[name] = table.drawn(generator, spec.task, batch_size).astype(table.dtype)
    return Batch(arrays, np.arange(batch_size, dtype=np.int32))


def _organs(generator: np.random.Generator, size: Size, count: int) -> np.ndarray:
    """uint8 [D, H, W]: background and one ellipsoid per organ."""
    organs = np.zeros(size, np.uint8)
    grid = np.stack(np.meshgrid(*(np.linspace(0, 1, length) for length in size), indexing="ij"))
    for organ in range(1, count + 1):
        centre, radius = generator.uniform(0.2, 0.8, 3), generator.uniform(0.1, 0.25, 3)
        distance = (((grid - centre[:, None, None, None]) / radius[:, None, None, None]) ** 2).sum(0)
        organs[distance < 1] = organ
    return organs


def _volume(generator: np.random.Generator, organs: np.ndarray, task: Task) -> np.ndarray:
    """int16 [D, H, W] HU: a level per organ and smooth and fine noise, a little beyond the window at both ends."""
    low, high = task.window
    levels = generator.uniform(low, high, len(task.organs) + 1)
    blocks = generator.standard_normal([-(-length // 4) for length in organs.shape])
    for axis in range(3):
        blocks = blocks.repeat(4, axis)
    depth, height, width = organs.shape
    noise = blocks[:depth, :height, :width] + generator.standard_normal(organs.shape)
    hu: np.ndarray = levels[organs] + 0.2 * (high - low) * noise
    return hu.round().astype(np.int16)


def _targets(generator: np.random.Generator, task: Task, batch_size: int) -> np.ndarray:
    """int8 [B, groups]: grades shifted from case to case, so that a few cases cover all of a group's."""
    shifts = generator.integers(0, 6, len(task.groups))
    grades = np.array([len(group.grades) for group in task.groups])
    targets: np.ndarray = (np.arange(batch_size)[:, None] + shifts) % grades
    targets[1:, 0] = 1
    if batch_size > 1:
        targets[0] = 0
    return targets.astype(np.int8)
