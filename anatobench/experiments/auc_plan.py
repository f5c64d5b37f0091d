"""An AUC study that is declared before it runs: what is asked, from how many seeds, and how it will be judged.

The plan is a file (JSON, format 1): `declared` (the day), `study` (auc_study.py), `hypotheses` (each with the deviation
that a pilot found, the seeds that the wished power takes and the power that the study's seeds have), `pilot` (its file
and digest) and `analysis`. Its digest stands in the record.

OUT/plan.json          what the study was begun with, byte for byte
OUT/plan_changes.json  what was changed since, each with its day, its reason and the runs that were done by then
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.errors import AnatoBenchError, UsageError
from anatobench.evaluation.metrics import BOOTSTRAP_REPLICATES
from anatobench.evaluation.whole_scan import GIVEN_AWAY
from anatobench.experiments.auc_study import GROWING, NUDGE, STUDY_FILE, AucStudy, name_of
from anatobench.experiments.grid import MACRO
from anatobench.experiments.results import paired
from anatobench.experiments.runs import ABSENT, DONE, read_settings, settings_from, state_of, told, what_changed
from anatobench.experiments.statistics import SIGNIFICANCE, equivalence_power, fewest_seeds, gain_power
from anatobench.recipes import FRAMEWORKS
from anatobench.system.json_text import json_bytes, parse_json, read_json, typed_fields

KIND, FORMAT = "auc_plan", 1
PLAN_FILE, CHANGES_FILE = "plan.json", "plan_changes.json"
CHANGEABLE = (*GROWING, "margin")
"""Settings that may change after the start: what else differs is another study."""
EQUIVALENT, GAIN, ABOVE_CHANCE = "equivalent", "gain", "above_chance"
_NO_PLAN = (ValueError, TypeError, KeyError, UsageError)
"""What reading raises of JSON that is none."""


@dataclass(frozen=True)
class Hypothesis:
    """One member of the family that a study tests."""

    kind: str
    model: str
    segmentation: bool | None
    """Of which arm; None for a gain, which is of both."""

    def statement(self, margin: float) -> str:
        """Say it in words."""
        arm = "with" if self.segmentation else "without"
        return {
            EQUIVALENT: f"{self.model} {arm} segmentation: both frameworks reach the same AUC within "
                        f"{100 * margin:g} points",
            GAIN: f"{self.model}: segmentation supervision raises the AUC",
            ABOVE_CHANCE: f"{self.model} {arm} segmentation: the AUC is above 0.5",
        }[self.kind]  # fmt: skip


FAMILY = ((EQUIVALENT, True), (EQUIVALENT, False), (GAIN, None), (ABOVE_CHANCE, False))
"""Of each backbone, with the arm: whether the frameworks agree with and without supervision, whether supervision helps,
and whether the arm without it has learned anything that could be helped."""


def hypotheses_of(study: AucStudy) -> tuple[Hypothesis, ...]:
    """Return the family that a study tests."""
    return tuple(Hypothesis(kind, model, segmentation) for model in study.models for kind, segmentation in FAMILY)


def analysis_of(study: AucStudy) -> dict[str, str]:
    """Return how the runs will be judged, in words."""
    tenth = f"of every {study.steps} steps about ten evaluations" if study.validation_fraction else "no evaluation"
    checkpoint = "the best on validation patients" if study.validation_fraction else "the last"
    rate = (
        f"per backbone and arm the best mean validation AUC of {study.choice_seeds} run(s) of PyTorch at each of "
        f"{', '.join(f'{rate:g}' for rate in study.learning_rates)}"
        if study.learning_rates
        else "given, not chosen in this study"
    )
    return {
        "learning rate": rate,
        "checkpoint": f"{checkpoint} ({tenth} on them)",
        "measure": "macro AUC of the test patients",
        "pairs": "both frameworks and the control begin with the same weights and see the same batches; the control is "
                 f"{FRAMEWORKS[0]} again, its learning rate larger by {NUDGE:g}",
        "intervals": f"95 %: Student's t over seeds, and seeds and patients both drawn anew ({BOOTSTRAP_REPLICATES} "
                     "replicates)",
        EQUIVALENT: f"two one-sided paired t tests within {study.margin:g} AUC, per backbone and arm, nothing pooled",
        GAIN: "one-sided paired t test of the mean gain of both frameworks; also per class, and without the classes "
              f"that one statistic of the whole scan tells with an AUC of {GIVEN_AWAY:g} or more on training cases",
        ABOVE_CHANCE: "one-sided t test of the mean AUC of both frameworks",
        "family": f"Holm over all hypotheses at {SIGNIFICANCE:g}",
    }  # fmt: skip


def declare(study: AucStudy, pilot: Path | None, power: float, day: str | None = None) -> dict[str, Any]:
    """Return the plan of a study, with its power by the deviations that a pilot's record shows."""
    cells = [] if pilot is None else _cells_of(pilot)
    return {
        "kind": KIND,
        "format": FORMAT,
        "declared": day or _today(),
        "study": study.to_json(),
        "hypotheses": [
            {**asdict(one), "statement": one.statement(study.margin), **_power_of(one, cells, study, power)}
            for one in hypotheses_of(study)
        ],
        "wished_power": power,
        "pilot": None if pilot is None else {"file": pilot.name, "digest": digest_of(pilot.read_bytes())},
        "analysis": analysis_of(study),
    }


def seeds_for(study: AucStudy, pilot: Path, power: float) -> int:
    """Return how many seeds the whole family takes for that power; `UsageError` if the pilot does not say, or if it
    takes more than can be."""
    rows = declare(study, pilot, power)["hypotheses"]
    open_ones = [row["statement"] for row in rows if row["seeds_needed"] is None]
    if open_ones:
        raise UsageError(f"--seeds: {pilot} does not say how many it takes for: {'; '.join(open_ones)}: give a number")
    return max(int(row["seeds_needed"]) for row in rows)


def _power_of(one: Hypothesis, cells: Sequence[Mapping[str, Any]], study: AucStudy, power: float) -> dict[str, Any]:
    """Return the pilot's deviation and what it means at the strictest step of Holm's procedure."""
    values = list(_pilot_values(one, cells))
    if len(values) < 2:
        return {"pilot_seeds": len(values), "deviation": None, "seeds_needed": None, "power": None}
    deviation, alpha = float(np.std(values, ddof=1)), SIGNIFICANCE / len(hypotheses_of(study))
    chance = equivalence_power if one.kind == EQUIVALENT else gain_power  # a gain that matters is the margin's size
    return {
        "pilot_seeds": len(values),
        "deviation": deviation,
        "seeds_needed": fewest_seeds(lambda seeds: chance(deviation, study.margin, seeds, alpha), power),
        "power": chance(deviation, study.margin, study.seeds, alpha) if study.seeds > 1 else None,
    }


def _pilot_values(one: Hypothesis, cells: Sequence[Mapping[str, Any]]) -> Iterable[float]:
    """Return of each seed what the hypothesis is about."""

    def auc(framework: str, segmentation: bool | None) -> dict[int, float]:
        return {cell["seed"]: cell["auc"][MACRO] for cell in cells if not cell["nudged"] and cell["model"] == one.model
                and cell["framework"] == framework and cell["segmentation"] == segmentation}  # fmt: skip

    reference, candidate = FRAMEWORKS
    if one.kind == EQUIVALENT:
        return paired(auc(candidate, one.segmentation), auc(reference, one.segmentation)).values()
    if one.kind == GAIN:
        both = [paired(auc(framework, True), auc(framework, False)) for framework in FRAMEWORKS]
    else:
        both = [auc(framework, one.segmentation) for framework in FRAMEWORKS]
    return [(both[0][seed] + both[1][seed]) / 2 for seed in both[0] if seed in both[1]]


def _cells_of(pilot: Path) -> list[dict[str, Any]]:
    record = read_json(pilot)
    try:
        if record["kind"] not in ("auc_study", "auc_pilot"):
            raise KeyError("kind")
        return [{name: cell[name] for name in ("model", "framework", "segmentation", "seed", "nudged", "auc")}
                for cell in record["cells"]]  # fmt: skip
    except (KeyError, TypeError) as error:
        raise AnatoBenchError(f"{pilot}: not the record of an AUC study ({error!r}): give OUT/record.json") from None


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of a plan or record, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def read_plan(path: Path) -> tuple[AucStudy, bytes]:
    """Return the study that a plan declares, and the file's bytes; `AnatoBenchError` if it is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AnatoBenchError(f"{path}: cannot be read ({error.strerror}): see `experiments declare`") from None
    try:
        return _study_in(content), content
    except _NO_PLAN as error:
        raise AnatoBenchError(f"{path}: not a declared study ({error}): see `experiments declare`") from None


def _study_in(content: bytes) -> AucStudy:
    """Return the study that a plan's text declares; one of `_NO_PLAN` if it declares none."""
    plan = parse_json(content)
    if plan["kind"] != KIND or plan["format"] != FORMAT:
        raise ValueError("other kind or format")
    return settings_from(plan["study"], AucStudy)


def plan_to_keep(study: AucStudy, content: bytes, out: Path, reason: str | None) -> tuple[Path, bytes] | None:
    """Return what is to be written into the study's folder so that it says what was planned, and changed since; None if
    it does so already.

    A plan that differs from the one the study was begun with needs a `reason` and may differ in `CHANGEABLE` settings
    alone. A study that was begun without a plan cannot be declared afterwards.
    """
    kept = out / PLAN_FILE
    if not kept.is_file():
        begun = read_settings(out / STUDY_FILE, AucStudy)
        if begun is not None and any(state_of(out, name_of(cell)) != ABSENT for cell in begun.cells):
            raise AnatoBenchError(f"{out}: has runs that were not declared before they ran: choose another --out")
        return kept, content
    was, before = read_plan(kept)
    earlier = changes_of(out)
    if earlier:
        before = earlier[-1]["plan"].encode()
        was = _study_in(before)
    if before == content:
        return None
    changed = what_changed(was.to_json(), study.to_json())
    said = told(changed) or "other words"
    if set(changed) - set(CHANGEABLE):
        raise AnatoBenchError(f"{out}: was begun with another plan ({said}): only {', '.join(CHANGEABLE)} can change "
                              "after the start: choose another --out")  # fmt: skip
    if reason is None:
        raise AnatoBenchError(f"{out}: was begun with another plan ({said}): go on with that one, or say why it "
                              "changes (--amend REASON), which the record will show")  # fmt: skip
    done = sum(state_of(out, name_of(cell)) == DONE for cell in study.cells)
    entry = PlanChange(_today(), reason, changed, done, digest_of(content), content.decode())
    return out / CHANGES_FILE, json_bytes([*earlier, asdict(entry)])


@dataclass(frozen=True)
class PlanChange:
    """An entry of `plan_changes.json`."""

    day: str
    reason: str
    changed: dict[str, list[Any]]
    """By the name of a setting what it was and what it is."""
    runs_done: int
    digest: str
    plan: str
    """The text of the new one."""


def changes_of(out: Path) -> list[dict[str, Any]]:
    """Return what was changed after the start, each as `PlanChange`; `AnatoBenchError` if the file is damaged."""
    path = out / CHANGES_FILE
    found: list[dict[str, Any]] = read_json(path) if path.is_file() else []
    try:
        if not isinstance(found, list):
            raise ValueError("no list")
        for number, change in enumerate(found, start=1):
            typed_fields(PlanChange, change, f"change {number}.")
            if not isinstance(change["changed"], dict):
                raise ValueError(f"change {number}.changed must be an object")
            told(change["changed"])  # each is what it was and what it is
            _study_in(change["plan"].encode())
    except _NO_PLAN as error:
        raise AnatoBenchError(
            f"{path}: not the changes of a plan ({error}): put the study's own file back, or choose another --out"
        ) from None
    return found


def plan_in(out: Path) -> dict[str, Any] | None:
    """Return what the record says of the plan: the first one with its digest and the changes; None of a study that
    nobody declared."""
    if not (out / PLAN_FILE).is_file():
        return None
    _, content = read_plan(out / PLAN_FILE)
    since = [{name: value for name, value in change.items() if name != "plan"} for change in changes_of(out)]
    return {"digest": digest_of(content), "plan": parse_json(content), "changes": since}
