"""The AUC study: does a port reproduce the reference's AUC, and does segmentation supervision raise it?

On one synthetic cohort every backbone is trained with and without the auxiliary head, from several seeds, in both
frameworks. The second framework begins with the weights that the first drew and sees the same batches, so a pair
differs by arithmetic alone, or with `dropout` by what each framework draws, too. The seed moves initial weights, order
of cases, crops and dropout; the cohort and its split are the same for all.

Training amplifies rounding, so two runs part that begin as good as equal. How far is measured by a control: the first
framework once more, its learning rate larger by a millionth.

With several learning rates to choose from, every model is first trained with each of them, with and without the head
alike, in the first framework and from seeds of its own; the rate whose run validation likes best is the arm's.

Its runs are cells of the grid, of a table of its own: `AucStudy.conditions`. A study that was declared before it runs
has a plan beside its settings (auc_plan.py).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anatobench.backbones import CARDS, card_of
from anatobench.errors import AnatoBenchError, UsageError, check_choice
from anatobench.experiments.child_processes import Command
from anatobench.experiments.grid import Cell, Condition
from anatobench.experiments.results import validation_auc
from anatobench.experiments.runs import (
    PlannedRun,
    check_rates,
    initial_weights_of,
    keep_settings,
    read_settings,
    run_folder,
    told,
    what_changed,
)
from anatobench.phantom.cohort import FORMATS
from anatobench.phantom.plan import CohortPlan
from anatobench.recipes import FRAMEWORKS, MODELS, PRECISIONS
from anatobench.store.reader import Store
from anatobench.tasks import get_task
from anatobench.training.run_folder import RunConfig, configure

STUDY_FILE = "study.json"
GROWING = ("models", "seeds", "control_seeds")
"""Settings that may name more runs when a study goes on."""
CHOICE_SEED = 1000
"""The first seed of the runs that choose a learning rate: no run of the study has one of theirs."""
EVALUATIONS = 10
"""How often a run is judged on validation cases, about."""
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
    size: str = "tiny"
    """Of the scans and the models."""
    learning_rate: float | None = None
    """Of every run; None takes the paper's or, for tiny models, those of the cards, which are higher: tiny models are
    trained for minutes."""
    learning_rates: tuple[float, ...] = ()
    """Those that each arm chooses from, in place of `learning_rate`; needs validation patients."""
    choice_seeds: int = 1
    """Runs per arm and rate, by whose mean it is chosen."""
    validation_fraction: float = 0.0
    """Share of the training patients by whom rates are chosen and checkpoints judged."""
    cohort_seed: int = COHORT_SEED
    precision: str = "fp32"
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
        check_choice("precision", self.precision, PRECISIONS)
        CohortPlan(self.task, self.size, self.cohort_seed, self.cases, self.injuries)  # refuses what cannot be
        if not ((self.learning_rate is None or self.learning_rate > 0) and 0 < self.margin < 0.5):
            raise UsageError("--learning-rate must be above 0 and --margin between 0 and 0.5")
        self._check_choice_of_rates()
        for model in () if self.learning_rates else self.models:
            self.learning_rate_of(model)  # refuses a backbone for which nobody has chosen one

    def _check_choice_of_rates(self) -> None:
        if not 0 <= self.validation_fraction <= 0.5:
            raise UsageError(f"--validation-fraction {self.validation_fraction:g}: from 0 to 0.5")
        if not self.learning_rates:
            return
        if self.learning_rate is not None or min(self.learning_rates) <= 0:
            raise UsageError("--learning-rates: above 0, and in place of --learning-rate")
        check_rates(self.learning_rates)
        if self.validation_fraction == 0 or self.choice_seeds < 1:
            raise UsageError("--learning-rates: are chosen from on validation patients: give --validation-fraction "
                             "above 0, and --choice-seeds of 1 at least")  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "models": list(self.models), "learning_rates": list(self.learning_rates)}

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Every model with and without segmentation."""
        return tuple(Condition(self.task, model, False, weight) for model in self.models for weight in (1.0, 0.0))

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
        """Return the rate of a model's runs but the control's, where it is not chosen from several."""
        if self.learning_rate is not None:
            return self.learning_rate
        card = card_of(model)
        if self.size == "tiny":
            return card.study_learning_rate()
        return card.recipe_row(get_task(self.task).anatomy).learning_rate

    def settings_of(self, cell: Cell, learning_rate: float) -> tuple[str, ...]:
        """Return the changes of the paper's recipe for a run."""
        return (
            f"batch_size={self.batch_size}",
            f"learning_rate={learning_rate * (1 + NUDGE) if cell.nudged else learning_rate}",
            f"dropout={self.dropout}",
            f"precision={self.precision}",
            f"epochs={self.steps}",  # more than enough: max_steps ends the run and its schedule
            f"seed={cell.seed}",
            *cell.condition.settings,
        )

    @property
    def choice(self) -> tuple[tuple[Cell, float], ...]:
        """The runs that choose a learning rate, each with its rate."""
        return tuple(
            (Cell(condition, FRAMEWORKS[0], CHOICE_SEED + number), rate)
            for number in range(self.choice_seeds)
            for condition in self.conditions
            for rate in self.learning_rates
        )


def name_of(cell: Cell) -> str:
    """Return the name of a run's folder, as it always was: the study has one task, and nothing pretrained."""
    condition = cell.condition
    return f"{condition.model}_{condition.supervision_name}_seed{cell.seed}_{cell.arm}"


def store_of(out: Path) -> Path:
    """Return the prepared cohort."""
    return out / "store"


def choice_name_of(cell: Cell, rate: float) -> str:
    """Return the name of the folder of a run that chooses a rate."""
    return f"choice_{name_of(cell)}_rate{rate:g}"


def cohort_commands(study: AucStudy, out: Path) -> list[Command]:
    """Write the cohort and prepare it; both go on where they stopped."""
    raw, seed = out / "raw", str(study.cohort_seed)
    phantom = ["phantom", "--format", study.task, "--size", study.size, "--injuries", study.injuries,
               "--cases", str(study.cases), "--seed", seed, "--out", str(raw)]  # fmt: skip
    prepare = ["prepare", "--dataset", study.task, "--size", study.size, "--raw", str(raw),
               "--store", str(store_of(out)), "--validation-fraction", f"{study.validation_fraction:g}",
               "--seed", seed]  # fmt: skip
    if FORMATS[study.task].masks_apart:
        prepare += ["--masks", str(raw / "masks")]
    return [phantom, prepare]


def choice_planned(study: AucStudy, out: Path) -> list[PlannedRun]:
    """Return what the runs that choose a learning rate are trained with, the cohort being prepared."""
    return [PlannedRun(choice_name_of(cell, rate), _config(study, out, cell, rate)) for cell, rate in study.choice]


def chosen_rates(study: AucStudy, out: Path) -> dict[Condition, dict[float, float]]:
    """Return of every condition the mean validation AUC of each rate, the best first; of equals the smaller rate.

    `AnatoBenchError` if a run is missing.
    """
    found: dict[Condition, dict[float, list[float]]] = {condition: {} for condition in study.conditions}
    for cell, rate in study.choice:
        auc = validation_auc(run_folder(out, choice_name_of(cell, rate)))
        found[cell.condition].setdefault(rate, []).append(auc)
    means = {one: {rate: math.fsum(auc) / len(auc) for rate, auc in rates.items()} for one, rates in found.items()}
    return {one: dict(sorted(rates.items(), key=lambda pair: (-pair[1], pair[0]))) for one, rates in means.items()}


def planned(study: AucStudy, out: Path) -> list[PlannedRun]:
    """Return what every run is trained with, the cohort being prepared and the rates chosen: the second framework and
    the control begin with the weights that the first framework drew."""
    chosen = {condition: next(iter(rates)) for condition, rates in chosen_rates(study, out).items() if rates}
    runs = []
    for first, *others in study.groups:
        rate = chosen.get(first.condition) or study.learning_rate_of(first.condition.model)
        name, begins = name_of(first), initial_weights_of(out, name_of(first))
        runs.append(PlannedRun(name, _config(study, out, first, rate)))
        runs += [PlannedRun(name_of(cell), _config(study, out, cell, rate, begins), name) for cell in others]
    return runs


def _config(study: AucStudy, out: Path, cell: Cell, rate: float, begins: Path | None = None) -> RunConfig:
    evaluate_every = 1
    if study.validation_fraction:
        per_epoch = max(len(Store.read_index(store_of(out)).split("train")) // study.batch_size, 1)
        evaluate_every = max(round(study.steps / per_epoch / EVALUATIONS), 1)
    return configure(
        store_of(out), cell.condition.model, cell.framework, study.settings_of(cell, rate),
        initial_weights=begins, max_steps=study.steps, evaluate_every=evaluate_every, checkpoint_every=study.steps,
    )  # fmt: skip


def begin(study: AucStudy, out: Path, changeable: Collection[str] = GROWING) -> None:
    """Keep the settings, or check that the folder holds the same study, or one that differs in what is `changeable` and
    has no fewer runs."""
    saved, asked = read_settings(out / STUDY_FILE, AucStudy), study.to_json()
    if saved is not None:
        changed = what_changed(saved.to_json(), asked)
        if set(changed) - set(changeable) or not set(saved.cells) <= set(study.cells):
            raise AnatoBenchError(
                f"{out}: holds a study with other settings ({told(changed)}): choose another --out; seeds and models "
                "alone may be added"
            )
    keep_settings(out / STUDY_FILE, study, "a study")
