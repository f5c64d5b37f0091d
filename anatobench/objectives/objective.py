"""What a run minimises and in which turns: plain data that both frameworks read.

A kind of supervision gives a run its phases. A phase names an objective (the module `losses/<kind>.py` of each
framework), the weights of its terms, the parameters that it trains, and whether a teacher follows the model. Which
phase a step belongs to follows from its epoch alone, so a run can be resumed at any step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from anatobench.errors import UsageError
from anatobench.objectives.heads import CLASSIFIER
from anatobench.recipes import Recipe
from anatobench.tasks import Task

EVERYTHING = ("*",)


@dataclass(frozen=True)
class Objective:
    """One weighted sum of terms. Each term is defined per case, so that N processes take the steps of one."""

    kind: str
    """The name under which each framework's `losses` package has the terms."""
    reads: tuple[str, ...]
    """The arrays of a batch that the terms are made of, in the order in which its digest takes them; `volume` is one,
    for the model is made of it."""
    terms: Mapping[str, float]
    """Each term's name and weight, in the order of the sum. What the kind's losses return besides is left out."""

    def __post_init__(self) -> None:
        if "volume" not in self.reads:
            raise UsageError(f"objective {self.kind}: reads {', '.join(self.reads)}: add volume, the model's input")
        if not self.terms:
            raise UsageError(f"objective {self.kind}: has no term to minimise: name one")


@dataclass(frozen=True)
class Phase:
    """What is trained in some of a run's epochs."""

    objective: Objective
    epochs: int = 1
    """How many epochs it lasts before the next phase has its turn."""
    trained: tuple[str, ...] = EVERYTHING
    """Patterns of canonical parameter names (`fc.*`), less those of patterns after a `!`. The others stay, and so do
    their moments and step counts."""
    teacher: float | None = None
    """Momentum m of the teacher, which becomes m teacher + (1 - m) model after every step of the phase; None: it
    stays as it is. A run has a teacher if one of its phases moves it."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UsageError(f"phase of objective {self.objective.kind}: epochs={self.epochs} must be at least 1")
        if self.teacher is not None and not 0.0 <= self.teacher <= 1.0:
            raise UsageError(f"phase of objective {self.objective.kind}: teacher={self.teacher} must be from 0 to 1")

    def trains(self, parameter: str) -> bool:
        """Return whether the parameter of that canonical name is trained."""
        left_out = [pattern[1:] for pattern in self.trained if pattern.startswith("!")]
        if any(fnmatchcase(parameter, pattern) for pattern in left_out):
            return False
        return any(fnmatchcase(parameter, pattern) for pattern in self.trained)

    @property
    def trains_classifier(self) -> bool:
        """Whether the classifier is trained, named as a head or by the names that torchvision gives its weights."""
        names = (CLASSIFIER, "fc.weight", "head.weight")
        left_out = [pattern[1:] for pattern in self.trained if pattern.startswith("!")]
        if any(fnmatchcase(name, pattern) for name in names for pattern in left_out):
            return False
        return any(fnmatchcase(name, pattern) for name in names for pattern in self.trained)


@dataclass(frozen=True)
class Plan:
    """What one recipe asks for on one task."""

    heads: tuple[str, ...]
    """Of the model, `anatobench.objectives.heads.HEADS`."""
    phases: tuple[Phase, ...]
    """Taken in turns, from the first epoch on."""
    judge: str
    """What validation watches: a name of `anatobench.evaluation.judges.JUDGES`."""
    papers_segmentation: bool | None = None
    """Whether the run is the paper's with segmentation supervision or its baseline without; None: the paper has no such
    run, and no figure of it stands beside this one's."""

    @property
    def trains_classifier(self) -> bool:
        """Whether a phase trains the classifier. If none does, there is nothing to predict a finding with."""
        return CLASSIFIER in self.heads and any(phase.trains_classifier for phase in self.phases)

    @property
    def label(self) -> str:
        """How a table names what was trained."""
        if self.papers_segmentation is not None:
            return f"{'with' if self.papers_segmentation else 'without'} segmentation"
        return " and ".join(dict.fromkeys(phase.objective.kind.replace("_", " ") for phase in self.phases))

    def check_trained(self, parameters: Collection[str]) -> None:
        """Raise `UsageError` if a phase trains none of the model's parameters, given by canonical name."""
        for index, phase in enumerate(self.phases):
            if not any(phase.trains(name) for name in parameters):
                raise UsageError(
                    f"phase {index + 1} of the plan trains no parameter of this model: look at its patterns "
                    f"{', '.join(phase.trained) or '(none)'}"
                )

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher is part of the run's state."""
        return any(phase.teacher is not None for phase in self.phases)

    def phase_of_epoch(self, epoch: int) -> int:
        """Return the phase of an epoch, both counted from 0."""
        place = epoch % sum(phase.epochs for phase in self.phases)
        for index, phase in enumerate(self.phases):
            if place < phase.epochs:
                return index
            place -= phase.epochs
        raise AssertionError("the place lies within the phases' epochs")

    def reads(self, steps_per_epoch: int) -> Callable[[int], tuple[str, ...]]:
        """Return the arrays that the batch of a step holds, as a function of the step from 0."""
        return lambda step: self.phases[self.phase_of_epoch(step // steps_per_epoch)].objective.reads


Kind = Callable[[Recipe, Task], Plan]
"""A kind of supervision: what a recipe means on a task. It raises `UsageError` where the two do not fit."""
