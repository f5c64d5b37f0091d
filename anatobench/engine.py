"""The contract a framework fulfils. The training loop, evaluation and parity know nothing else of it.

Arrays cross this border as numpy arrays. Weights and optimizer moments have one canonical form: a dict of arrays
under torchvision's parameter names and in torch's layouts, so that a run can start in one framework and go on in
the other, and two frameworks are compared by comparing dicts.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from anatobench.backbones import card_of
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.recipes import FRAMEWORKS, Recipe
from anatobench.store.batch import Batch
from anatobench.system.processes import ALONE, Processes
from anatobench.tasks import Size, Task

Arrays = dict[str, np.ndarray]

SEGMENTATION_HEAD = "segmentation_head."
"""Prefix of the auxiliary head's names in the canonical form: what export and prediction leave out."""

UNREAD = (".num_batches_tracked", ".relative_position_index")
"""Ends of torchvision's names that the canonical form leaves out and a file may have: with a fixed momentum nothing
reads the first, and the second follows from the window's size."""


@dataclass(frozen=True)
class ModelSpec:
    """Everything that fixes a model's shape."""

    model: str
    """One of `recipes.MODELS`."""
    size: str
    """`full`, or `tiny`: the same family and code path, small enough for a CPU."""
    task: Task
    crop_size: Size
    """What the model is built for, (D, H, W)."""
    segmentation: bool = True
    """Whether the auxiliary head exists; export and prediction drop it."""


@dataclass(frozen=True)
class StepMetrics:
    """What one training step measured."""

    loss: float
    classification: float
    """The sum of the task's classification terms, any_injury left out."""
    any_injury: float
    """Unweighted; 0 where the task has none."""
    segmentation: float
    """Unweighted; 0 without the segmentation branch."""
    gradient_norm: float
    """Before clipping."""
    case_losses: np.ndarray
    """float [B]: each case's own share before the mean, to name the case when the loss is not finite. Of this
    process's cases; the other figures are those of the global batch."""
    stop: bool = False
    """Whether any process was asked to stop before this step."""


class PendingMetrics(Protocol):
    """A step that may still be running on the device; `fetch` waits for it."""

    def fetch(self) -> StepMetrics: ...


@dataclass(frozen=True)
class Inspection:
    """One forward and backward pass laid open, for parity. Nothing is updated, BatchNorm's running values included."""

    activations: Arrays
    """Output of every stage in order, torch layout [B, C, D, H, W] (token models: as torchvision has them)."""
    logits: np.ndarray
    """[B, logits]"""
    seg_logits: np.ndarray
    """[B, classes, D, H, W], upsampled to the input's size."""
    losses: dict[str, float]
    """`loss`, `classification`, `any_injury`, `segmentation`."""
    gradients: Arrays
    """Of `loss` with respect to every parameter, before clipping."""


@dataclass(frozen=True)
class DeviceMemory:
    """Of a device, in bytes."""

    peak: int
    """The most that this process's arrays have taken at once."""
    reserved: int
    """The most that its allocator has taken from the device."""
    total: int
    """What the device has, or what the allocator may take of it."""


class Instruments(Protocol):
    """What the benchmarks ask of a device."""

    def synchronise(self) -> None:
        """Wait until the device has done all that the engine gave it."""

    def memory(self) -> DeviceMemory | None:
        """None where the framework keeps no account: on a CPU."""

    def release_memory(self) -> None:
        """Give the device back what the allocator keeps without need, as far as the framework can."""

    def matrix_product_rate(self) -> float:
        """Operations per second of a large product of random square matrices in the engine's precision."""


class Engine(Protocol):
    """One model with its optimizer, in training mode for `train_step` and `inspect`, evaluation mode elsewhere.

    Several processes may train one model (`processes`). Then all of them call `train_step` and `gather` together,
    each with its own part; everything else is done by each process for itself.
    """

    name: str
    spec: ModelSpec
    recipe: Recipe
    processes: Processes

    def train_step(self, batch: Batch, learning_rate: float, step: int, stop: bool = False) -> PendingMetrics:
        """Forward, backward, clip, AdamW. `step` (from 0) seeds dropout, so a resumed run draws what it would have.

        `batch` is this process's part of the global batch, whose loss is the mean over all its cases, as are
        BatchNorm's statistics. `stop` tells every process that this one was asked to stop.
        """

    def gather(self, array: np.ndarray) -> np.ndarray:
        """[processes, ...]: every process's array of the same shape and type, in order."""

    def close(self) -> None:
        """Part from the other processes. The engine is of no use afterwards."""

    def predict(self, volume: np.ndarray) -> np.ndarray:
        """int16 [B, D, H, W] to float32 logits [B, logits], without the segmentation branch."""

    def segment(self, volume: np.ndarray) -> np.ndarray:
        """int16 [B, D, H, W] to uint8 organ indices of the same shape, by the auxiliary head."""

    def attribution(self, volume: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """Grad-CAM (Selvaraju et al. 2017) on the feature map: where a score's evidence lies, [B, d, h, w], 0 or more.

        int16 [B, D, H, W] and the score's derivative by each logit, float64 [B, logits]. The map's channels are summed
        with weights, each the mean over the map of the score's derivative by that channel; what is negative becomes 0.
        """

    def inspect(self, batch: Batch, train: bool = True, gradients: bool = True) -> Inspection:
        """Forward and backward with everything in between, in training or evaluation mode. Without `gradients` the
        backward pass is left out (full-size crops on a CPU)."""

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every parameter in canonical form, in one order in all frameworks."""

    def hessian_product(self, batch: Batch, direction: Mapping[str, np.ndarray]) -> Arrays:
        """The Hessian of `inspect`'s `loss` in training mode times `direction` (an array per parameter)."""

    def weights(self) -> Arrays:
        """Parameters and buffers (BatchNorm's running values) in canonical form."""

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """The inverse of `weights`. Unknown, missing or misshapen names are errors; a segmentation head that this
        model does not have is dropped."""

    def optimizer_state(self) -> Arrays:
        """`exp_avg/<parameter>` and `exp_avg_sq/<parameter>` in canonical form, and `step` (int64 scalar)."""

    def load_optimizer_state(self, state: Mapping[str, np.ndarray]) -> None:
        """The inverse of `optimizer_state`."""

    def device(self) -> dict[str, Any]:
        """`kind` (`cpu`, `gpu`), `name`, `count` and the framework's `versions`."""

    def instruments(self) -> Instruments:
        """Of this engine's device."""


_PACKAGES = {"torch": "torch_ref", "jax": "jax_impl"}


def load_engine(framework: str, spec: ModelSpec, recipe: Recipe, processes: Processes = ALONE) -> Engine:
    """Build the engine of that framework with weights initialised from `recipe.seed`, after meeting the other
    processes if there are any.

    The framework is imported here and nowhere else, so that a machine needs only the one it uses.
    """
    if framework not in FRAMEWORKS:
        raise UsageError(f"framework {framework!r}: choose one of {', '.join(FRAMEWORKS)}")
    if recipe.recompute:
        card_of(spec.model).refuse_recompute()
    try:
        package = framework_module(framework, "engine")
    except ModuleNotFoundError as error:
        raise AnatoBenchError(
            f"framework {framework} needs the Python package {error.name}: pip install 'anatobench[{framework}]'"
        ) from error
    engine: Engine = package.build(spec, recipe, processes)
    return engine


def framework_module(framework: str, name: str) -> ModuleType:
    """A module of that framework's package; `ModuleNotFoundError` where the framework is not installed."""
    return importlib.import_module(f"{_PACKAGES[framework]}.{name}")
