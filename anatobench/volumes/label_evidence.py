"""Which label map does a mask use? Anatomy answers where the file does not.

Each candidate map claims where organs lie and how large they are. The claims on which the candidates differ are checked
against the mask: the right map keeps nearly all of them, a wrong one (adrenal glands of two litres, a left lobe on the
right) breaks many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from anatobench.errors import CaseError
from anatobench.volumes.volume import Mask

MEASURING_STEP_MM = 4.0
"""Organs are measured on every n-th voxel, about this far apart."""
SIDE_MARGIN_MM = 10.0
"""Nearer to the middle than this, a structure is on neither side."""
RIGHT_MAP_KEEPS, WRONG_MAP_KEEPS = 0.97, 0.5
"""Share of its claims that a map keeps if it is the right one (found on real masks: 80 to 100 %) or a wrong one."""
MIN_EVIDENCE, MIN_LEAD = 1.5, 3.0
"""Log-odds of the map that is believed, and how far it must be ahead of every other."""
MIN_SIDES = 3
"""Fewer comparisons of left and right prove nothing."""

LabelMap = Mapping[int, str]

_PAIRED_STEMS = (
    *("lung_upper_lobe", "lung_lower_lobe", "kidney", "adrenal_gland", "humerus", "scapula", "clavicula", "femur"),
    *("hip", "gluteus_maximus", "gluteus_medius", "gluteus_minimus", "autochthon", "iliopsoas", "iliac_artery"),
    "iliac_vena",
)
PAIRS = (
    *((f"{stem}_left", f"{stem}_right") for stem in _PAIRED_STEMS),
    *((f"rib_left_{number}", f"rib_right_{number}") for number in range(1, 13)),
)
"""(left, right) structures that lie on their sides of the body."""
ON_THE_LEFT = ("spleen", *(left for left, _ in PAIRS))
ON_THE_RIGHT = ("liver", "gallbladder", "lung_middle_lobe_right", *(right for _, right in PAIRS))
LEFT_OF = (
    *(("spleen", "liver"), ("spleen", "kidney_right"), ("spleen", "gallbladder"), ("kidney_left", "liver")),
    *(("stomach", "liver"), ("stomach", "gallbladder"), ("lung_lower_lobe_left", "liver")),
    *(("spleen", "lung_lower_lobe_right"), ("lung_upper_lobe_left", "lung_middle_lobe_right")),
)
ABOVE = (
    *(("lung_upper_lobe_left", "lung_lower_lobe_left"), ("lung_upper_lobe_right", "lung_lower_lobe_right")),
    *(("lung_upper_lobe_right", "lung_middle_lobe_right"), ("lung_lower_lobe_left", "kidney_left")),
    *(
        ("lung_lower_lobe_right", "kidney_right"),
        ("lung_lower_lobe_right", "liver"),
        ("lung_lower_lobe_left", "spleen"),
    ),
    *(("trachea", "heart"), ("trachea", "liver"), ("thyroid_gland", "trachea"), ("thyroid_gland", "heart")),
    *(("heart", "liver"), ("heart", "kidney_left"), ("heart_ventricle_left", "liver"), ("esophagus", "kidney_left")),
    *(("brain", "heart"), ("liver", "urinary_bladder"), ("colon", "urinary_bladder"), ("liver", "sacrum")),
    *(("esophagus", "small_bowel"), ("esophagus", "colon"), ("esophagus", "stomach"), ("spleen", "small_bowel")),
    *(("liver", "small_bowel"), ("stomach", "small_bowel"), ("heart", "stomach"), ("liver", "colon")),
)
UPRIGHT = (
    *ABOVE,
    *(("lung_upper_lobe_left", "heart"), ("lung_upper_lobe_right", "heart")),
    *(("lung_upper_lobe_right", "lung_lower_lobe_left"), ("lung_upper_lobe_left", "lung_lower_lobe_right")),
    *((upper, lower) for upper in ("liver", "spleen") for lower in ("kidney_left", "kidney_right", "bowel")),
    *(("heart", "bowel"), ("heart", "kidney_right"), ("heart", "spleen")),
)
"""(upper, lower) structures, with those that hardly tell label maps apart but do tell a mask that is upside down."""
IN_FRONT_OF = (
    *((front, kidney) for front in ("liver", "stomach", "bowel", "small_bowel", "colon", "pancreas", "duodenum")
      for kidney in ("kidney_left", "kidney_right")),
    *(("liver", "spleen"), ("stomach", "spleen"), ("heart", "esophagus"), ("trachea", "esophagus"), ("heart", "aorta")),
    *(("heart", "lung_lower_lobe_left"), ("heart", "lung_lower_lobe_right"), ("sternum", "heart")),
    *(("lung_middle_lobe_right", "lung_lower_lobe_right"), ("lung_upper_lobe_left", "lung_lower_lobe_left")),
    *(("lung_upper_lobe_right", "lung_lower_lobe_right"), ("lung_upper_lobe_right", "lung_lower_lobe_left")),
    *((front, muscle) for front in ("liver", "stomach", "heart", "colon", "aorta")
      for muscle in ("autochthon_left", "autochthon_right")),
    *(("heart", "spinal_cord"), ("liver", "spinal_cord"), ("aorta", "spinal_cord")),
)  # fmt: skip
"""(front, back) structures."""
VERTEBRAE = tuple(
    f"vertebrae_{group}{number}" for group, count in (("C", 7), ("T", 12), ("L", 5)) for number in range(1, count + 1)
)
"""From the top down."""
IN_FRONT_OF_THE_SPINE = ("liver", "stomach")
LARGEST_ML: Mapping[str, float] = {
    "adrenal_gland": 50,
    "aorta": 1000,
    "atrial_appendage": 80,
    "brachiocephalic": 100,
    "common_carotid": 60,
    "duodenum": 350,
    "esophagus": 250,
    "gallbladder": 500,
    "kidney_left": 1000,
    "kidney_right": 1000,
    "pancreas": 400,
    "portal_vein": 200,
    "prostate": 500,
    "rib_": 100,
    "subclavian": 80,
    "superior_vena_cava": 120,
    "thyroid_gland": 250,
    "trachea": 200,
    "vertebrae_": 200,
}
"""By the beginning of the name; well above what is normal, so that disease passes and a wrong map does not."""
SMALLEST_ML: Mapping[str, float] = {"lung_": 60, "liver": 300}
"""Of structures that lie wholly inside the mask."""


@dataclass(frozen=True)
class Measured:
    """A label's voxels, roughly."""

    right_mm: float
    """Centre: relative to the middle of everything labelled, growing to the patient's right."""
    front_mm: float
    up_mm: float
    millilitres: float
    whole: bool
    """Not cut by the first or last slice."""


def choose_by_anatomy(mask: Mask, candidates: Mapping[str, LabelMap]) -> str:
    """Return the one candidate map whose claims hold; `CaseError` (`ambiguous-mask-labels`) if that is not exactly
    one."""
    evidence = _evidence(measure(mask), candidates)
    if len(evidence) == 1:
        return next(iter(evidence))
    best, second = sorted(evidence, key=evidence.__getitem__, reverse=True)[:2]
    if evidence[best] < MIN_EVIDENCE or evidence[best] - evidence[second] < MIN_LEAD:
        raise CaseError(
            "ambiguous-mask-labels",
            f"its labels could be {' or '.join(evidence)}, and the organs' places do not decide: name its label map "
            "(a manifest's column mask_labels)",
        )
    return best


def contradicted_by_anatomy(mask: Mask, candidates: Mapping[str, LabelMap], chosen: str) -> str | None:
    """Return a candidate that anatomy supports while it speaks against `chosen`, or None."""
    evidence = _evidence(measure(mask), candidates)
    best = max(evidence, key=evidence.__getitem__)
    against = evidence.get(chosen, 0.0)
    if against >= 0 or evidence[best] < MIN_EVIDENCE or evidence[best] - against < MIN_LEAD:
        return None
    return best


def check_sides(mask: Mask, structures: LabelMap) -> None:
    """Raise `CaseError` (`mirrored-mask`) if most of the structures that have a side lie on the other one."""
    places = _places(measure(mask), structures)
    kept = [holds for _, holds in _sideways_claims(places)]
    if len(kept) >= MIN_SIDES and sum(kept) * 2 < len(kept):
        raise CaseError(
            "mirrored-mask",
            f"{len(kept) - sum(kept)} of {len(kept)} comparisons find left organs on the patient's right: its "
            "affine is mirrored or its label map another one (or, rarely, the patient is: leave the mask out)",
        )


def check_upright(mask: Mask, structures: LabelMap) -> None:
    """Raise `CaseError` (`mirrored-mask`) if most upper structures lie below lower ones, or front behind back ones."""
    places = _places(measure(mask), structures)
    spine = [name for name in VERTEBRAE if name in places]
    for axis, pairs, found in (
        ("up_mm", (*UPRIGHT, *pairwise(spine)), "upper organs below lower ones: it is upside down"),
        (
            "front_mm",
            (*IN_FRONT_OF, *product(IN_FRONT_OF_THE_SPINE, spine)),
            "front organs behind back ones: its front is behind",
        ),
    ):
        present = {(one, other) for one, other in pairs if one in places and other in places}
        kept = sum(getattr(places[one], axis) > getattr(places[other], axis) for one, other in present)
        if len(present) >= MIN_SIDES and kept * 2 < len(present):
            raise CaseError(
                "mirrored-mask",
                f"{len(present) - kept} of {len(present)} comparisons find {found}, so its voxels or its affine are "
                "flipped against the scan",
            )


def measure(mask: Mask) -> dict[int, Measured]:
    """Centre and volume of every label but 0, from every n-th voxel."""
    steps = [max(1, round(MEASURING_STEP_MM / spacing)) for spacing in mask.grid.spacing]
    labels = mask.labels[:: steps[0], :: steps[1], :: steps[2]]
    d, h, w = np.nonzero(labels)
    found = labels[d, h, w]
    if not len(found):
        return {}
    indices = np.stack([d, h, w]) * np.array(steps)[:, None]
    right, front, up = mask.affine[:3, :3] @ indices + mask.affine[:3, 3:]
    middle = (right.min() + right.max()) / 2
    counts = np.bincount(found)
    millilitres = abs(np.linalg.det(mask.affine[:3, :3])) * np.prod(steps) / 1000
    cut = set(np.unique(labels[[0, -1]]).tolist())
    centre_right = np.bincount(found, weights=right - middle)
    centre_front = np.bincount(found, weights=front)
    centre_up = np.bincount(found, weights=up)
    return {
        label: Measured(
            right_mm=float(centre_right[label] / counts[label]),
            front_mm=float(centre_front[label] / counts[label]),
            up_mm=float(centre_up[label] / counts[label]),
            millilitres=float(counts[label] * millilitres),
            whole=label not in cut,
        )
        for label in np.flatnonzero(counts).tolist()
    }


_Claim = tuple[tuple[str, ...], bool]
"""The structures that a claim is about, and whether it holds."""


def _evidence(measured: Mapping[int, Measured], candidates: Mapping[str, LabelMap]) -> dict[str, float]:
    """Log-odds that each candidate is the right map, from the claims about labels that the candidates read differently.

    Of candidates that read every present label alike only the first is listed.
    """
    readings = {name: tuple(labels.get(label) for label in measured) for name, labels in candidates.items()}
    distinct = {reading: name for name, reading in reversed(readings.items())}
    disputed = [label for label, *names in zip(measured, *distinct, strict=True) if len(set(names)) > 1]
    for_kept = math.log(RIGHT_MAP_KEEPS / WRONG_MAP_KEEPS)
    for_broken = math.log((1 - RIGHT_MAP_KEEPS) / (1 - WRONG_MAP_KEEPS))
    evidence = {}
    for name in candidates:
        if name in distinct.values():
            about = {candidates[name].get(label) for label in disputed}
            claims = _all_claims(_places(measured, candidates[name]))
            evidence[name] = sum(
                for_kept if holds else for_broken for structures, holds in claims if about.intersection(structures)
            )
    return evidence


def _places(measured: Mapping[int, Measured], labels: LabelMap) -> dict[str, Measured]:
    return {labels[label]: place for label, place in measured.items() if label in labels}


def _all_claims(places: Mapping[str, Measured]) -> Iterator[_Claim]:
    yield from _sideways_claims(places)
    for upper, lower in ABOVE:
        if upper in places and lower in places:
            yield (upper, lower), places[upper].up_mm > places[lower].up_mm
    spine = [name for name in VERTEBRAE if name in places]
    for upper, lower in pairwise(spine):
        yield (upper, lower), places[upper].up_mm > places[lower].up_mm
    for name, organ in product(spine, IN_FRONT_OF_THE_SPINE):
        if organ in places:
            yield (name, organ), places[name].front_mm < places[organ].front_mm
    for name, place in places.items():
        for beginning, limit in LARGEST_ML.items():
            if name.startswith(beginning):
                yield (name,), place.millilitres <= limit
        for beginning, limit in SMALLEST_ML.items():
            if name.startswith(beginning) and place.whole:
                yield (name,), place.millilitres >= limit


def _sideways_claims(places: Mapping[str, Measured]) -> Iterator[_Claim]:
    for left, right in (*PAIRS, *LEFT_OF):
        if left in places and right in places:
            yield (left, right), places[left].right_mm < places[right].right_mm
    for name in {*ON_THE_LEFT, *ON_THE_RIGHT} & places.keys():
        if abs(places[name].right_mm) > SIDE_MARGIN_MM:
            yield (name,), (places[name].right_mm > 0) == (name in ON_THE_RIGHT)
