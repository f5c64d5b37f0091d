"""The card of a backbone: everything about it that is no layer. What is not on it, no part of the suite knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from anatobench.backbones.products import Product
from anatobench.backbones.published_weights import PublishedWeights
from anatobench.errors import UsageError
from anatobench.tasks import Size

LayoutT = TypeVar("LayoutT")
MEAN_OF_MAP = "mean of the feature map over its voxels, as torchvision's own forward pass has it"


@dataclass(frozen=True)
class RecipeRow:
    """A backbone's row of the paper's Table 6."""

    learning_rate: float
    """At the start of the cosine decay."""
    batch_size: int
    """Cases per step over all processes."""


@dataclass(frozen=True)
class BackboneCard(Generic[LayoutT]):
    """A backbone's numbers, where they come from, and what its layers need of those who train it.

    A method that does not find an entry raises `UsageError`, which names the field of the card to fill in: no backbone
    ever gets another's value.
    """

    name: str
    """As in `--model`, in saved runs, and in the registry of each framework (`*/models/__init__.py`)."""
    layouts: Mapping[str, LayoutT]
    """The numbers that the frameworks' files build their layers from, by size: `full`, `tiny` for CPU work, or both."""
    products: Callable[[LayoutT, Size], Iterator[Product]]
    """(layout, crop size) to every convolution and matrix product of one forward pass, the classifier left out."""
    feature_map: Callable[[LayoutT, Size], tuple[int, Size]]
    """(layout, crop size) to channels and (d, h, w) of the feature map F."""
    classifier: str
    """What the canonical names of its classifier's weights begin with, such as `fc.`."""
    recipe_rows: Mapping[str, RecipeRow]
    """By anatomy, `chest` and `abdomen`: learning rate and batch size."""
    has_batch_norm: bool
    """Whether running values are updated in the forward pass, which `Recipe.recompute` would do twice."""
    has_dropout: bool
    """Whether a training step draws dropout or stochastic depth (`Recipe.dropout`)."""
    has_kinks: bool
    """Whether it has ReLU or max pooling: rounding decides where single elements of the gradient go, so float32
    gradients are compared as a whole (parity/climb.py)."""
    compiles_long: bool
    """Whether XLA takes longer over the tiny step than a CPU over the steps of the ladder (parity/suite.py)."""
    published: PublishedWeights | None = None
    """Weights to begin with, for size `full`; None where there are none."""
    tiny_learning_rate: float | None = None
    """Of the tiny model in the AUC study; None where nobody has chosen one."""
    fixed_buffers: Callable[[LayoutT], Mapping[str, np.ndarray]] | None = None
    """What follows from the layout and the canonical form leaves out, but torchvision's strict `load_state_dict` asks
    for, under its names; None where there is nothing."""
    unread: tuple[str, ...] = ()
    """Ends of the names of these."""
    pooling: str = MEAN_OF_MAP
    """What the classifier is given, in words for somebody who has only an exported file."""

    def layout(self, size: str) -> LayoutT:
        """Return the numbers of a size; `UsageError` if the backbone has none of that name."""
        if size not in self.layouts:
            raise UsageError(
                f"model {self.name} has no size {size}: choose {' or '.join(self.layouts)}, or {self._add('layouts')}"
            )
        return self.layouts[size]

    def recipe_row(self, anatomy: str) -> RecipeRow:
        """Return Table 6's row; `UsageError` if there is none for that anatomy."""
        if anatomy not in self.recipe_rows:
            raise UsageError(
                f"model {self.name} has no learning rate and batch size for the {anatomy}: {self._add('recipe_rows')}"
            )
        return self.recipe_rows[anatomy]

    def published_weights(self) -> PublishedWeights:
        """Return the file to begin with; `UsageError` if none is published."""
        if self.published is None:
            raise UsageError(
                f"model {self.name} has no published weights: train it without --pretrained, or "
                f"{self._add('published')}"
            )
        return self.published

    def study_learning_rate(self) -> float:
        """Return the tiny model's learning rate in the AUC study; `UsageError` if nobody has chosen one."""
        if self.tiny_learning_rate is None:
            raise UsageError(
                f"model {self.name} has no learning rate for the AUC study: give --learning-rate, or "
                f"{self._add('tiny_learning_rate')}"
            )
        return self.tiny_learning_rate

    def refuse_recompute(self) -> None:
        """Raise `UsageError` if the layers cannot be computed twice in a step."""
        if self.has_batch_norm:
            raise UsageError(
                f"recompute=true: {self.name}'s BatchNorm would count every batch twice; it is for models without"
            )

    def _add(self, field: str) -> str:
        return f"add it to `{field}` of its card (docs/extending.md, A backbone)"
