"""What the losses of a kind of supervision see of the model for one batch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property

import jax

from anatobench.tasks import Size
from jax_impl.layers.noise import Key
from jax_impl.models.diagnosis_model import DiagnosisModel


class View:
    """Each output is computed when it is asked for, once."""

    def __init__(
        self,
        model: DiagnosisModel,
        features: jax.Array,
        size: Size,
        forms: Collection[str],
        key: Key | None,
        teacher: Callable[[], View] | None = None,
    ) -> None:
        self._model, self._key = model, key
        self.features = features
        """The feature map F [B, d, h, w, C]."""
        self.size = size
        """Of the crop, (D, H, W)."""
        self.forms = forms
        """The fast forms (anatobench/fast_forms.py) that losses may take."""
        self._teacher = teacher

    @cached_property
    def teacher(self) -> View:
        """What the teacher makes of the same batch, in evaluation mode and without gradient."""
        assert self._teacher is not None, "a kind that asks for a teacher has a phase that moves it"
        return self._teacher()

    @cached_property
    def logits(self) -> jax.Array:
        """[B, logits], the classifier's."""
        return self._model.classify(self.features, self._key)

    def coarse(self, head: str) -> jax.Array | None:
        """Return an auxiliary head's logits before upsampling, [B, classes, d, h, w]; None for a model without the
        head."""
        return self._model.coarse(head, self.features)

    def upsampled(self, head: str) -> jax.Array | None:
        """Return the same at the crop's size, [B, classes, D, H, W]."""
        return self._model.upsampled(head, self.features, self.size)
