"""The AUC study: does a port reproduce the reference's AUC, and does segmentation supervision raise it?

On one synthetic cohort every backbone is trained with and without the auxiliary head, from several seeds, in both
frameworks. The second framework begins with the weights that the first drew and sees the same batches, so a pair
differs by arithmetic alone, or with `dropout` by what each framework draws, too. The seed moves initial weights, order
of cases, crops and dropout; the cohort and its split are the same for all.

Training amplifies rounding, so two runs part that begin as good as equal. How far is measured by a control: the first
framework once more, its learning rate larger by a millionth.

Its runs are cells of the grid, of a table of its own: `AucStudy.conditions`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anatobench.backbones import CARDS, card_of
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.experiments.child_processes import Command
from anatobench.experiments.grid import Cell, Condition
from anatobench.experiments.runs import PlannedRun, initial_weights_of, keep_settings, read_settings
from anatobench.phantom.cohort import FORMATS
from anatobench.phantom.plan import CohortPlan
from anatobench.recipes import FRAMEWORKS, MODELS
from anatobench.tasks import get_task
from anatobench.training.run_folder import configure

STUDY_FILE = "study.json"
GROWING = ("models", "seeds", "control_seeds")
"""Settings that may name more runs when a study goes on."""
COHORT_SEED = 5
NUDGE = 1e-6
"""By what part the control's learning rate is larger."""


@dataclass(frozen=True)
class AucStudy:
    """What is run; saved with the results."""

    task: str = "ct_rate"
    """Whose cohort. In minutes on a CPU the tiny transformers learn chests, but of abdomens next to nothing."""
    models: tuple[str, ...] = tuple(name for name, card in CARDS.items() if card.tiny_learning_rate is not None)
    """By default every backbone whose card has a learning rate for it."""
    seeds: int = 3
    """Repetitions: seeds 0, 1, ..."""
    control_seeds: int | None = None
    """Repetitions that have the control; None for all."""
    cases: int = 700
    """Synthetic patients, about 80 % of them for training."""
    steps: int = 2000
    batch_size: int = 4
    learning_rate: float | None = None
    """Of every model; None takes those of the cards, higher than the paper's: the models are tiny and trained
    for minutes."""
    dropout: bool = False
    """Dropout and stochastic depth. Off, a pair's difference is not blurred by what each framework draws at random."""
    injuries: str = "typical"
    """As `CohortPlan.injuries`: other than typical for `ratic` alone."""
    margin: float = 0.02
    """Frameworks are called equivalent within so much AUC."""

    def __post_init__(self) -> None:
        if not self.models or set(self.models) - set(MODELS):
            raise UsageError(f"--models {','.join(self.models)}: choose from {', '.join(MODELS)}")
        if self.seeds < 1 or self.cases < 20 or self.steps < 1 or self.batch_size < 1:
            raise UsageError("--seeds, --steps and --batch-size must be at least 1, --cases at least 20")
        if self.control_seeds is not None and not 1 <= self.control_seeds <= self.seeds:
            raise UsageError(f"--control-seeds {self.control_seeds}: from 1 to --seeds")
        get_task(self.task)
        CohortPlan(self.task, "tiny", COHORT_SEED, self.cases, self.injuries)  # refuses what no cohort can be of
        if not ((self.learning_rate is None or self.learning_rate > 0) and 0 < self.margin < 0.5):
            raise UsageError("--learning-rate must be above 0 and --margin between 0 and 0.5")
        for model in self.models:
            self.learning_rate_of(model)  # refuses a backbone for which nobody has chosen one

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "models": list(self.models)}

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Every model with and without segmentation."""
        return tuple(
            Condition(self.task, model, pretrained=False, segmentation_weight=weight)
            for model in self.models
            for weight in (1.0, 0.0)
        )

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every run."""
        return tuple(cell for group in self.groups for cell in group)

    @property
    def groups(self) -> tuple[tuple[Cell, ...], ...]:
        """The runs that begin with the same weights and see the same batches: one per framework, and the control."""
        controls = self.seeds if self.control_seeds is None else self.control_seeds
        return tuple(
            (
                *(Cell(condition, framework, seed) for framework in FRAMEWORKS),
                *(Cell(condition, FRAMEWORKS[0], seed, nudged=True) for _ in range(seed < controls)),
            )
            for seed in range(self.seeds)
            for condition in self.conditions
        )

    def learning_rate_of(self, model: str) -> float:
        """Return the rate of the model's runs but the control's."""
        return self.learning_rate or card_of(model).study_learning_rate()

    def settings_of(self, cell: Cell) -> tuple[str, ...]:
        """Return the changes of the paper's recipe for a run."""
        learning_rate = self.learning_rate_of(cell.condition.model)
        return (
            f"batch_size={self.batch_size}",
            f"learning_rate={learning_rate * (1 + NUDGE) if cell.nudged else learning_rate}",
            f"dropout={self.dropout}",
            f"epochs={self.steps}",  # more than enough: max_steps ends the run and its schedule
            f"seed={cell.seed}",
            *cell.condition.settings,
        )


def name_of(cell: Cell) -> str:
    """Return the name of a run's folder, as it always was: the study has one task, and nothing pretrained."""
    condition = cell.condition
    return f"{condition.model}_{condition.supervision_name}_seed{cell.seed}_{cell.arm}"


def store_of(out: Path) -> Path:
    """Return the prepared cohort."""
    return out / "store"


def cohort_commands(study: AucStudy, out: Path) -> list[Command]:
    """Write the cohort and prepare it; both go on where they stopped."""
    raw = out / "raw"
    phantom = ["phantom", "--format", study.task, "--size", "tiny", "--injuries", study.injuries,
               "--cases", str(study.cases), "--seed", str(COHORT_SEED), "--out", str(raw)]  # fmt: skip
    prepare = ["prepare", "--dataset", study.task, "--size", "tiny", "--raw", str(raw),
               "--store", str(store_of(out)), "--validation-fraction", "0", "--seed", str(COHORT_SEED)]  # fmt: skip
    if FORMATS[study.task].masks_apart:
        prepare += ["--masks", str(raw / "masks")]
    return [phantom, prepare]


def planned(study: AucStudy, out: Path) -> list[PlannedRun]:
    """Return what every run is trained with, the cohort being prepared: the second framework and the control begin with
    the weights that the first framework drew."""
    return [_planned(study, out, cell, group[0]) for group in study.groups for cell in group]


def _planned(study: AucStudy, out: Path, cell: Cell, first: Cell) -> PlannedRun:
    after = None if cell == first else name_of(first)
    config = configure(
        store_of(out),
        cell.condition.model,
        cell.framework,
        study.settings_of(cell),
        initial_weights=None if after is None else initial_weights_of(out, after),
        max_steps=study.steps,
        checkpoint_every=study.steps,
    )
    return PlannedRun(name_of(cell), config, after)


def begin(study: AucStudy, out: Path) -> None:
    """Keep the settings, or check that the folder holds the same study, or one that this one only adds runs to."""
    saved, asked = read_settings(out / STUDY_FILE, AucStudy), study.to_json()
    if saved is not None:
        was = saved.to_json()
        changed = [name for name in asked if was[name] != asked[name]]
        if set(changed) - set(GROWING) or not set(saved.cells) <= set(study.cells):
            told = "; ".join(f"{name}: {was[name]} -> {asked[name]}" for name in changed)
            raise AnatoBenchError(
                f"{out}: holds a study with other settings ({told}): choose another --out; seeds and models alone may "
                "be added"
            )
    keep_settings(out / STUDY_FILE, study, "a study")
