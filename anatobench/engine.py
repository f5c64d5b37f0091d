"""The contract a framework fulfils. The training loop, evaluation and parity know nothing else of it.

Arrays cross this border as numpy arrays. Weights and optimizer moments have one canonical form: a dict of arrays
under torchvision's parameter names and in torch's layouts, so that a run can start in one framework and go on in
the other, and two frameworks are compared by comparing dicts.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from anatobench.backbones import CARDS, card_of
from anatobench.errors import AnatoBenchError, UsageError, install_command, listed
from anatobench.objectives.heads import CLASSIFIER, SEGMENTATION
from anatobench.objectives.registry import plan_of
from anatobench.recipes import FRAMEWORKS, Recipe
from anatobench.store.batch import Batch
from anatobench.system.cuda_driver import refuse_old_driver
from anatobench.system.processes import ALONE, Processes
from anatobench.tasks import Size, Task

Arrays = dict[str, np.ndarray]
"""By name, of any shapes; weights, moments and gradients in canonical form."""

TRACE, NSYS = "trace", "nsys"
"""Kinds of profiles: the framework's own, or NVIDIA's Nsight Systems, which started the process."""


def is_unread(name: str) -> bool:
    """Return whether the canonical form leaves an array of torchvision's out, which a file may have: BatchNorm's count
    of batches, which nothing reads with a fixed momentum, and what follows from a card's layout."""
    return name.endswith((".num_batches_tracked", *(end for card in CARDS.values() for end in card.unread)))


def check_arrays(given: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Raise `AnatoBenchError` that lists every mismatch unless the arrays given have these names and shapes, and no
    others; `what` names them in the error."""
    problems = [f"{name} is missing" for name in shapes if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in shapes]
    problems += [
        f"{name} has shape {given[name].shape}, the model {shape}"
        for name, shape in shapes.items()
        if name in given and given[name].shape != shape
    ]
    if problems:
        raise AnatoBenchError(f"{what} do not fit this model (check model, size and task): {listed(problems)}")


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
    heads: tuple[str, ...] = (CLASSIFIER, SEGMENTATION)
    """Names of `objectives.heads.HEADS`. Export and prediction drop those that only supervise."""


@dataclass(frozen=True)
class StepMetrics:
    """What one training step measured, over all processes but for `case_losses`."""

    loss: float
    """The weighted sum of the terms."""
    terms: Mapping[str, float]
    """Each term of the phase's objective, unweighted."""
    gradient_norm: float
    """Before clipping."""
    case_losses: np.ndarray
    """float [B]: each case's own share before the mean, to name the case when the loss is not finite. Of this
    process's cases."""
    stop: bool = False
    """Whether any process was asked to stop before this step."""

    @staticmethod
    def of(figures: Mapping[str, float], case_losses: np.ndarray) -> StepMetrics:
        """From a step's figures by name, `loss`, `gradient_norm`, `stop` (above 0: yes) and the terms, and the losses
        [B] of its cases."""
        terms = {n: value for n, value in figures.items() if n not in ("loss", "gradient_norm", "stop")}
        return StepMetrics(figures["loss"], terms, figures["gradient_norm"], case_losses, figures["stop"] > 0)


class PendingMetrics(Protocol):
    """A step that may still be running on the device; `fetch` waits for it."""

    def fetch(self) -> StepMetrics: ...


@dataclass(frozen=True)
class Inspection:
    """One forward and backward pass laid open, for parity. Nothing is updated, BatchNorm's running values included."""

    activations: Arrays
    """Output of every stage in order, torch layout [B, C, D, H, W] (token models: as torchvision has them)."""
    outputs: Arrays
    """Every head's logits under `Head.shown_as`: `logits` [B, logits], `seg_logits` [B, classes, D, H, W] of the
    input's size."""
    losses: dict[str, float]
    """`loss` and every term."""
    gradients: Arrays
    """Of `loss` with respect to every parameter that the phase trains, before clipping, in canonical form."""


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
        """Return None where the framework keeps no account: on a CPU."""

    def release_memory(self) -> None:
        """Give the device back what the allocator keeps without need, as far as the framework can."""

    def matrix_product_rate(self) -> float:
        """Operations per second of a large product of random square matrices in the engine's precision."""

    def trace(self, folder: Path, label: str, kind: str = TRACE) -> AbstractContextManager[None]:
        """Trace what is done inside into files below `folder`, which Perfetto opens; or (`NSYS`) let Nsight Systems
        look on, and write nothing. `kind` is one of `profiles`."""

    def profiles(self) -> tuple[str, ...]:
        """Return the kinds of profiles that the framework has on this device."""

    def named_range(self, name: str) -> AbstractContextManager[None]:
        """Call what is done inside `name` in a trace."""


class PendingSave(Protocol):
    """A copy of the state that no step changes any more, on its way to the disk."""

    @property
    def writer(self) -> Mapping[str, str]:
        """In which `form` it is written (`training.checkpoints.state_file.FORMS`), and by which `version` of what."""

    def finish(self) -> None:
        """Return when all of it is written; for another thread than the one that trains.

        OSError with the disk's own reason, `NotFiniteError` (`system.state_files`) if a value is not finite.
        """


class StateSaver(Protocol):
    """Writes the state of a run, again and again. It holds the memory that copying takes and is made before the first
    step, so that no save waits for that."""

    def begin(self, folder: Path) -> PendingSave:
        """Copy the state for writing it into `folder`, which the process that leads has made; as soon as this returns
        the next step may be taken. The save before must have finished. All processes of a run call it together."""

    def close(self) -> None:
        """Let go of everything."""


class Trainable(Protocol):
    """A model with its optimizer and what else a run's state holds."""

    recipe: Recipe

    def train_step(
        self, batch: Batch, learning_rate: float, step: int, stop: bool = False, phase: int = 0
    ) -> PendingMetrics:
        """Forward, backward, clip, AdamW. `step` (from 0) seeds dropout, so a resumed run draws what it would have.

        `batch` is this process's part of the global batch, whose loss is the mean over all its cases, as are
        BatchNorm's statistics. `stop` tells every process that this one was asked to stop. `phase` is the place of a
        phase in the recipe's plan.
        """

    def state(self) -> dict[str, Arrays]:
        """Return all that training goes on from, as named trees of arrays in canonical form, copied.

        `model`: as `weights`. `optimizer`: `exp_avg/<parameter>`, `exp_avg_sq/<parameter>` and `step` (int64 scalar);
        where phases train different parameters also `step/<parameter>`, and `step` is the largest of them.
        `teacher`, where the plan has one: as `weights`.
        """

    def saver(self) -> StateSaver:
        """Return what writes checkpoints of `state` beside training, in the framework's own form."""

    def load_state(self, state: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Take up what `state` gave; trees that are not given stay. Names and shapes are checked."""

    def weights(self) -> Arrays:
        """Parameters and buffers (BatchNorm's running values) in canonical form."""

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take up what `weights` gave, in canonical form; a teacher begins as the same. Unknown, missing or misshapen
        names are errors; an auxiliary head that this model does not have is dropped."""

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter in canonical form, in one order in all frameworks."""


class Predictor(Protocol):
    """A model at work, in evaluation mode."""

    def predict(self, volume: np.ndarray) -> np.ndarray:
        """int16 [B, D, H, W] to float32 logits [B, logits], without the auxiliary heads."""

    def segment(self, volume: np.ndarray, head: str = SEGMENTATION) -> np.ndarray:
        """int16 [B, D, H, W] to uint8 organ indices of the same shape by an auxiliary head; by one whose classes may
        overlap, to uint8 [B, classes, D, H, W], 1 where a class is more likely than not."""


class Probe(Protocol):
    """What looks into a model: parity, sharpness and attribution."""

    def inspect(self, batch: Batch, train: bool = True, gradients: bool = True, phase: int = 0) -> Inspection:
        """Forward and backward with everything in between, in training or evaluation mode. Without `gradients` the
        backward pass is left out (full-size crops on a CPU)."""

    def hessian_product(self, batch: Batch, direction: Mapping[str, np.ndarray]) -> Arrays:
        """Return the Hessian of `inspect`'s `loss` in training mode times `direction`, an array per parameter in
        canonical form, as is the product; of the plan's first phase, in which every parameter is free."""

    def attribution(self, volume: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """Grad-CAM (Selvaraju et al. 2017) on the feature map: where a score's evidence lies, [B, d, h, w], 0 or more.

        int16 [B, D, H, W] and the score's derivative by each logit, float64 [B, logits]. The map's channels are summed
        with weights, each the mean over the map of the score's derivative by that channel; what is negative becomes 0.
        """


@runtime_checkable
class Collective(Protocol):
    """One of several processes that train one model, or the only one."""

    processes: Processes

    def gather(self, array: np.ndarray) -> np.ndarray:
        """Return [processes, ...]: every process's array of the same shape and type, in order."""

    def all_reduce_seconds(self, elements: int, repeats: int) -> list[float]:
        """Seconds of each of so many times that all processes add up a float32 array of so many elements on their
        devices, as they do gradients. All of them call it together; one alone has nothing to add up."""

    def close(self) -> None:
        """Part from the other processes. The engine is of no use afterwards."""


class Engine(Trainable, Predictor, Probe, Collective, Protocol):
    """One model with its optimizer on one device.

    Where several processes train one model, all of them call `train_step` and `gather` together, each with its own
    part; everything else is done by each process for itself.
    """

    name: str
    spec: ModelSpec

    def device(self) -> dict[str, Any]:
        """`kind` (`cpu`, `gpu`), `name`, `count` and the framework's `versions`."""

    def instruments(self) -> Instruments:
        """Return those of this engine's device."""


_PACKAGES = {"torch": "torch_ref", "jax": "jax_impl"}


def load_engine(framework: str, spec: ModelSpec, recipe: Recipe, processes: Processes = ALONE) -> Engine:
    """Build the engine of that framework with weights initialised from `recipe.seed`, after meeting the other
    processes if there are any.

    The framework is imported here and nowhere else, so that a machine needs only the one it uses.
    """
    check_engine(framework, spec, recipe)
    engine: Engine = framework_module(framework, "engine").build(spec, recipe, processes)
    return engine


def check_engine(framework: str, spec: ModelSpec, recipe: Recipe) -> None:
    """Raise `AnatoBenchError` if the framework is not installed, and `UsageError`, a kind of it, if it has no layers of
    the backbone or no terms of the kind of supervision, or if the backbone's card refuses the recipe."""
    if framework not in FRAMEWORKS:
        raise UsageError(f"framework {framework!r}: choose one of {', '.join(FRAMEWORKS)}")
    refuse_old_driver(framework)
    card = card_of(spec.model)
    if recipe.recompute:
        card.refuse_recompute()
    card.layout(spec.size)
    try:
        framework_module(framework, "engine")
    except ModuleNotFoundError as error:
        raise AnatoBenchError(
            f"framework {framework} needs the Python package {error.name}: {install_command(framework)}"
        ) from error
    if spec.model not in framework_module(framework, "models").BACKBONES:
        raise UsageError(
            f"model {spec.model} has no layers in this framework: write them and add a line to `BACKBONES` in "
            f"{_PACKAGES[framework]}/models/__init__.py (docs/extending.md, A backbone)"
        )
    for kind in (phase.objective.kind for phase in plan_of(recipe, spec.task).phases):
        if kind not in framework_module(framework, "losses").CASE_TERMS:
            raise UsageError(
                f"objective {kind} has no terms in this framework: write them and add a line to `CASE_TERMS` in "
                f"{_PACKAGES[framework]}/losses/__init__.py (docs/extending.md, A kind of supervision)"
            )


def framework_module(framework: str, name: str) -> ModuleType:
    """Return a module of that framework's package; `ModuleNotFoundError` where the framework is not installed."""
    return importlib.import_module(f"{_PACKAGES[framework]}.{name}")
