"""A run's folder and the configuration that is saved whole in it before anything else."""

from __future__ import annotations

import fcntl
import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from anatobench import __version__
from anatobench.backbones import card_of
from anatobench.engine import ModelSpec
from anatobench.errors import AnatoBenchError, UsageError, check_choice, check_kind
from anatobench.objectives.heads import SEGMENTATION
from anatobench.objectives.objective import Plan
from anatobench.objectives.registry import plan_of
from anatobench.recipes import FRAMEWORKS, MODELS, SIZES, Recipe, override, paper_recipe
from anatobench.store.mask_noise import supervising_organs
from anatobench.store.reader import read_description
from anatobench.system.atomic_files import write_atomically
from anatobench.system.folder_lock import open_lock
from anatobench.system.json_text import read_json, typed_fields
from anatobench.tasks import Task

CONFIG_FILE = "config.json"
LOCK_FILE = ".lock"
_FRAMEWORK_PACKAGES = {"torch": ("torch", "torchvision"), "jax": ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")}
FORMAT = 1
AUTO = "auto"
"""In place of a file of pretrained weights: the published one, wherever it is found."""
OF_THE_MACHINE = ("fast", "compile")
"""Fields of the recipe that change the results by rounding alone (and what dropout draws), so that a run may go on
where one of them does not work."""


CHECKSUM = "checksum"
"""Of the rest of a run's config.json."""
OTHER_FIELDS = ("max_steps", "patience", "evaluate_every", "checkpoint_every", "sharpness_every")
"""Fields of `RunConfig` that `configure` takes by name."""
PATHS = (str, Path)


def evaluation_file(split: str) -> str:
    """Name of what `evaluate` writes about a split in a run's folder."""
    return f"evaluation_{split}.json"


@dataclass(frozen=True)
class RunConfig:
    """Everything that fixes what a run computes; `RUN/config.json`."""

    task: Task
    store: str
    """Path of the store."""
    framework: str
    model: str
    size: str
    """`full` or `tiny`, as the store."""
    recipe: Recipe
    initial_weights: str | None = None
    """File, or another run's folder, to begin with instead of weights drawn from `recipe.seed`."""
    pretrained: str | None = None
    """File of torchvision's Kinetics-400 weights to begin with: a path, or its published name for wherever it is found.
    Read when the run begins, never when it resumes; `RUN/initial.safetensors` holds what came of it."""
    max_steps: int | None = None
    """Ends the run, and its learning-rate schedule, before `recipe.epochs` are over."""
    patience: int | None = None
    """Ends the run after so many evaluations in a row that were not better than the best one (early stopping); the best
    checkpoint stands for the run as ever. The learning rate decays as if the run went on. None: never."""
    evaluate_every: int = 1
    """Epochs between evaluations on the validation split; there is always one at the end."""
    checkpoint_every: int = 500
    """Steps between checkpoints; there is always one after an evaluation, and on a signal to stop."""
    sharpness_every: int = 0
    """Steps between measurements of the loss's sharpness on the run's first batch; 0 for none."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of Python, AnatoBench, the framework and its parts when the run began."""
    format: int = FORMAT

    def __post_init__(self) -> None:
        check_choice("framework", self.framework, FRAMEWORKS)
        check_choice("model", self.model, MODELS)
        check_choice("size", self.size, SIZES)
        supervising_organs(self.recipe, self.task)  # refuses organs that the task does not have
        plan_of(self.recipe, self.task)  # refuses a kind of supervision that does not fit
        if self.pretrained is not None and self.initial_weights is not None:
            raise UsageError("--pretrained and --initial-weights exclude each other: give one of them")
        if self.pretrained is not None and self.size != "full":
            raise UsageError(
                f"there are no pretrained weights of size {self.size}: use a store of size full, or train from scratch "
                "(without --pretrained, or --named without /pretrained)"
            )
        for name in ("max_steps", "patience", "evaluate_every", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}={value} must be at least 1")
        if self.sharpness_every < 0:
            raise UsageError(f"sharpness_every={self.sharpness_every} must not be negative")

    @property
    def plan(self) -> Plan:
        """What is trained, in which turns, and what judges it."""
        return plan_of(self.recipe, self.task)

    @property
    def trains_classifier(self) -> bool:
        """Whether any phase trains the classifier; if none does, the run has nothing to predict a finding with."""
        return self.plan.trains_classifier(self.model)

    @property
    def segmentation(self) -> bool:
        """Whether the model has the segmentation head; the paper's baseline has none."""
        return SEGMENTATION in self.plan.heads

    @property
    def spec(self) -> ModelSpec:
        """What the engine is built for."""
        crop_size = self.task.geometry(self.size).crop_size
        return ModelSpec(self.model, self.size, self.task, crop_size, self.plan.heads)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Count the steps of the whole run."""
        full = self.recipe.epochs * steps_per_epoch
        return full if self.max_steps is None else min(full, self.max_steps)

    @staticmethod
    def installed_versions(framework: str) -> dict[str, str]:
        """Return what to save as `versions`. Nothing is imported for it; a package that is not installed is left
        out."""
        packages = ("numpy", "grain", *_FRAMEWORK_PACKAGES[framework])
        found = {"python": platform.python_version(), "anatobench": __version__}
        for package in packages:
            with suppress(PackageNotFoundError):
                found[package] = version(package)
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        told = {**asdict(self), "segmentation": self.segmentation, "task": self.task.to_json()}
        first = ("task", "store", "framework", "model", "size", "recipe", "segmentation")  # as older files have them
        return {name: told[name] for name in (*first, *told)}

    @staticmethod
    def from_json(data: object) -> RunConfig:
        """Return the inverse of `to_json`; ValueError or `UsageError` names the field that is wrong.

        A field that was not there yet when the run began has its default, which is what the run did.
        """
        if isinstance(data, Mapping) and data.get("format", FORMAT) != FORMAT:  # its other fields may be unknown here
            raise ValueError(f"format is {data['format']!r:.80}, this version reads {FORMAT}")
        said = data.get("segmentation") if isinstance(data, Mapping) else None
        if isinstance(data, Mapping):  # what follows from the recipe is no field
            data = {name: value for name, value in data.items() if name not in ("segmentation", CHECKSUM)}
        found = typed_fields(RunConfig, data)
        try:
            task = Task.from_json(found["task"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UsageError) as error:
            raise ValueError(f"task: {type(error).__name__}, {error}") from None
        if not isinstance(found.get("versions", {}), Mapping):
            raise ValueError(f"versions must be an object of texts, not {found['versions']!r:.80}")
        recipe = Recipe(**typed_fields(Recipe, found["recipe"], "recipe."))
        config = RunConfig(**{**found, "task": task, "recipe": recipe})
        if said not in (None, config.segmentation):
            raise ValueError(
                f"segmentation is {said!r:.80}, but the recipe trains {'with' if config.segmentation else 'without'} "
                "the segmentation head (segmentation_weight)"
            )
        return config

    @staticmethod
    def read(run: Path | str) -> RunConfig:
        """Read `RUN/config.json`; `AnatoBenchError` if there is no run, or if the file is damaged or was edited: then
        its weights were trained with something else. Files before 0.2 have no checksum."""
        check_kind("run", run, PATHS, "a path")
        run = Path(run)
        if not (run / CONFIG_FILE).is_file():
            raise AnatoBenchError(
                f"{run}: no run here ({CONFIG_FILE} is missing): give a folder that train has written"
            )
        data = read_json(run / CONFIG_FILE)
        config = RunConfig._of(run / CONFIG_FILE, data)
        if CHECKSUM in data and data[CHECKSUM] != _checksum(data):
            raise AnatoBenchError(
                f"{run / CONFIG_FILE}: is not what the run was begun with (its checksum differs): put the file back; "
                "to train something else, give an edited copy to `anatobench train --config` with another --out"
            )
        return config

    @staticmethod
    def read_file(path: Path) -> RunConfig:
        """Read a file that holds what `config.json` does, edited or not; `AnatoBenchError` names it and the field that
        is wrong."""
        return RunConfig._of(path, read_json(path))

    @staticmethod
    def _of(path: Path, data: object) -> RunConfig:
        """Return what a file holds, `path` naming it in an error."""
        try:
            return RunConfig.from_json(data)
        except (ValueError, OverflowError, AnatoBenchError) as error:
            raise AnatoBenchError(f"{path}: not a run's configuration: {error}") from None

    def write(self, path: Path) -> None:
        """Write what `read_file` reads, with a checksum; OSError if that fails, and nothing is left behind then."""
        data = json.loads(json.dumps(self.to_json(), allow_nan=False))
        write_atomically(path, (json.dumps({**data, CHECKSUM: _checksum(data)}, indent=2) + "\n").encode())


def _checksum(data: Mapping[str, Any]) -> str:
    """Return the BLAKE2b of a configuration's other fields, however they are laid out in the file."""
    told = {name: value for name, value in data.items() if name != CHECKSUM}
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()


def configure(
    store: Path | str,
    model: str,
    framework: str,
    settings: Iterable[str] = (),
    *,
    pretrained: Path | str | None = None,
    initial_weights: Path | str | None = None,
    **others: Any,
) -> RunConfig:
    """Return the paper's recipe for a prepared store and a backbone, as a run's configuration.

    `settings` are changes of the recipe, `field=value` as after `--set`. `pretrained` is a file of torchvision's
    Kinetics-400 weights or "auto", `initial_weights` a file or a run's folder to begin with instead; `others` are
    `RunConfig`'s other fields (`max_steps`, `patience`, `evaluate_every`, `checkpoint_every`, `sharpness_every`).
    `AnatoBenchError` if there is no store, `UsageError` if an argument is none that there is, or the parts do not go
    together.
    """
    check_choice("framework", framework, FRAMEWORKS)
    check_choice("model", model, MODELS)
    check_kind("store", store, PATHS, "a path")
    for name, file in (("pretrained", pretrained), ("initial_weights", initial_weights)):
        check_kind(name, file, (*PATHS, type(None)), "a path")
    for name in others:
        check_choice("field", name, OTHER_FIELDS)
    description = read_description(Path(store))
    recipe = override(paper_recipe(description["task"], model), settings)
    if pretrained is not None:  # the published name stands for the file wherever it lies
        pretrained = card_of(model).published_weights().file if pretrained == AUTO else str(Path(pretrained).resolve())
    given = {
        "task": description["task"],
        "store": str(Path(store).resolve()),
        "framework": framework,
        "model": model,
        "size": description["size"],
        "recipe": recipe,
        "initial_weights": None if initial_weights is None else str(Path(initial_weights).resolve()),
        "pretrained": pretrained,
        "versions": RunConfig.installed_versions(framework),
        **others,
    }
    try:
        return RunConfig(**typed_fields(RunConfig, given))
    except ValueError as error:
        raise UsageError(str(error)) from None


@contextmanager
def begun(run: Path, config: RunConfig, resume: bool, switch_framework: bool = False) -> Iterator[RunConfig]:
    """Hold a run for this process, begin it as `begin_run` does, and yield the configuration to train.

    The folder is held before anything is written, so that of two that begin together the second changes nothing of the
    first one's run.
    """
    _refuse_foreign(run)  # no lock is left in a folder of other things
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(run, error) from None
    with locked(run):
        yield begin_run(run, config, resume, switch_framework)


def begin_run(run: Path, config: RunConfig, resume: bool, switch_framework: bool = False) -> RunConfig:
    """Save the configuration of a new run, or check that an existing run is the one asked for; the one to train.

    With `resume` an existing run goes on and a missing one begins, so that a job script can always say it. A run in
    which nothing was trained counts as missing. The store may have moved, packages may have changed, and so may how the
    machine computes (`OF_THE_MACHINE`); with `switch_framework` the framework may, too.
    `AnatoBenchError` if there is a run and it may not be resumed; nothing is written then.
    """
    if _refuse_foreign(run) <= {CONFIG_FILE}:  # nothing was trained with a configuration that lies there alone
        try:
            run.mkdir(parents=True, exist_ok=True)
            config.write(run / CONFIG_FILE)
        except OSError as error:
            raise _unwritable(run, error) from None
        return config
    saved = RunConfig.read(run)
    saved = replace(saved, recipe=as_on(saved.recipe, config.recipe))
    changed = {
        name: f"{name}: {was!r:.80} -> {now!r:.80}"
        for name, was, now in _differences(
            replace(saved, versions={}).to_json(), replace(config, versions={}, store=saved.store).to_json()
        )
    }
    if "framework" in changed and switch_framework:
        del changed["framework"]
    if changed:
        hint = " (--switch-framework allows it)" if set(changed) == {"framework"} and resume else ""
        raise AnatoBenchError(
            f"{run}: holds a run with another configuration: {'; '.join(changed.values())}{hint}: choose another --out"
        )
    if not resume:
        raise AnatoBenchError(f"{run}: holds this run already: add --resume to go on with it, or choose another --out")
    return replace(saved, framework=config.framework, store=config.store)


def _refuse_foreign(run: Path) -> set[str]:
    """Return what is in the folder but hidden files; `AnatoBenchError` if it holds something else than a run."""
    contents = {entry.name for entry in run.iterdir() if not entry.name.startswith(".")} if run.is_dir() else set()
    if contents and CONFIG_FILE not in contents:
        raise AnatoBenchError(f"{run}: not empty and not a run: choose another --out")
    return contents


def _unwritable(run: Path, error: OSError) -> AnatoBenchError:
    return AnatoBenchError(f"{run}: cannot be written ({error.strerror}): choose another --out")


def as_on(recipe: Recipe, asked: Recipe) -> Recipe:
    """Return the recipe, computed as `asked` says."""
    return replace(recipe, **{name: getattr(asked, name) for name in OF_THE_MACHINE})


def _differences(saved: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, saved value, asked value) of every leaf that differs, both being JSON objects of the same keys."""
    found: list[tuple[str, Any, Any]] = []
    for name, was in json.loads(json.dumps(saved)).items():
        now = json.loads(json.dumps(asked))[name]
        if isinstance(was, dict):
            found += _differences(was, now, f"{prefix}{name}.")
        elif was != now:
            found.append((f"{prefix}{name}", was, now))
    return found


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run for one training process; `AnatoBenchError` if another holds it. A killed process lets go of it."""
    try:
        file = open_lock(run / LOCK_FILE)
    except OSError as error:
        raise _unwritable(run, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AnatoBenchError(f"{run}: another process is training this run: wait for it, or stop it") from None
        except OSError:  # a file system without locks: nothing to hold
            pass
        yield
