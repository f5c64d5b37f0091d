"""Which classes of a task a case's mask annotates: what one source drew is not what another one did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from anatobench.datasets.case import Case
from anatobench.errors import CaseError
from anatobench.tasks import Task
from anatobench.volumes.mask_templates import template_of
from anatobench.volumes.organ_folder import structure_files
from anatobench.volumes.organs import STRUCTURES

SEPARATOR = ";"


def named_classes(task: Task, text: str) -> tuple[str, ...]:
    """Return the classes of a text such as `liver;spleen`; `CaseError` (`bad-annotated`) for one the task has not."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(SEPARATOR) if name.strip()))
    known = [one.name for one in task.mask_classes]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise CaseError(
            "bad-annotated",
            f"annotated {text!r}: write names of {', '.join(known)} with {SEPARATOR} between them, or nothing for all",
        )
    return names


def classes_of_structures(task: Task, structures: Collection[str]) -> tuple[str, ...]:
    """Return the classes of which every part was drawn by a source that drew these structures.

    An organ that is a union (the bowel) is annotated if it is itself or if all of its parts are: where a part is
    missing, so would be voxels of the organ.
    """
    return tuple(one.name for one in task.mask_classes if all(_is_drawn(organ, structures) for organ in one.organs))


def annotated_classes(case: Case, task: Task) -> tuple[str, ...] | None:
    """Return what the case says, or else its mask: the template that names its source, or the files of a folder. None
    for all of them.

    Raises `CaseError`: `bad-annotated` for classes that the mask does not annotate (they would be taken for absent) and
    for a template of a folder, `duplicate-organ` as `structure_files`.
    """
    if case.mask is None:
        return case.annotated
    template = template_of(case.mask_labels)
    if case.mask.is_dir():
        if template is not None:
            raise CaseError(
                "bad-annotated",
                f"{case.mask}: its files say which organs are annotated, {case.mask_labels} says it too: leave the "
                "template out",
            )
        drawn, source = classes_of_structures(task, structure_files(case.mask)), "has no file"
    elif template is not None:
        drawn, source = classes_of_structures(task, template), f"is of {case.mask_labels}, which has no structure"
    else:
        return case.annotated
    beyond = [name for name in case.annotated or () if name not in drawn]
    if beyond:
        raise CaseError(
            "bad-annotated", f"{case.mask}: {source} for {', '.join(beyond)}: take {beyond[0]} out of its annotated"
        )
    return drawn if case.annotated is None else case.annotated


def annotated_note(task: Task, cases: Iterable[Case]) -> str:
    """Return the summary's sentence on how many scans annotate each class; of cases that `annotated_classes` takes."""
    counts = Counter[str]()
    for case in cases:
        if case.mask is not None:
            names = annotated_classes(case, task)
            counts.update([one.name for one in task.mask_classes] if names is None else names)
    return "annotated: " + ", ".join(f"{one.name} in {counts[one.name]}" for one in task.mask_classes)


def annotated_row(task: Task, names: Sequence[str] | None) -> tuple[int, ...] | None:
    """Return 1 or 0 for each of the task's classes; None (all of them) for None."""
    return None if names is None else tuple(int(one.name in names) for one in task.mask_classes)


def _is_drawn(organ: str, structures: Collection[str]) -> bool:
    parts = [part for part in STRUCTURES.get(organ, ()) if part != organ]
    return organ in structures or (bool(parts) and all(part in structures for part in parts))
