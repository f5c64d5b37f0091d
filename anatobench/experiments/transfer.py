"""Transfer: what pre-training gives a diagnosis of which few cases are labelled.

A backbone begins with weights that were drawn (`none`), with torchvision's video weights (`kinetics`), or with those of
a run that was trained on organ masks (`partial_masks`, `all_masks`), and is then trained for diagnosis with some of the
training cases, frozen behind its classifier or fine-tuned.

A repetition is one seed: that of the pre-training, of the transfer, and of the draw of cases (store/training_cases.py),
of which 5 are among the 10. What is compared within a repetition has the same drawn weights where nothing was
pre-trained, the same cases in the same order and the same crops. The first framework pre-trains; the others begin with
the same weights.

Where several learning rates are given, every condition is trained with each of them, and the one that validation likes
best, in the mean over the repetitions, stands for it: the same effort for all (transfer_results.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anatobench.backbones import card_of
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.experiments.runs import (
    PlannedRun,
    check_changes,
    check_choices,
    check_rates,
    initial_weights_of,
    run_folder,
    settings_asked,
)
from anatobench.recipes import FRAMEWORKS, MODELS
from anatobench.store.reader import Store
from anatobench.training.pretrained.weights_file import find, how_to_fetch
from anatobench.training.run_folder import AUTO, RunConfig, configure

TRANSFER_FILE = "transfer.json"
NONE, KINETICS, PARTIAL, ALL = "none", "kinetics", "partial_masks", "all_masks"
WEIGHTS = (NONE, KINETICS, PARTIAL, ALL)
PRETRAINED_HERE = {PARTIAL: "--partial-store", ALL: "--whole-store"}
"""With the option that names what they are trained on."""
FROZEN, FINE_TUNED = "frozen", "fine_tuned"
MODES = (FROZEN, FINE_TUNED)
ALL_CASES = 0
"""As `Recipe.cases`."""
OWN_SETTINGS = ("cases", "draw", "epochs", "frozen_backbone", "learning_rate", "objective", "seed")
"""The recipe's fields that the experiment sets, which nobody else may."""
PUBLISHED_GAINS = {5: 0.175, 10: 0.121, 20: 0.166}
"""What supervised pre-training gained over self-supervised pre-training by the number of cases (abstract 2023-SP-2065
of RSNA, Radiology ImageNet): segmentation, Dice, on private scans of JHH. For orientation: another task and measure."""


@dataclass(frozen=True)
class TransferSettings:
    """What all runs of a folder share; `OUT/transfer.json`."""

    store: str
    """Absolute path of the store whose diagnosis is learned."""
    partial_store: str | None = None
    """Absolute path of the store of partly annotated masks, of other patients."""
    whole_store: str | None = None
    """Absolute path of one in which every class is annotated, for `all_masks`."""
    model: str = "r3d_18"
    steps: int = 1000
    """Of a transfer, whatever the number of cases."""
    pretraining_steps: int = 10000
    frozen_rates: tuple[float, ...] = (1e-2,)
    """Learning rates to choose from where the backbone is frozen."""
    fine_tuned_rates: tuple[float, ...] = (1e-3,)
    pretraining_rate: float = 1e-3
    settings: tuple[str, ...] = ()
    """Changes of the transfers' recipe, `field=value`."""
    pretraining_settings: tuple[str, ...] = ()
    """The same of the pre-training."""

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise UsageError(f"--model {self.model}: choose one of {', '.join(MODELS)}")
        if self.steps < 1 or self.pretraining_steps < 1:
            raise UsageError("--steps and --pretraining-steps must be at least 1")
        rates = (*self.frozen_rates, *self.fine_tuned_rates, self.pretraining_rate)
        if not self.frozen_rates or not self.fine_tuned_rates or min(rates) <= 0:
            raise UsageError("learning rates must be above 0, one for each way of transfer at least")
        check_rates(self.frozen_rates)
        check_rates(self.fine_tuned_rates)
        check_changes(self.settings, OWN_SETTINGS, "the experiment")
        check_changes(self.pretraining_settings, OWN_SETTINGS, "the experiment")

    def rates(self, mode: str) -> tuple[float, ...]:
        """Return the learning rates that a way of transfer is tried with."""
        return self.frozen_rates if mode == FROZEN else self.fine_tuned_rates

    def pretraining_store(self, weights: str) -> str | None:
        """Return the store that such weights are trained on; None where nothing is pre-trained, or it was not said."""
        return {PARTIAL: self.partial_store, ALL: self.whole_store}.get(weights)


@dataclass(frozen=True)
class TransferCondition:
    """What the repetitions of a mean have in common, whatever learning rate is chosen."""

    weights: str
    """One of `WEIGHTS`."""
    mode: str
    """One of `MODES`."""
    cases: int
    framework: str


@dataclass(frozen=True)
class TransferCell(TransferCondition):
    """One transfer."""

    seed: int
    rate: float

    @property
    def condition(self) -> TransferCondition:
        """Return all but its seed and rate."""
        return TransferCondition(self.weights, self.mode, self.cases, self.framework)

    @property
    def name(self) -> str:
        """Stable and unique: a run lies in the folder of that name."""
        condition = f"{self.weights}_{self.mode}_{count_name(self.cases)}_rate{self.rate:g}"
        return f"{condition}_{self.framework}_seed{self.seed}"

    @property
    def settings(self) -> tuple[str, ...]:
        """The recipe's fields that make it, each `field=value`."""
        return (
            f"frozen_backbone={self.mode == FROZEN}",
            f"learning_rate={self.rate}",
            f"cases={self.cases}",
            f"draw={self.seed}",
            f"seed={self.seed}",
        )


def count_name(cases: int) -> str:
    """Return a number of cases for a person."""
    return "all" if cases == ALL_CASES else str(cases)


@dataclass(frozen=True)
class TransferSelection:
    """A part of the transfers."""

    weights: tuple[str, ...] = (NONE, PARTIAL, ALL)
    modes: tuple[str, ...] = MODES
    counts: tuple[int, ...] = (5, 10, 20, ALL_CASES)
    frameworks: tuple[str, ...] = FRAMEWORKS
    repetitions: int = 3
    """Seeds 0, 1, ..."""

    def __post_init__(self) -> None:
        check_choices(self, {"weights": WEIGHTS, "modes": MODES, "frameworks": FRAMEWORKS}, "repetitions")
        if not self.counts or min(self.counts) < 0:
            raise UsageError("--counts: numbers of cases above 0, or all")
        if FRAMEWORKS[0] not in self.frameworks:
            raise UsageError(f"--frameworks {','.join(self.frameworks)}: {FRAMEWORKS[0]} first draws what others take")

    @property
    def pretraining(self) -> tuple[tuple[str, int], ...]:
        """Weights and seed of every run on masks."""
        weights = [one for one in self.weights if one in PRETRAINED_HERE]
        return tuple((one, seed) for seed in range(self.repetitions) for one in weights)

    def cells(self, settings: TransferSettings) -> tuple[TransferCell, ...]:
        """Every transfer, the first repetition of all before the second of any."""
        return tuple(
            TransferCell(weights, mode, cases, framework, seed, rate)
            for seed in range(self.repetitions)
            for weights in self.weights
            for cases in self.counts
            for mode in self.modes
            for rate in settings.rates(mode)
            for framework in self.frameworks
        )


def pretraining_name(weights: str, seed: int) -> str:
    """Return the name of a pre-training's folder."""
    return f"pretraining_{weights}_seed{seed}"


def planned(selection: TransferSelection, settings: TransferSettings, out: Path) -> list[PlannedRun]:
    """Return what every run is trained with, the pre-training before what begins with it; the stores are there."""
    return [*_pretraining(selection, settings), *_transfers(selection, settings, out)]


def _pretraining(selection: TransferSelection, settings: TransferSettings) -> Iterator[PlannedRun]:
    steps = settings.pretraining_steps
    changes = ("objective=partial_masks", f"learning_rate={settings.pretraining_rate}", f"epochs={steps}")
    for weights, seed in selection.pretraining:
        config = configure(
            settings.pretraining_store(weights) or "", settings.model, FRAMEWORKS[0],
            [*settings.pretraining_settings, *changes, f"seed={seed}"],
            max_steps=steps, evaluate_every=steps, checkpoint_every=steps,
        )  # fmt: skip
        yield PlannedRun(pretraining_name(weights, seed), config)


def _transfers(selection: TransferSelection, settings: TransferSettings, out: Path) -> Iterator[PlannedRun]:
    for cell in selection.cells(settings):
        first, begins = None, dict[str, Path | str]()
        if cell.weights in PRETRAINED_HERE:
            first = pretraining_name(cell.weights, cell.seed)
            begins = {"initial_weights": run_folder(out, first)}
        elif cell.framework != FRAMEWORKS[0]:  # what the first framework drew
            first = replace(cell, framework=FRAMEWORKS[0]).name
            begins = {"initial_weights": initial_weights_of(out, first)}
        elif cell.weights == KINETICS:
            begins = {"pretrained": AUTO}
        yield PlannedRun(cell.name, _transfer(cell, settings, begins), first)


def _transfer(cell: TransferCell, settings: TransferSettings, begins: Mapping[str, Any]) -> RunConfig:
    config = configure(
        settings.store, settings.model, cell.framework, ["segmentation_weight=0", *settings.settings, *cell.settings],
        max_steps=settings.steps, evaluate_every=settings.steps, checkpoint_every=settings.steps, **begins,
    )  # fmt: skip
    recipe = replace(config.recipe, epochs=settings.steps)
    if cell.cases and cell.cases < recipe.batch_size:
        recipe = replace(recipe, batch_size=cell.cases)
    return replace(config, recipe=recipe)


def settings_for(out: Path, asked: Mapping[str, Any]) -> TransferSettings:
    """Return the folder's settings, or in a new folder those asked for, the fields of `TransferSettings` that a person
    named; `AnatoBenchError` names what is asked otherwise."""
    if "store" not in asked and not (out / TRANSFER_FILE).exists():
        raise UsageError(f"{out}: no transfer has begun here: give --store, the one whose diagnosis is learned")
    return settings_asked(out / TRANSFER_FILE, TransferSettings, asked)


def what_is_missing(selection: TransferSelection, settings: TransferSettings) -> list[str]:
    """Return a sentence for everything that the runs need and that is not there: stores and video weights."""
    masks = {option: settings.pretraining_store(one) for one, option in PRETRAINED_HERE.items()
             if one in selection.weights}  # fmt: skip
    found, stores = list[str](), dict[str, Store]()
    for option, path in {"--store": settings.store, **masks}.items():
        if not path:
            found.append(f"{option}: not given, and --weights asks for what is trained on it")
            continue
        try:
            stores[option] = Store.read_index(path)
        except AnatoBenchError as error:
            found.append(f"{option}: {error}")
    diagnosis = stores.get("--store")
    for option, store in stores.items():
        wrong = _what_is_wrong(option, store, diagnosis, max(selection.counts))
        found += [f"{option}: {store.root}: {sentence}" for sentence in wrong]
    if KINETICS in selection.weights and diagnosis is not None:
        published = card_of(settings.model).published_weights()
        if diagnosis.size == "tiny":
            found.append("--weights kinetics: there are no pretrained weights of size tiny: leave it out")
        elif find(published) is None:
            found.append(how_to_fetch(published))
    return found


def _what_is_wrong(option: str, store: Store, diagnosis: Store | None, most_cases: int) -> Iterator[str]:
    """Yield what keeps a store from being what an option asks for."""
    training = store.split("train")
    if store is diagnosis and len(training) < most_cases:
        yield f"has {len(training)} training cases: give no --counts above it"
    if option == PRETRAINED_HERE[ALL]:
        partly = sum(store.cases[index].has_mask and not all(store.annotated(index)) for index in training)
        if partly:
            yield f"{partly} of its training cases are annotated in part: it is a --partial-store"
    if diagnosis is None or store is diagnosis:
        return
    if (store.task, store.size) != (diagnosis.task, diagnosis.size):
        asked = f"--store of {diagnosis.task.name} and {diagnosis.size}"
        yield f"is of task {store.task.name} and size {store.size}, {asked}: prepare it again"
    seen = {store.cases[index].volume_checksum for index in (*training, *store.split("validation"))}
    both = seen & {diagnosis.cases[index].volume_checksum for index in diagnosis.split("test")} - {None}
    if both:
        yield f"trains on {len(both)} of the test scans of --store: leave them out"
