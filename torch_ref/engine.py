"""The engine contract (anatobench/engine.py) in PyTorch."""

from __future__ import annotations

import contextlib
import copy
import gc
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from anatobench.backbones import card_of
from anatobench.engine import Arrays, Inspection, ModelSpec, StepMetrics
from anatobench.errors import UsageError
from anatobench.fast_forms import fast_forms
from anatobench.objectives.heads import HEADS, SEGMENTATION, auxiliary_heads
from anatobench.objectives.registry import plan_of
from anatobench.recipes import Recipe
from anatobench.store.batch import Batch
from anatobench.system.processes import ALONE, Processes
from torch_ref import parallel
from torch_ref.compilation import compile_module, compiled, compiles, keep_compiled_programs
from torch_ref.forms import DEFAULT_FORMS, plain_forms, preferred_kernels
from torch_ref.instruments import TorchInstruments
from torch_ref.losses import CASE_TERMS
from torch_ref.models import build_backbone
from torch_ref.models.diagnosis_model import DiagnosisModel
from torch_ref.optimizer import build_optimizer
from torch_ref.precision import Precision
from torch_ref.saver import TorchSaver, state_tensors
from torch_ref.step import Objective, TrainState, means, size_of, train_step
from torch_ref.transfer import Transfer
from torch_ref.weights import (
    copy_by_name,
    export_weights,
    import_optimizer,
    import_weights,
    named_parameters,
    to_numpy,
)


@dataclass(frozen=True)
class PendingStep:
    """The figures of a step, still on the device."""

    names: tuple[str, ...]
    figures: Tensor
    """[names]"""
    case_losses: Tensor
    """[B]"""

    def fetch(self) -> StepMetrics:
        """Wait for the device."""
        figures = dict(zip(self.names, self.figures.tolist(), strict=True))
        return StepMetrics.of(figures, to_numpy(self.case_losses))


class TorchEngine:
    """One model and its optimizer on one device, the GPU if there is one."""

    name = "torch"

    def __init__(self, spec: ModelSpec, recipe: Recipe, processes: Processes = ALONE) -> None:
        self.spec = spec
        self.recipe = recipe
        self.processes = processes
        self._precision = Precision.named(recipe.precision)
        self._device = parallel.join(processes)
        compiling = compiles(recipe.compile, self._device)
        if compiling or self._device.type == "cuda":  # Triton's kernels are compiled in any case
            keep_compiled_programs()
        self._to_device = Transfer(self._device)
        forms = fast_forms(recipe.fast, DEFAULT_FORMS[self._device.type])
        plan = plan_of(recipe, spec.task)
        self._begun: int | None = None
        self._state = self._first_state(forms, plan.has_teacher, compiling)
        self._phases = plan.of_model(spec.model, [name for name, _ in named_parameters(self._model)]).phases
        self._objectives = [
            Objective(self._state, phase, CASE_TERMS[phase.objective.kind], spec, recipe, self._precision, set(forms))
            for phase in self._phases
        ]
        self._logits = self._objectives[0].logits
        if compiling:
            for objective in self._objectives:
                compile_module(objective, recipe.compile, processes.alone)
            self._logits = compiled(self._logits, recipe.compile, alone=True)
        self._distributed = []
        for index, objective in enumerate(self._objectives):
            self._begin(index)  # gradients are averaged of what is trained then
            self._distributed.append(parallel.distributed(objective, self._device, processes))

    def _first_state(self, forms: frozenset[str], has_teacher: bool, compiling: bool) -> TrainState:
        model = _build_model(self.spec, self.recipe, forms)
        model = parallel.with_global_batch_norm(model, self._device, self.processes, compiling)
        model = model.to(self._device, self._precision.parameter_dtype)
        if self._device.type == "cuda":
            model = model.to(memory_format=model.memory_format)
        teacher = copy.deepcopy(model).eval().requires_grad_(False) if has_teacher else None
        return TrainState(model, build_optimizer(model.parameters(), self.recipe), teacher)

    @property
    def _model(self) -> DiagnosisModel:
        return self._state.model

    def _begin(self, phase: int) -> None:
        """Let gradients reach what the phase trains, and nothing else."""
        if phase != self._begun:
            for name, parameter in named_parameters(self._model):
                parameter.requires_grad_(self._phases[phase].trains(name))
            self._begun = phase

    def _set_mode(self, train: bool, phase: int) -> None:
        """Training or evaluation, in which a backbone stays of which the phase trains nothing."""
        self._model.train(train)
        if not self._phases[phase].trains_backbone:
            classifier = card_of(self.spec.model).classifier
            for name, part in self._model.backbone.named_children():
                if f"{name}." != classifier:
                    part.eval()

    def train_step(
        self, batch: Batch, learning_rate: float, step: int, stop: bool = False, phase: int = 0
    ) -> PendingStep:
        """See `anatobench.engine.Trainable.train_step`."""
        self._set_mode(True, phase)
        self._begin(phase)
        with self._settings(), self._seeded(step):
            figures, case_losses = train_step(
                self._distributed[phase], self._state, self._phases[phase], self.recipe.clip_norm, learning_rate,
                self._moved(batch, phase),
            )  # fmt: skip
        figures["stop"] = torch.full_like(figures["gradient_norm"], float(stop))
        values = parallel.mean_of_all(torch.stack(list(figures.values())).detach(), self.processes)
        # Copied: CUDA graphs write the next step's losses to the same place.
        return PendingStep(tuple(figures), values, case_losses.detach().clone())

    @torch.no_grad()
    def predict(self, volume: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Predictor.predict`."""
        self._model.eval()
        self._begin(0)  # a compiled program is for parameters that are free or not, even where nothing is derived
        with self._settings():
            return to_numpy(self._logits(self._to_device(volume)).float())

    @torch.no_grad()
    def segment(self, volume: np.ndarray, head: str = SEGMENTATION) -> np.ndarray:
        """See `anatobench.engine.Predictor.segment`; `UsageError` for a model without the head."""
        self._model.eval()
        scans = self._to_device(volume)
        seg_logits = self._model.upsampled(head, self._features(scans), size_of(scans))
        if seg_logits is None:
            raise UsageError(f"this model was built without the head {head!r}: it has {self.spec.heads}")
        return to_numpy((seg_logits > 0 if HEADS[head].overlapping else seg_logits.argmax(1)).to(torch.uint8))

    def attribution(self, volume: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Probe.attribution`."""
        self._model.eval()
        with torch.no_grad():
            features = self._features(self._to_device(volume)).to(self._model.head_dtype)
        features.requires_grad_()
        logits = self._model.classify(features)
        (gradient,) = torch.autograd.grad(logits, features, self._to_device(slope).to(logits.dtype))
        weights = gradient.mean((2, 3, 4), keepdim=True)
        return to_numpy((weights * features.detach()).sum(1).relu())

    def inspect(self, batch: Batch, train: bool = True, gradients: bool = True, phase: int = 0) -> Inspection:
        """See `anatobench.engine.Probe.inspect`."""
        seen: Arrays = {}

        def record(name: str, output: Tensor) -> None:  # copied at once: a later in-place ReLU may not change it
            seen[name] = to_numpy(output.to(self._precision.parameter_dtype))

        self._set_mode(train, phase)
        self._begin(phase)
        with self._settings(), self._kept_buffers(), torch.set_grad_enabled(gradients), self._seeded(0):
            total, terms = self._objectives[phase].forward(self._moved(batch, phase), record)
            found = self._gradients(total.mean()) if gradients else {}
        outputs = {name: seen.pop(name) for name in [HEADS[head].shown_as for head in self.spec.heads]}
        losses = {name: value.item() for name, value in means(total, terms).items()}
        return Inspection(activations=seen, outputs=outputs, losses=losses, gradients=found)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """See `anatobench.engine.Trainable.parameter_shapes`."""
        return {name: tuple(parameter.shape) for name, parameter in sorted(named_parameters(self._model))}

    def hessian_product(self, batch: Batch, direction: Mapping[str, np.ndarray]) -> Arrays:
        """See `anatobench.engine.Probe.hessian_product`."""
        self._model.requires_grad_()
        self._begun = None
        names, parameters = zip(*named_parameters(self._model), strict=True)
        along = {name: torch.zeros_like(parameter) for name, parameter in zip(names, parameters, strict=True)}
        copy_by_name(along, direction, "the direction")
        self._set_mode(True, 0)
        objective = self._objectives[0]
        with self._settings(), self._kept_buffers(), self._seeded(0), plain_forms(objective):
            total, _ = objective.forward(self._moved(batch, 0))
            gradients = torch.autograd.grad(total.mean(), parameters, create_graph=True)
            slope = sum(
                ((g * along[name]).sum() for name, g in zip(names, gradients, strict=True)), total.new_zeros(())
            )
            products = torch.autograd.grad(slope, parameters, materialize_grads=True)
        return {name: to_numpy(product) for name, product in zip(names, products, strict=True)}

    def state(self) -> dict[str, Arrays]:
        """See `anatobench.engine.Trainable.state`."""
        trees = state_tensors(self._state)
        return {tree: {name: to_numpy(tensor) for name, tensor in tensors.items()} for tree, tensors in trees.items()}

    def saver(self) -> TorchSaver:
        """See `anatobench.engine.Trainable.saver`."""
        return TorchSaver(self._state, self._device, self.processes)

    def load_state(self, state: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """See `anatobench.engine.Trainable.load_state`."""
        if "model" in state:
            import_weights(self._model, state["model"])
        if "optimizer" in state:
            import_optimizer(self._model, self._state.optimizer, state["optimizer"])
        if "teacher" in state and self._state.teacher is not None:
            import_weights(self._state.teacher, state["teacher"])

    def weights(self) -> Arrays:
        """See `anatobench.engine.Trainable.weights`."""
        return export_weights(self._model)

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """See `anatobench.engine.Trainable.load_weights`."""
        self.load_state({"model": weights, "teacher": weights})

    def gather(self, array: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Collective.gather`."""
        return parallel.gather(array, self._device, self.processes)

    def all_reduce_seconds(self, elements: int, repeats: int) -> list[float]:
        """See `anatobench.engine.Collective.all_reduce_seconds`."""
        return parallel.all_reduce_seconds(elements, repeats, self._device, self.processes)

    def close(self) -> None:
        """See `anatobench.engine.Collective.close`."""
        del (
            self._distributed,
            self._objectives,
            self._logits,
            self._state,
        )  # gloo aborts if a reducer outlives its group
        gc.collect()
        parallel.leave(self.processes)

    def device(self) -> dict[str, Any]:
        """See `anatobench.engine.Engine.device`."""
        gpu = self._device.type == "cuda"
        return {
            "kind": "gpu" if gpu else "cpu",
            "name": torch.cuda.get_device_name() if gpu else platform.processor() or platform.machine(),
            "count": self.processes.count,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "cuda": torch.version.cuda if gpu else None,
                "cudnn": torch.backends.cudnn.version() if gpu else None,
            },
        }

    def instruments(self) -> TorchInstruments:
        """See `anatobench.engine.Engine.instruments`."""
        return TorchInstruments(self._device, self._precision)

    def _features(self, volume: Tensor) -> Tensor:
        """int16 [B, D, H, W] to the feature map."""
        with self._settings():
            return self._objectives[0].features(volume)

    def _moved(self, batch: Batch, phase: int) -> dict[str, Tensor]:
        """Return what the phase's objective reads, on the device."""
        return {name: self._to_device(batch[name]) for name in self._phases[phase].objective.reads}

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        """Set the process's switches, which another engine may have left otherwise."""
        self._precision.set_switches()
        with preferred_kernels(self._device):
            yield

    @contextlib.contextmanager
    def _seeded(self, step: int) -> Iterator[None]:
        """Draw the same at random whenever that step is taken; the process's generators stay as they are."""
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            # Every process draws for its own cases.
            place = [self.processes.index] if self.processes.index else []
            (seed,) = np.random.SeedSequence([self.recipe.seed, step, *place]).generate_state(1, np.uint64)
            torch.manual_seed(int(seed))
            yield

    @contextlib.contextmanager
    def _kept_buffers(self) -> Iterator[None]:
        """Bring back BatchNorm's running values, which a pass in training mode moves."""
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        yield
        with torch.no_grad():
            for name, buffer in self._model.named_buffers():
                buffer.copy_(buffers[name])

    def _gradients(self, loss: Tensor) -> Arrays:
        trained = {name: parameter for name, parameter in named_parameters(self._model) if parameter.requires_grad}
        gradients = torch.autograd.grad(loss, list(trained.values()))
        return {name: to_numpy(gradient) for name, gradient in zip(trained, gradients, strict=True)}


def _build_model(spec: ModelSpec, recipe: Recipe, forms: frozenset[str]) -> DiagnosisModel:
    """Weights drawn from the seed on the CPU, whatever the device, without touching the process's own generator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        auxiliary = {name: HEADS[name].outputs(spec.task) for name in auxiliary_heads(spec.heads)}
        model = DiagnosisModel(build_backbone(spec, forms), auxiliary, recompute=recipe.recompute)
    if not recipe.dropout:
        switch_off_dropout(model)
    return model


def switch_off_dropout(model: nn.Module) -> None:
    """Set every rate of dropout and stochastic depth to 0, for good."""
    for module in model.modules():
        if isinstance(module, nn.Dropout | StochasticDepth):
            module.p = 0.0


def build(spec: ModelSpec, recipe: Recipe, processes: Processes = ALONE) -> TorchEngine:
    """Return the entry point of `anatobench.engine.load_engine`."""
    return TorchEngine(spec, recipe, processes)
