"""What a run minimises and in which turns: plain data that both frameworks read.

A kind of supervision gives a run its phases. A phase names an objective (the module `losses/<kind>.py` of each
framework), the weights of its terms, the parameters that it trains, and whether a teacher follows the model. Which
phase a step belongs to follows from its epoch alone, so a run can be resumed at any step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TypeVar

from anatobench.backbones import card_of
from anatobench.errors import UsageError
from anatobench.objectives.heads import CLASSIFIER, HEADS, auxiliary_heads, weights_prefix
from anatobench.recipes import Recipe
from anatobench.tasks import Task

EVERYTHING = ("*",)


ArrayT = TypeVar("ArrayT")


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

    def without_teacher(self) -> UsageError:
        """Return what is raised if the losses ask for a teacher that the run does not have."""
        return UsageError(
            f"objective {self.kind}: its losses ask for a teacher, and no phase of the plan moves one: give a phase "
            "its momentum in `teacher`"
        )

    def chosen(self, returned: Mapping[str, ArrayT], cases: int) -> dict[str, ArrayT]:
        """Return the objective's terms of those that its losses returned; `UsageError` if one is not there, or is not
        one figure of each of the `cases`, [B]."""
        for name in self.terms:
            if name not in returned:
                raise UsageError(
                    f"objective {self.kind}: its losses return {', '.join(returned) or 'nothing'}, and the plan names "
                    f"the term {name}: return it in both frameworks' losses, or take it out of `terms`"
                )
            shape = tuple(getattr(returned[name], "shape", ()))
            if shape != (cases,):
                raise UsageError(
                    f"objective {self.kind}: the term {name} has shape {list(shape)} for a batch of {cases} cases, and "
                    f"must have [{cases}]: return a figure of each case, the mean over everything but the cases"
                )
        return {name: returned[name] for name in self.terms}


@dataclass(frozen=True)
class Phase:
    """What is trained in some of a run's epochs."""

    objective: Objective
    epochs: int = 1
    """How many epochs it lasts before the next phase has its turn."""
    trained: tuple[str, ...] = EVERYTHING
    """Heads, for all of a head's weights, and patterns of canonical parameter names (`layer4.*`), less those after a
    `!`. The others stay, and so do their moments and step counts."""
    teacher: float | None = None
    """Momentum m of the teacher, which becomes m teacher + (1 - m) model after every step of the phase; None: it
    stays as it is. A run has a teacher if one of its phases moves it."""
    trains_backbone: bool = True
    """Of a phase of `Plan.of_model`: whether anything before the heads is trained. A backbone of which nothing is
    works as in evaluation: BatchNorm's running values are used and stay, and no stochastic depth is drawn."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UsageError(f"phase of objective {self.objective.kind}: epochs={self.epochs} must be at least 1")
        if self.teacher is not None and not 0.0 <= self.teacher <= 1.0:
            raise UsageError(f"phase of objective {self.objective.kind}: teacher={self.teacher} must be from 0 to 1")

    def trains(self, parameter: str) -> bool:
        """Return whether the parameter of that canonical name is trained; of a phase of `Plan.of_model`."""
        left_out = [pattern[1:] for pattern in self.trained if pattern.startswith("!")]
        assert not HEADS.keys() & {*self.trained, *left_out}, "Plan.of_model says which weights a head has"
        if any(fnmatchcase(parameter, pattern) for pattern in left_out):
            return False
        return any(fnmatchcase(parameter, pattern) for pattern in self.trained)


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

    def trains_classifier(self, model: str) -> bool:
        """Return whether a phase trains the classifier. If none does, there is nothing to predict a finding with."""
        weight = f"{card_of(model).classifier}weight"
        return CLASSIFIER in self.heads and any(phase.trains(weight) for phase in self._phases_of(model))

    @property
    def label(self) -> str:
        """How a table names what was trained."""
        if self.papers_segmentation is not None:
            return f"{'with' if self.papers_segmentation else 'without'} segmentation"
        return " and ".join(dict.fromkeys(phase.objective.kind.replace("_", " ") for phase in self.phases))

    def of_model(self, model: str, parameters: Collection[str]) -> Plan:
        """Return the plan with the names of weights in place of heads, which a phase's `trains` asks for.

        `parameters` are the model's canonical names. `UsageError` if a phase trains none of them, or if none is that of
        the classifier on the backbone's card.
        """
        classifier = card_of(model).classifier
        if not any(name.startswith(classifier) for name in parameters):
            raise UsageError(
                f"model {model}: no parameter begins with {classifier!r}: give its classifier's names in `classifier` "
                "of its card (docs/extending.md, A backbone)"
            )
        phases = self._phases_of(model)
        for index, phase in enumerate(phases):
            if not any(phase.trains(name) for name in parameters):
                raise UsageError(
                    f"phase {index + 1} of the plan trains no parameter of this model: look at its patterns "
                    f"{', '.join(phase.trained) or '(none)'}"
                )
        heads = (classifier, *(weights_prefix(name) for name in auxiliary_heads(self.heads)))
        backbone = [name for name in parameters if not name.startswith(heads)]
        moves = [any(phase.trains(name) for name in backbone) for phase in phases]
        return replace(
            self, phases=tuple(replace(phase, trains_backbone=one) for phase, one in zip(phases, moves, strict=True))
        )

    def _phases_of(self, model: str) -> tuple[Phase, ...]:
        """Return the phases with patterns of weights in place of heads."""
        classifier = card_of(model).classifier
        named = {name: f"{classifier if head.kind == 'classifier' else weights_prefix(name)}*"
                 for name, head in HEADS.items()}  # fmt: skip
        named |= {f"!{name}": f"!{pattern}" for name, pattern in named.items()}
        return tuple(replace(phase, trained=tuple(named.get(p, p) for p in phase.trained)) for phase in self.phases)

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
