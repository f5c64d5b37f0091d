"""How a model is trained: the paper's Table 6 as data, and every choice that the paper leaves open, with its reason.

A `Recipe` is saved whole with every run; the command line overrides single fields with `--set field=value`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from anatobench.backbones import CARDS, card_of
from anatobench.errors import UsageError, check_choice
from anatobench.fast_forms import BY_DEVICE, fast_forms
from anatobench.tasks import Task

MODELS = CARDS.keys()
"""Names of the backbones: of every card that there is at the moment."""
SIZES = ("full", "tiny")
FRAMEWORKS = ("torch", "jax")
PRECISIONS = ("fp64", "fp32", "tf32", "bf16")
SEGMENTATION_LOSSES = ("ce", "dice", "ce_dice")
ALL_ORGANS = "all"
COMPILATIONS = ("auto", "true", "false", "graphs")
CHOICES = {"precision": PRECISIONS, "segmentation_loss": SEGMENTATION_LOSSES, "compile": COMPILATIONS}


@dataclass(frozen=True)
class Recipe:
    """Optimisation and loss of one run."""

    objective: str = "diagnosis"
    """The kind of supervision (anatobench/objectives/registry.py)."""
    epochs: int = 20
    batch_size: int = 10
    """Cases per step over all processes."""
    learning_rate: float = 1e-4
    """At the start of the cosine decay."""
    warmup_steps: int = 0
    """Linear warm-up. The paper names none."""
    weight_decay: float = 1e-4
    """Decoupled, on every parameter, as torch.optim.AdamW does by default; the paper names no exceptions."""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    clip_norm: float = 5.0
    """Gradients are scaled by min(1, clip_norm / (norm + 1e-6)), torch.nn.utils.clip_grad_norm_'s formula."""
    segmentation_weight: float = 1.0
    """0 trains without the segmentation branch."""
    segmentation_loss: str = "ce"
    """`ce`, `dice` or `ce_dice` (their sum). CE weights background like any class: the paper names no weights."""
    dice_smooth: float = 1.0
    """Added to numerator and denominator of the soft Dice of each organ of each case, so that an organ that is
    neither there nor predicted costs nothing. Background is left out, as is usual."""
    supervising_organs: str = ALL_ORGANS
    """`all`, or names of the task's organs separated by commas: the others' voxels are background in training batches.
    The segmentation head keeps an output for each."""
    boundary_distortion: float = 0.0
    """Percent of the organs' boundary voxels that are eroded or dilated in training batches (store/mask_noise.py)."""
    augment_rotation: float = 0.0
    """Training cases are turned by up to so many degrees about each axis (store/augmentation.py). The paper names no
    augmentation."""
    augment_scaling: float = 0.0
    """They are enlarged or made smaller by up to so many percent."""
    augment_noise: float = 0.0
    """Normal noise of a standard deviation of up to so many HU is added to each voxel."""
    augment_shift: float = 0.0
    """All voxels of a case are shifted by up to so many HU."""
    any_injury_weight: float = 0.1
    """The paper's lambda, RATIC alone."""
    precision: str = "fp32"
    """Compute precision on the device; parameters, optimizer state and losses stay float32 (float64 for `fp64`)."""
    dropout: bool = True
    """Dropout and stochastic depth in training, at torchvision's rates. Parity turns them off: what a framework draws
    at random another cannot repeat."""
    recompute: bool = False
    """Recompute every stage in the backward pass in place of keeping what is inside it: about a third slower, a
    fraction of the memory, the same gradients. For backbones without BatchNorm, whose running values it would move
    twice."""
    fast: str = BY_DEVICE
    """Which layers take their fast form: `auto` (what was measured to be faster on the device), `true`, `false`, or
    names separated by commas (fast_forms.py). The results are the same up to rounding."""
    compile: str = BY_DEVICE
    """Whether PyTorch compiles the step (`true`), takes it operation by operation (`false`), or compiles it on a GPU
    alone (`auto`). `graphs` also replays it as CUDA graphs. JAX always compiles."""
    seed: int = 0
    """Initial weights, order of cases, crops, dropout."""
    cases: int = 0
    """So many of the training cases alone (store/training_cases.py); 0: all of them."""
    draw: int = 0
    """Which `cases` these are: of one draw, fewer are among more."""
    frozen_backbone: bool = False
    """Train the heads alone, on the features of the weights that the run begins with."""

    # Losses are means over the batch of sample weight times loss, not divided by the sum of weights: the paper names
    # no normalisation, and this one gives the same gradient however a batch is spread over processes. A case's own
    # weight (a manifest's column) multiplies its loss over all findings in the same way. The two binary
    # groups of RATIC are averaged, and so are its three graded groups, so that each term of equation 5 has the scale
    # of one loss.

    def __post_init__(self) -> None:
        checks = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "learning_rate": (self.learning_rate > 0, "more than 0"),
            "warmup_steps": (self.warmup_steps >= 0, "0 or more"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "adam_beta1": (0 <= self.adam_beta1 < 1, "from 0 to below 1"),
            "adam_beta2": (0 <= self.adam_beta2 < 1, "from 0 to below 1"),
            "adam_epsilon": (self.adam_epsilon > 0, "more than 0"),
            "clip_norm": (self.clip_norm > 0, "more than 0"),
            "segmentation_weight": (self.segmentation_weight >= 0, "0 or more"),
            "dice_smooth": (self.dice_smooth > 0, "more than 0"),
            "supervising_organs": (all(self.supervising_organs.split(",")), "all, or names with commas between them"),
            "boundary_distortion": (0 <= self.boundary_distortion <= 100, "from 0 to 100"),
            "augment_rotation": (0 <= self.augment_rotation <= 45, "from 0 to 45 degrees"),
            "augment_scaling": (0 <= self.augment_scaling <= 50, "from 0 to 50 percent"),
            "augment_noise": (0 <= self.augment_noise <= 500, "from 0 to 500 HU"),
            "augment_shift": (0 <= self.augment_shift <= 500, "from 0 to 500 HU"),
            "any_injury_weight": (self.any_injury_weight >= 0, "0 or more"),
            "seed": (0 <= self.seed < 2**32, "from 0 to 4294967295"),
            "cases": (self.cases >= 0, "0 or more"),
            "draw": (0 <= self.draw < 2**32, "from 0 to 4294967295"),
        }
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"recipe: {field.name}={value!r} is no finite number")
        for name, (good, allowed) in checks.items():
            if not good:
                raise UsageError(f"recipe: {name}={getattr(self, name)!r} is out of range: {allowed}")
        for name, choices in CHOICES.items():
            check_choice(f"recipe: {name}", getattr(self, name), choices)
        if not isinstance(self.fast, str):
            raise UsageError(f"recipe: fast={self.fast!r} is no text: write auto, true, false or names of fast forms")
        fast_forms(self.fast, ())  # refuses names that there are not


PAPER_EPOCHS = {"ratic": 100, "ct_rate": 20, "rad_chestct": 100}
"""Table 6, by task."""
OTHER_EPOCHS = 100
"""Of an own cohort, about which the paper says nothing."""


def paper_recipe(task: Task, model: str) -> Recipe:
    """Table 6 for a task and a backbone; `UsageError` if the backbone's card has no row for the task's anatomy."""
    row = card_of(model).recipe_row(task.anatomy)
    return Recipe(
        epochs=PAPER_EPOCHS.get(task.name, OTHER_EPOCHS), batch_size=row.batch_size, learning_rate=row.learning_rate
    )


_BOOLEANS = {"true": True, "false": False}
_IN_WORDS = {int: "a whole number", float: "a number", bool: "true or false"}


def override(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """Apply `field=value` texts to a recipe; `UsageError` names the fields there are."""
    if isinstance(assignments, str | Mapping) or not isinstance(assignments, Iterable):
        raise UsageError(f"settings must be a list of texts such as ['batch_size=2'], not {assignments!r:.80}")
    types = {f.name: type(getattr(recipe, f.name)) for f in fields(recipe)}
    changes: dict[str, Any] = {}
    for assignment in assignments:
        if not isinstance(assignment, str):
            raise UsageError(f"settings must be texts such as 'batch_size=2', not {assignment!r:.80}")
        name, equals, text = assignment.partition("=")
        if not equals or name not in types:
            raise UsageError(f"--set {assignment}: write field=value with one of {', '.join(types)}")
        try:
            if types[name] is bool or text.lower() in _BOOLEANS:  # a choice may have true and false beside others
                text = text.lower()
            changes[name] = _BOOLEANS[text] if types[name] is bool else types[name](text)
        except (KeyError, ValueError):
            raise UsageError(f"--set {assignment}: {text!r} is not {_IN_WORDS[types[name]]}") from None
    return replace(recipe, **changes)
