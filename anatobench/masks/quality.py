"""Is a mask worth training on? What a person would look at first: sizes, sides, what is missing and what is cut off.

Nothing here rejects a case: `prepare` does that by its own rules. This sorts the masks, so that somebody can look at
the worst ones.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from anatobench.errors import CaseError
from anatobench.masks.scans import Scan
from anatobench.system.progress import progress_bar
from anatobench.system.time_limit import GRACE, reading_seconds
from anatobench.system.worker_pool import TimedOut, WorkerDied, run_in_workers
from anatobench.volumes.label_evidence import VERTEBRAE, check_upright
from anatobench.volumes.mask_fit import best_flip, flip_message
from anatobench.volumes.organs import STRUCTURES, label_structures
from anatobench.volumes.read import read_mask, read_volume
from anatobench.volumes.volume import Mask

PLAUSIBLE_ML: Mapping[str, tuple[float, float]] = {
    "lung_upper_lobe_left": (300, 2200),
    "lung_lower_lobe_left": (250, 2200),
    "lung_upper_lobe_right": (250, 2200),
    "lung_middle_lobe_right": (80, 1000),
    "lung_lower_lobe_right": (250, 2500),
    "heart": (300, 1400),
    "liver": (700, 3500),
    "spleen": (40, 900),
    "kidney_left": (60, 450),
    "kidney_right": (60, 450),
    "bowel": (300, 6000),
}
"""Millilitres of an adult's whole organ: rules of thumb, wide on purpose. Outside them is a reason to look."""
SPANS: Mapping[str, tuple[str, str]] = {
    "lung_upper_lobe_left": ("T3", "T7"),
    "lung_lower_lobe_left": ("T6", "T10"),
    "lung_upper_lobe_right": ("T3", "T6"),
    "lung_middle_lobe_right": ("T6", "T9"),
    "lung_lower_lobe_right": ("T6", "T10"),
    "heart": ("T6", "T9"),
    "liver": ("T11", "L1"),
    "spleen": ("T11", "T12"),
    "kidney_left": ("L1", "L2"),
    "kidney_right": ("L1", "L2"),
    "bowel": ("L2", "L4"),
}
"""Vertebrae beside which an organ is expected: where one of them is seen and the organ is not, it is missing."""
PARTNERS = (
    ("lung_upper_lobe_left", "lung_upper_lobe_right"),
    ("lung_lower_lobe_left", "lung_lower_lobe_right"),
    ("kidney_left", "kidney_right"),
    ("spleen", "liver"),
)
"""(left, right) organs: the first lies further to the patient's left."""
ONE_SIDED = frozenset(PLAUSIBLE_ML) - {"heart", "liver", "bowel"}
"""Organs that do not cross the midline."""
RIGHT_SIDED = frozenset(organ for organ in ONE_SIDED if organ.endswith("_right"))
MAX_OTHER_SIDE = 0.2
MIN_ML = 1.0
"""Less than this is noise and counts as missing."""

MOST_OF_A_VERTEBRA_ML = 30.0

SEVERITY: Mapping[str, float] = {
    "unusable": 5,
    "swapped": 4,
    "missing": 3,
    "both sides": 2,
    "too large": 2,
    "too small": 2,
    "absent, level unknown": 1,
    "cut off": 0,
    "outside the scan": 0,
    "ok": 0,
}
"""Findings, from the worst; what is 0 is as it should be for a scan of this extent."""


@dataclass(frozen=True)
class OrganFinding:
    """One organ of one mask."""

    organ: str
    millilitres: float
    finding: str
    """One of `SEVERITY`."""
    detail: str = ""


@dataclass(frozen=True)
class MaskQuality:
    """What was found in one mask."""

    scan: Scan
    findings: tuple[OrganFinding, ...]

    @property
    def severity(self) -> float:
        """Sum over organs; masks are sorted by it."""
        return sum(SEVERITY[finding.finding] for finding in self.findings)

    @property
    def remarks(self) -> list[str]:
        """The findings that are worth a look, the worst first."""
        noted = [finding for finding in self.findings if SEVERITY[finding.finding] > 0]
        noted.sort(key=lambda finding: -SEVERITY[finding.finding])
        return [f"{f.organ.replace('_', ' ')} {f.finding}{f' ({f.detail})' if f.detail else ''}".strip() for f in noted]


def check_masks(scans: Sequence[Scan], organs: Sequence[str], workers: int, progress: bool = True) -> list[MaskQuality]:
    """Return the quality of every mask that is there, the worst first."""
    with_mask = [scan for scan in scans if scan.mask is not None]
    found: list[MaskQuality] = []
    judge_one = partial(check_mask, organs=tuple(organs))
    with progress_bar(len(with_mask), "check", "mask", disable=not progress) as bar:
        for scan, result in run_in_workers(judge_one, with_mask, workers, time_limit=_seconds_for):
            if isinstance(result, WorkerDied):
                result = _unusable(scan, f"the process that read it ended with exit code {result.exit_code}")
            elif isinstance(result, TimedOut):
                result = _unusable(scan, f"{scan.mask}: given up after {result.seconds:.0f} s")
            found.append(result)
            bar.update()
    return sorted(found, key=lambda quality: (-quality.severity, quality.scan.case_id))


def _seconds_for(scan: Scan) -> float:
    return GRACE * reading_seconds(scan.path, scan.mask)


def check_mask(scan: Scan, organs: Sequence[str]) -> MaskQuality:
    """Measure and judge one mask; a mask that cannot be used has one finding that says why."""
    assert scan.mask is not None
    try:
        mask = read_mask(scan.mask)
        structures = label_structures(mask, scan.mask_labels)
        check_upright(mask, structures)
        with suppress(CaseError):  # of a scan that cannot be read `prepare` says why
            volume = read_volume(scan.path, scan.header, scan.rescale)
            found = best_flip(mask, volume)
            if found is not None:
                return _unusable(scan, f"{scan.mask}: {flip_message(found)}")
    except (CaseError, OSError) as error:
        return _unusable(scan, str(error))
    return MaskQuality(scan, judge(mask, structures, organs))


def judge(mask: Mask, structures: Mapping[int, str], organs: Sequence[str]) -> tuple[OrganFinding, ...]:
    """Return a finding for every organ. `structures` names the mask's labels."""
    measured = {organ: _measure(mask, _labels_of(structures, organ)) for organ in organs}
    levels = _vertebrae_seen(mask, structures)
    midline = _midline(mask, structures)
    return tuple(_judge(organ, measured, levels, midline) for organ in organs)


@dataclass(frozen=True)
class _Measured:
    millilitres: float
    centre_right: float
    """Millimetres, growing to the patient's right."""
    positions_right: np.ndarray
    """The same of each of its voxels."""
    edges: tuple[str, ...]
    """Edges of the scan that it touches."""


EDGES = (("upper", "lower"), ("front", "back"), ("right", "left"))


def _measure(mask: Mask, labels: Sequence[int]) -> _Measured | None:
    """Return None if the organ is not there."""
    table = np.zeros(np.iinfo(mask.labels.dtype).max + 1, dtype=bool)
    table[list(labels)] = True
    here = table[mask.labels]
    millilitres = float(here.sum()) * abs(np.linalg.det(mask.affine[:3, :3])) / 1000
    if millilitres < MIN_ML:
        return None
    edges = tuple(
        name
        for axis, names in enumerate(EDGES)
        for name, index in zip(names, (0, -1), strict=True)
        if here.take(index, axis).any()
    )
    columns = here.sum(axis=(0, 1))
    d, h = ((n - 1) / 2 for n in here.shape[:2])
    positions = np.array([(mask.affine @ [d, h, w, 1])[0] for w in range(here.shape[2])])
    right = np.repeat(positions, columns)
    return _Measured(millilitres, float(right.mean()), right, edges)


def _judge(
    organ: str, measured: Mapping[str, _Measured | None], levels: set[str], midline: float | None
) -> OrganFinding:
    found = measured[organ]
    if found is None:
        return _absent(organ, levels)
    wrong_side = _on_the_wrong_side(organ, found, measured, midline)
    if wrong_side is not None:
        return wrong_side
    low, high = PLAUSIBLE_ML[organ]
    amount = f"{found.millilitres:.0f} ml, plausible {low:g} to {high:g}"
    if found.millilitres > high:
        return OrganFinding(organ, found.millilitres, "too large", amount)
    if found.edges:
        return OrganFinding(organ, found.millilitres, "cut off", f"by the {' and '.join(found.edges)} edge")
    if found.millilitres < low:
        return OrganFinding(organ, found.millilitres, "too small", amount)
    return OrganFinding(organ, found.millilitres, "ok")


def _on_the_wrong_side(
    organ: str, found: _Measured, measured: Mapping[str, _Measured | None], midline: float | None
) -> OrganFinding | None:
    for left, right in PARTNERS:
        first, second = measured.get(left), measured.get(right)
        if organ in (left, right) and first and second and first.centre_right > second.centre_right:
            partner = (right if organ == left else left).replace("_", " ")
            return OrganFinding(organ, found.millilitres, "swapped", f"on the wrong side of {partner}")
    if organ not in ONE_SIDED or midline is None:
        return None
    beyond = float((found.positions_right > midline).mean())
    if organ in RIGHT_SIDED:
        beyond = 1 - beyond
    if beyond <= MAX_OTHER_SIDE:
        return None
    return OrganFinding(organ, found.millilitres, "both sides", f"{beyond:.0%} beyond the midline")


def _absent(organ: str, levels: set[str]) -> OrganFinding:
    """Missing, or not to be expected in a scan of this extent? The spine tells how far it reaches."""
    if not levels:
        return OrganFinding(organ, 0.0, "absent, level unknown", "the mask shows no vertebra")
    names = list(VERTEBRAE)
    first, last = (names.index(f"vertebrae_{level}") for level in SPANS[organ])
    seen = [name for name in names[first : last + 1] if name in levels]
    if seen:
        return OrganFinding(organ, 0.0, "missing", f"though {seen[0].replace('vertebrae_', 'vertebra ')} is seen")
    return OrganFinding(organ, 0.0, "outside the scan", "none of the vertebrae beside it is seen")


def _labels_of(structures: Mapping[int, str], organ: str) -> list[int]:
    return [label for label, name in structures.items() if name in STRUCTURES.get(organ, (organ,))]


def _vertebrae_seen(mask: Mask, structures: Mapping[int, str]) -> set[str]:
    """Vertebrae that the first and last slices do not cut, or of which most is there all the same."""
    cut = set(np.unique(mask.labels[[0, -1]]).tolist())
    voxel_ml = abs(np.linalg.det(mask.affine[:3, :3])) / 1000
    counts = np.zeros(np.iinfo(mask.labels.dtype).max + 1, dtype=np.int64)
    for plane in mask.labels:
        counts += np.bincount(plane.reshape(-1), minlength=len(counts))
    return {
        name
        for label, name in structures.items()
        if name in VERTEBRAE and counts[label] * voxel_ml >= (MOST_OF_A_VERTEBRA_ML if label in cut else MIN_ML)
    }


def _midline(mask: Mask, structures: Mapping[int, str]) -> float | None:
    """Return the spine's place, in millimetres to the right; None without one."""
    spine = [label for label, name in structures.items() if name in VERTEBRAE or name == "spinal_cord"]
    measured = _measure(mask, spine) if spine else None
    return None if measured is None else measured.centre_right


def _unusable(scan: Scan, message: str) -> MaskQuality:
    return MaskQuality(scan, (OrganFinding("", 0.0, "unusable", message),))


def quality_table(qualities: Sequence[MaskQuality]) -> bytes:
    """Return the content of `quality.csv`: one row per mask and organ, the worst masks first."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("case_id", "organ", "millilitres", "finding", "detail", "mask"))
    for quality in qualities:
        for one in quality.findings:
            row = (quality.scan.case_id, one.organ, f"{one.millilitres:.1f}", one.finding, one.detail)
            writer.writerow((*row, str(quality.scan.mask)))
    return text.getvalue().encode(errors="backslashreplace")
