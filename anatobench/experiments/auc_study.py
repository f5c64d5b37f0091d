"""The AUC study: does a port reproduce the reference's AUC, and does segmentation supervision raise it?

On one synthetic cohort every backbone is trained with and without the auxiliary head, from several seeds, in both
frameworks. The second framework begins with the weights that the first drew and sees the same batches, so a pair
differs by arithmetic and by what dropout draws. The seed moves initial weights, order of cases, crops and dropout; the
cohort and its split are the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anatobench.errors import UsageError
from anatobench.experiments.child_processes import Chain, Command
from anatobench.initial_weights import INITIAL_WEIGHTS_FILE
from anatobench.recipes import FRAMEWORKS, MODELS

TASK = "ratic"
COHORT_SEED = 5
EVALUATION_FILE = "evaluation_test.json"


@dataclass(frozen=True)
class AucStudy:
    """What is run; saved with the results."""

    models: tuple[str, ...] = MODELS
    seeds: int = 3
    """Repetitions: seeds 0, 1, ..."""
    cases: int = 700
    """Synthetic patients, about 80 % of them for training."""
    steps: int = 1500
    batch_size: int = 4
    learning_rate: float = 1e-3
    """Ten times the paper's for full-size models: these are tiny and trained for minutes."""
    injuries: str = "moderate"
    margin: float = 0.02
    """Frameworks are called equivalent within so much AUC."""

    def __post_init__(self) -> None:
        if not self.models or set(self.models) - set(MODELS):
            raise UsageError(f"--models {','.join(self.models)}: choose from {', '.join(MODELS)}")
        if self.seeds < 1 or self.cases < 20 or self.steps < 1 or self.batch_size < 1:
            raise UsageError("--seeds, --steps and --batch-size must be at least 1, --cases at least 20")
        if not (self.learning_rate > 0 and 0 < self.margin < 0.5):
            raise UsageError("--learning-rate must be above 0 and --margin between 0 and 0.5")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "models": list(self.models)}

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every run."""
        return tuple(
            Cell(model, framework, segmentation, seed)
            for seed in range(self.seeds)
            for model in self.models
            for segmentation in (True, False)
            for framework in FRAMEWORKS
        )


@dataclass(frozen=True)
class Cell:
    """One run of the study."""

    model: str
    framework: str
    segmentation: bool
    seed: int

    def folder(self, out: Path) -> Path:
        """Where the run lies."""
        return self.in_framework(out, self.framework)

    def in_framework(self, out: Path, framework: str) -> Path:
        """The same run in a framework."""
        segmentation = "seg" if self.segmentation else "no_seg"
        return out / "runs" / f"{self.model}_{segmentation}_seed{self.seed}_{framework}"


def store_of(out: Path) -> Path:
    """The prepared cohort."""
    return out / "store"


def cohort_commands(study: AucStudy, out: Path) -> list[Command]:
    """Write the cohort and prepare it; both go on where they stopped."""
    raw = out / "raw"
    phantom = ["phantom", "--format", TASK, "--size", "tiny", "--injuries", study.injuries,
               "--cases", str(study.cases), "--seed", str(COHORT_SEED), "--out", str(raw)]  # fmt: skip
    prepare = ["prepare", "--dataset", TASK, "--size", "tiny", "--raw", str(raw), "--masks", str(raw / "masks"),
               "--store", str(store_of(out)), "--validation-fraction", "0", "--seed", str(COHORT_SEED)]  # fmt: skip
    return [phantom, prepare]


def training_chains(study: AucStudy, out: Path) -> Iterator[Chain]:
    """For each model, head and seed: train and evaluate in the first framework, then in the second from the same
    weights. Runs that were evaluated are left out."""
    for seed in range(study.seeds):
        for model in study.models:
            for segmentation in (True, False):
                cells = [Cell(model, framework, segmentation, seed) for framework in FRAMEWORKS]
                commands = [
                    command
                    for cell in cells
                    if not (cell.folder(out) / EVALUATION_FILE).exists()
                    for command in _run_commands(study, out, cell)
                ]
                if commands:
                    yield Chain(f"{model} {'with' if segmentation else 'without'} segmentation, seed {seed}", commands)


def _run_commands(study: AucStudy, out: Path, cell: Cell) -> list[Command]:
    run = str(cell.folder(out))
    settings = {
        "batch_size": study.batch_size,
        "learning_rate": study.learning_rate,
        "seed": cell.seed,
        "epochs": study.steps,  # more than enough: --steps ends the run and its schedule
    }
    train = ["train", "--task", TASK, "--store", str(store_of(out)), "--model", cell.model,
             "--framework", cell.framework, "--steps", str(study.steps), "--out", run, "--resume",
             "--checkpoint-every", str(study.steps)]  # fmt: skip
    for name, value in settings.items():
        train += ["--set", f"{name}={value}"]
    if not cell.segmentation:
        train.append("--no-seg")
    if cell.framework != FRAMEWORKS[0]:
        train += ["--initial-weights", str(cell.in_framework(out, FRAMEWORKS[0]) / INITIAL_WEIGHTS_FILE)]
    return [train, ["evaluate", run]]
