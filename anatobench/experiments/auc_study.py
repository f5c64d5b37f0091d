"""The AUC study: does a port reproduce the reference's AUC, and does segmentation supervision raise it?

On one synthetic cohort every backbone is trained with and without the auxiliary head, from several seeds, in both
frameworks. The second framework begins with the weights that the first drew and sees the same batches, so a pair
differs by arithmetic alone, or with `dropout` by what each framework draws, too. The seed moves initial weights, order
of cases, crops and dropout; the cohort and its split are the same for all.

Training amplifies rounding, so two runs part that begin as good as equal. How far is measured by a control: the first
framework once more, its learning rate larger by a millionth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anatobench.backbones import CARDS, card_of
from anatobench.errors import UsageError
from anatobench.experiments.child_processes import Chain, Command
from anatobench.phantom.plan import CohortPlan
from anatobench.recipes import FRAMEWORKS, MODELS
from anatobench.tasks import get_task
from anatobench.training.initial_weights import INITIAL_WEIGHTS_FILE
from anatobench.training.run_folder import evaluation_file

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
            learning_rate_of(self, model)  # refuses a backbone for which nobody has chosen one

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "models": list(self.models)}

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
                *(Cell(model, framework, segmentation, seed) for framework in FRAMEWORKS),
                *(Cell(model, FRAMEWORKS[0], segmentation, seed, nudged=True) for _ in range(seed < controls)),
            )
            for seed in range(self.seeds)
            for model in self.models
            for segmentation in (True, False)
        )


@dataclass(frozen=True)
class Cell:
    """One run of the study."""

    model: str
    framework: str
    segmentation: bool
    seed: int
    nudged: bool = False
    """Whether it is the control."""

    def folder(self, out: Path) -> Path:
        """Where the run lies."""
        segmentation = "seg" if self.segmentation else "no_seg"
        arm = f"{self.framework}_nudged" if self.nudged else self.framework
        return out / "runs" / f"{self.model}_{segmentation}_seed{self.seed}_{arm}"


def store_of(out: Path) -> Path:
    """The prepared cohort."""
    return out / "store"


def cohort_commands(study: AucStudy, out: Path) -> list[Command]:
    """Write the cohort and prepare it; both go on where they stopped."""
    raw = out / "raw"
    phantom = ["phantom", "--format", study.task, "--size", "tiny", "--injuries", study.injuries,
               "--cases", str(study.cases), "--seed", str(COHORT_SEED), "--out", str(raw)]  # fmt: skip
    prepare = ["prepare", "--dataset", study.task, "--size", "tiny", "--raw", str(raw),
               "--store", str(store_of(out)), "--validation-fraction", "0", "--seed", str(COHORT_SEED)]  # fmt: skip
    if study.task != "ct_rate":  # which has masks of its own, beside the scans
        prepare += ["--masks", str(raw / "masks")]
    return [phantom, prepare]


def training_chains(study: AucStudy, out: Path) -> Iterator[Chain]:
    """For each model, head and seed: train and evaluate in the first framework, then in the second and the control
    from the same weights. Runs that were evaluated are left out."""
    for group in study.groups:
        first, *_ = group
        commands = [
            command
            for cell in group
            if not (cell.folder(out) / evaluation_file("test")).exists()
            for command in _run_commands(study, out, cell, first)
        ]
        if commands:
            segmentation = "with" if first.segmentation else "without"
            yield Chain(f"{first.model} {segmentation} segmentation, seed {first.seed}", commands)


def learning_rate_of(study: AucStudy, model: str) -> float:
    """Of the model's runs but the control's."""
    return study.learning_rate or card_of(model).study_learning_rate()


def _run_commands(study: AucStudy, out: Path, cell: Cell, first: Cell) -> list[Command]:
    run = str(cell.folder(out))
    learning_rate = learning_rate_of(study, cell.model)
    settings = {
        "batch_size": study.batch_size,
        "learning_rate": learning_rate * (1 + NUDGE) if cell.nudged else learning_rate,
        "dropout": str(study.dropout).lower(),
        "seed": cell.seed,
        "epochs": study.steps,  # more than enough: --steps ends the run and its schedule
    }
    train = ["train", "--task", study.task, "--store", str(store_of(out)), "--model", cell.model,
             "--framework", cell.framework, "--steps", str(study.steps), "--out", run, "--resume",
             "--checkpoint-every", str(study.steps)]  # fmt: skip
    for name, value in settings.items():
        train += ["--set", f"{name}={value}"]
    if not cell.segmentation:
        train.append("--no-seg")
    if cell != first:
        train += ["--initial-weights", str(first.folder(out) / INITIAL_WEIGHTS_FILE)]
    return [train, ["evaluate", run]]
