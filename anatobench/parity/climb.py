"""One climb of the ladder: which model, task, size and precision, and what came of it, in plain JSON types."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from anatobench.backbones import card_of
from anatobench.engine import ModelSpec, load_engine
from anatobench.errors import UsageError
from anatobench.fast_forms import BY_DEVICE, fast_forms
from anatobench.objectives.registry import plan_of
from anatobench.parity.inputs import PRECISION_OF_DTYPE, parity_recipe
from anatobench.parity.ladder import Ladder, Rung, Tolerances
from anatobench.recipes import COMPILATIONS, MODELS, SIZES, Recipe
from anatobench.system.host_memory import host_memory
from anatobench.system.image import describe_image
from anatobench.tasks import Size, get_task

TOLERANCES = {
    "float64": Tolerances(forward=1e-9, gradients=1e-9, whole_gradient=1e-9, training=1e-9),
    "float32": Tolerances(forward=1e-4, gradients=1e-4, whole_gradient=1e-4, training=None),
    "tensorfloat32": Tolerances(forward=None, gradients=None, whole_gradient=None, training=None),
    "bfloat16": Tolerances(forward=None, gradients=None, whole_gradient=None, training=None),
}
"""In float64 two right programs agree to about 1e-12; in float32 training amplifies rounding, so its drift is reported
and is no gate, and so is everything in bfloat16 and, on a GPU, in TF32."""
KINKED_GRADIENT_TOLERANCE = 2e-3
"""In float32, of the gradient as a whole, for backbones with kinks: PyTorch's own float32 gradients are then as far
from its float64 ones (measured for r3d_18 at 48x96x96: 5e-4 of the norm, 1e-2 in one array)."""
SUMMARY_KINDS = ("logits", "seg_logits", "loss", "grads", "params", "batch_stats")
DEFAULT_BATCH_SIZE = {"tiny": 3, "full": 1}


@dataclass(frozen=True)
class Climb:
    """What two engines are put through."""

    model: str
    task: str
    dtype: str = "float64"
    size: str = "tiny"
    steps: int = 10
    """Optimizer steps; 0 compares one pass."""
    backward: bool = True
    """Whether gradients are compared when `steps` is 0; steps need them anyway."""
    crop_size: Size | None = None
    """(D, H, W) in place of the task's own."""
    batch_size: int | None = None
    """None: 3 for tiny models, 1 for full ones."""
    seed: int = 0
    fast: str = BY_DEVICE
    """Which layers take their fast form, as `Recipe.fast`."""
    objective: str = "diagnosis"
    """The kind of supervision, as `Recipe.objective`."""
    compile: str = "false"
    """Whether PyTorch compiles the steps, as `Recipe.compile`. There are ten at most, which take less time than to
    compile them; PyTorch takes the other rungs' passes operation by operation in any case."""

    def __post_init__(self) -> None:
        if self.model not in MODELS or self.size not in SIZES or self.dtype not in PRECISION_OF_DTYPE:
            raise UsageError(f"parity: no such combination: {self.model}, {self.size}, {self.dtype}")
        if self.steps < 0 or self.seed < 0 or (self.batch_size is not None and self.batch_size < 1):
            raise UsageError("--steps and --seed must be 0 or more, --batch-size 1 or more")
        if self.compile not in COMPILATIONS:
            raise UsageError(f"parity: compile={self.compile!r}: choose one of {', '.join(COMPILATIONS)}")
        fast_forms(self.fast, ())  # refuses names that there are not
        if self.crop_size is not None and min(self.crop_size) < 1:
            raise UsageError(f"--crop {self.crop_size}: lengths must be positive")

    @property
    def spec(self) -> ModelSpec:
        """What both engines are built for."""
        task = get_task(self.task)
        crop_size = self.crop_size or task.geometry(self.size).crop_size
        return ModelSpec(self.model, self.size, task, crop_size, plan_of(self.recipe, task).heads)

    @property
    def recipe(self) -> Recipe:
        """What both engines are trained with."""
        # What lies inside the stages of a full-size transformer would not fit into a common machine's memory.
        recompute = self.size == "full" and not card_of(self.model).has_batch_norm
        ladders = parity_recipe(self.dtype, self.seed)
        return replace(ladders, objective=self.objective, recompute=recompute, fast=self.fast, compile=self.compile)


def climb(asked: Climb, progress: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """Build both engines, climb every rung, and return the figures that `anatobench parity --json` prints."""
    started = time.monotonic()
    spec, recipe = asked.spec, asked.recipe
    batch_size = asked.batch_size or DEFAULT_BATCH_SIZE[asked.size]
    progress("building both engines")
    reference, candidate = (load_engine(framework, spec, recipe) for framework in ("torch", "jax"))
    tolerances = tolerances_for(asked.model, asked.dtype)
    ladder = Ladder(reference, candidate, asked.steps, asked.backward, batch_size, asked.seed, tolerances)
    rungs = list(ladder.climb(progress))
    failed = [rung.name for rung in rungs if not rung.passed]
    return {
        "passed": not failed,
        "tolerance": tolerances.forward,
        "max_rel_error": _largest_by_kind(rungs),
        "first_failure": failed[0] if failed else None,
        "rungs": [
            {
                "name": rung.name,
                "error": rung.difference.error,
                "worst": rung.difference.worst,
                "tolerance": rung.tolerance,
                "passed": rung.passed,
            }
            for rung in rungs
        ],
        **asdict(asked),
        "batch_size": batch_size,
        "crop_size": list(spec.crop_size),
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_bytes": host_memory()[1],
        "devices": {engine.name: engine.device() for engine in (reference, candidate)},
        "image": describe_image(),
    }


def tolerances_for(model: str, dtype: str) -> Tolerances:
    """Return the gates of a model in a precision."""
    tolerances = TOLERANCES[dtype]
    if dtype == "float32" and card_of(model).has_kinks:
        return replace(tolerances, gradients=None, whole_gradient=KINKED_GRADIENT_TOLERANCE)
    return tolerances


def _largest_by_kind(rungs: list[Rung]) -> dict[str, float | None]:
    """Return None for what was not measured (gradients and what follows, without steps)."""
    errors: dict[str, float | None] = dict.fromkeys(SUMMARY_KINDS)
    for rung in rungs:
        errors[rung.kind] = max(errors.get(rung.kind) or 0.0, rung.difference.error)
    return errors
