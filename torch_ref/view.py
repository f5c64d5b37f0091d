"""What the losses of a kind of supervision see of the model for one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from anatobench.objectives.heads import CLASSIFIER
from anatobench.tasks import Size
from torch_ref.models.diagnosis_model import DiagnosisModel


class View:
    """Each output is computed when it is asked for, once.

    (Not by `functools.cached_property`: in Python 3.11 it takes a lock, with which no step compiles.)
    """

    def __init__(
        self,
        model: DiagnosisModel,
        features: Tensor,
        size: Size,
        forms: frozenset[str],
        teacher: Callable[[], View] | None = None,
    ) -> None:
        self._model = model
        self._asked: set[str] = set()
        self.features = features
        """The feature map F [B, C, d, h, w]."""
        self.size = size
        """Of the crop, (D, H, W)."""
        self.forms = forms
        """The fast forms (anatobench/fast_forms.py) that losses may take."""
        self._build_teacher = teacher
        self._teacher: View | None = None
        self._logits: Tensor | None = None

    @property
    def teacher(self) -> View:
        """What the teacher makes of the same batch, in evaluation mode and without gradient."""
        if self._teacher is None:
            assert self._build_teacher is not None, "a kind that asks for a teacher has a phase that moves it"
            self._teacher = self._build_teacher()
        return self._teacher

    @property
    def logits(self) -> Tensor:
        """[B, logits], the classifier's."""
        if self._logits is None:
            self._asked.add(CLASSIFIER)
            self._logits = self._model.classify(self.features)
        return self._logits

    def coarse(self, head: str) -> Tensor | None:
        """Return an auxiliary head's logits before upsampling, [B, classes, d, h, w]; None for a model without the
        head."""
        self._asked.add(head)
        return self._model.coarse(head, self.features)

    def upsampled(self, head: str) -> Tensor | None:
        """Return the same at the crop's size, [B, classes, D, H, W]."""
        self._asked.add(head)
        return self._model.upsampled(head, self.features, self.size)

    def unused(self, whatever_was_asked: bool = False) -> Iterator[Tensor]:
        """Yield the logits, before upsampling, of every head that nobody has asked for, or of every head: [B, logits]
        or [B, classes, d, h, w]."""
        asked = set() if whatever_was_asked else self._asked
        for head in [name for name in (CLASSIFIER, *self._model.auxiliary) if name not in asked]:
            output = self.logits if head == CLASSIFIER else self.coarse(head)
            assert output is not None, "the model has its own heads"
            yield output
