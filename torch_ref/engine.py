"""The engine contract (anatobench/engine.py) in PyTorch."""

from __future__ import annotations

import contextlib
import gc
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from anatobench.engine import Arrays, Inspection, ModelSpec, StepMetrics
from anatobench.errors import UsageError
from anatobench.fast_forms import fast_forms
from anatobench.recipes import Recipe
from anatobench.store.batch import Batch
from anatobench.system.processes import ALONE, Processes
from anatobench.tasks import Size
from torch_ref import parallel
from torch_ref.compilation import compile_module, compiled, compiles, keep_compiled_programs
from torch_ref.forms import DEFAULT_FORMS, plain_forms, preferred_kernels
from torch_ref.instruments import TorchInstruments
from torch_ref.layers.segmentation_kernels import segmentation_loss_fused
from torch_ref.layers.triton_language import kernels_run_on
from torch_ref.losses import CaseLosses, case_losses, segmentation_loss
from torch_ref.losses_by_parts import segmentation_loss_by_parts
from torch_ref.models import build_backbone
from torch_ref.models.diagnosis_model import DiagnosisModel
from torch_ref.optimizer import build_optimizer, clip_and_update
from torch_ref.precision import Precision
from torch_ref.preprocessing import normalise
from torch_ref.transfer import Transfer
from torch_ref.weights import (
    copy_by_name,
    export_optimizer,
    export_weights,
    import_optimizer,
    import_weights,
    named_parameters,
    to_numpy,
)


@dataclass(frozen=True)
class PendingStep:
    """The figures of a step, still on the device."""

    means: Tensor
    """[6]: loss, classification, any_injury, segmentation, gradient norm, share of processes asked to stop."""
    case_losses: Tensor
    """[B]"""

    def fetch(self) -> StepMetrics:
        """Wait for the device."""
        loss, classification, any_injury, segmentation, norm, stop = self.means.tolist()
        return StepMetrics(loss, classification, any_injury, segmentation, norm, to_numpy(self.case_losses), stop > 0)


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
        model = parallel.with_global_batch_norm(_build_model(spec, recipe, forms), self._device, processes)
        self._model = model.to(self._device, self._precision.parameter_dtype)
        if self._device.type == "cuda":
            self._model = self._model.to(memory_format=self._model.memory_format)
        self._optimizer = build_optimizer(self._model.parameters(), recipe)
        self._objective = Objective(self._model, spec, recipe, self._precision, forms)
        self._logits = self._objective.logits
        if compiling:
            compile_module(self._objective, recipe.compile, processes.alone)
            self._logits = compiled(self._objective.logits, recipe.compile, alone=True)
        self._distributed = parallel.distributed(self._objective, self._device, processes)

    def train_step(self, batch: Batch, learning_rate: float, step: int, stop: bool = False) -> PendingStep:
        """See `anatobench.engine.Engine.train_step`."""
        self._model.train()
        self._optimizer.zero_grad()  # before the forward pass, which can use their memory
        with self._settings(), self._seeded(step):
            losses = CaseLosses(*self._distributed(*self._moved(batch)))
            losses.total.mean().backward()
        norm = clip_and_update(self._optimizer, self.recipe.clip_norm, learning_rate)
        asked = torch.full_like(norm, float(stop))
        means = torch.stack([*(_means(losses).values()), norm, asked]).detach()
        # Copied: CUDA graphs write the next step's losses to the same place.
        return PendingStep(parallel.mean_of_all(means, self.processes), losses.total.detach().clone())

    @torch.no_grad()
    def predict(self, volume: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Engine.predict`."""
        self._model.eval()
        with self._settings():
            return to_numpy(self._logits(self._to_device(volume)).float())

    @torch.no_grad()
    def segment(self, volume: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Engine.segment`; `UsageError` for a model without the head."""
        self._model.eval()
        seg_logits = self._model.segment(self._features(volume), _size(volume))
        if seg_logits is None:
            raise UsageError("this model was built without the segmentation head: build it with segmentation=True")
        return to_numpy(seg_logits.argmax(1).to(torch.uint8))

    def attribution(self, volume: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Engine.attribution`."""
        self._model.eval()
        with torch.no_grad():
            features = self._features(volume).to(self._model.head_dtype)
        features.requires_grad_()
        logits = self._model.classify(features)
        (gradient,) = torch.autograd.grad(logits, features, self._to_device(slope).to(logits.dtype))
        weights = gradient.mean((2, 3, 4), keepdim=True)
        return to_numpy((weights * features.detach()).sum(1).relu())

    def inspect(self, batch: Batch, train: bool = True, gradients: bool = True) -> Inspection:
        """See `anatobench.engine.Engine.inspect`."""
        seen: Arrays = {}

        def record(name: str, output: Tensor) -> None:  # copied at once: a later in-place ReLU may not change it
            seen[name] = to_numpy(output.to(self._precision.parameter_dtype))

        self._model.train(train)
        with self._settings(), self._kept_buffers(), torch.set_grad_enabled(gradients), self._seeded(0):
            losses = CaseLosses(*self._objective.forward(*self._moved(batch), record))
            found = self._gradients(losses) if gradients else {}
        return Inspection(
            logits=seen.pop(LOGITS),
            seg_logits=seen.pop(SEG_LOGITS, np.zeros(0)),
            activations=seen,
            losses={name: value.item() for name, value in _means(losses).items()},
            gradients=found,
        )

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """See `anatobench.engine.Engine.parameter_shapes`."""
        return {name: tuple(parameter.shape) for name, parameter in sorted(named_parameters(self._model))}

    def hessian_product(self, batch: Batch, direction: Mapping[str, np.ndarray]) -> Arrays:
        """See `anatobench.engine.Engine.hessian_product`."""
        names, parameters = zip(*named_parameters(self._model), strict=True)
        along = {name: torch.zeros_like(parameter) for name, parameter in zip(names, parameters, strict=True)}
        copy_by_name(along, direction, "the direction")
        self._model.train()
        with self._settings(), self._kept_buffers(), self._seeded(0), plain_forms(self._objective):
            loss = CaseLosses(*self._objective.forward(*self._moved(batch))).total.mean()
            gradients = torch.autograd.grad(loss, parameters, create_graph=True)
            slope = sum(((g * along[name]).sum() for name, g in zip(names, gradients, strict=True)), loss.new_zeros(()))
            products = torch.autograd.grad(slope, parameters, materialize_grads=True)
        return {name: to_numpy(product) for name, product in zip(names, products, strict=True)}

    def weights(self) -> Arrays:
        """See `anatobench.engine.Engine.weights`."""
        return export_weights(self._model)

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """See `anatobench.engine.Engine.load_weights`."""
        import_weights(self._model, weights)

    def optimizer_state(self) -> Arrays:
        """See `anatobench.engine.Engine.optimizer_state`."""
        return export_optimizer(self._model, self._optimizer)

    def load_optimizer_state(self, state: Mapping[str, np.ndarray]) -> None:
        """See `anatobench.engine.Engine.load_optimizer_state`."""
        import_optimizer(self._model, self._optimizer, state)

    def gather(self, array: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Engine.gather`."""
        return parallel.gather(array, self._device, self.processes)

    def close(self) -> None:
        """See `anatobench.engine.Engine.close`."""
        del (
            self._distributed,
            self._objective,
            self._logits,
            self._optimizer,
            self._model,
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

    def _features(self, volume: np.ndarray) -> Tensor:
        """int16 [B, D, H, W] to the feature map."""
        with self._settings():
            return self._objective.features(self._to_device(volume))

    def _moved(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """What the objective takes, on the device."""
        return self._to_device(batch.volume), self._to_device(batch.organs), self._to_device(batch.targets)

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        """The process's switches, which another engine may have left otherwise."""
        self._precision.set_switches()
        with preferred_kernels(self._device):
            yield

    @contextlib.contextmanager
    def _seeded(self, step: int) -> Iterator[None]:
        """What a step draws at random is the same whenever that step is taken; the process's generators stay as they
        are."""
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            # Every process draws for its own cases.
            place = [self.processes.index] if self.processes.index else []
            (seed,) = np.random.SeedSequence([self.recipe.seed, step, *place]).generate_state(1, np.uint64)
            torch.manual_seed(int(seed))
            yield

    @contextlib.contextmanager
    def _kept_buffers(self) -> Iterator[None]:
        """A pass in training mode moves BatchNorm's running values; afterwards they are what they were."""
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        yield
        with torch.no_grad():
            for name, buffer in self._model.named_buffers():
                buffer.copy_(buffers[name])

    def _gradients(self, losses: CaseLosses) -> Arrays:
        names, parameters = zip(*named_parameters(self._model), strict=True)
        gradients = torch.autograd.grad(losses.total.mean(), parameters)
        return {name: to_numpy(gradient) for name, gradient in zip(names, gradients, strict=True)}


LOGITS, SEG_LOGITS = "logits", "seg_logits"
"""What the objective shows besides the stages."""


class Objective(nn.Module):
    """What a step differentiates: from a batch as it travels to every term of the loss per case."""

    def __init__(
        self, model: DiagnosisModel, spec: ModelSpec, recipe: Recipe, precision: Precision, forms: frozenset[str]
    ) -> None:
        super().__init__()
        self.model = model
        self.spec, self.recipe, self.precision = spec, recipe, precision
        self.forms = forms & {"segmentation", "segmentation_kernel"}

    def forward(
        self, volume: Tensor, organs: Tensor, targets: Tensor, record: Callable[[str, Tensor], None] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """int16 and uint8 [B, D, H, W], int8 [B, groups] to the fields of `CaseLosses`; `record` is shown the stages'
        outputs and both heads' logits."""
        features = self.features(volume, record)
        logits = self.model.classify(features)
        segmentation = self._segmentation(features, organs)
        if record is not None:
            record(LOGITS, logits)
            if (seg_logits := self.model.segment(features, _size(volume))) is not None:
                record(SEG_LOGITS, seg_logits)
        losses = case_losses(self.spec.task, self.recipe, logits, targets, segmentation)
        return losses.total, losses.classification, losses.any_injury, losses.segmentation

    def features(self, volume: Tensor, record: Callable[[str, Tensor], None] | None = None) -> Tensor:
        """int16 [B, D, H, W] to the feature map."""
        x = normalise(volume, self.spec.task.window, self.precision.parameter_dtype)
        with self.precision.autocast(x.device):
            return self.model.features(x, record)

    def logits(self, volume: Tensor) -> Tensor:
        """int16 [B, D, H, W] to [B, logits]."""
        return self.model.classify(self.features(volume))

    def _segmentation(self, features: Tensor, organs: Tensor) -> Tensor | None:
        if self.forms:
            coarse = self.model.segment_coarse(features)
            if coarse is None:
                return None
            kernel = "segmentation_kernel" in self.forms and kernels_run_on(coarse)
            return (_fused_segmentation_loss if kernel else segmentation_loss_by_parts)(self.recipe, coarse, organs)
        seg_logits = self.model.segment(features, _size(organs))
        return None if seg_logits is None else segmentation_loss(self.recipe, seg_logits, organs)


def _size(volume: np.ndarray | Tensor) -> Size:
    depth, height, width = volume.shape[1:]
    return depth, height, width


def _fused_segmentation_loss(recipe: Recipe, coarse: Tensor, organs: Tensor) -> Tensor:
    return segmentation_loss_fused(coarse, organs, recipe.segmentation_loss, recipe.dice_smooth)


def _means(losses: CaseLosses) -> dict[str, Tensor]:
    return {
        "loss": losses.total.mean(),
        "classification": losses.classification.mean(),
        "any_injury": losses.any_injury.mean(),
        "segmentation": losses.segmentation.mean(),
    }


def _build_model(spec: ModelSpec, recipe: Recipe, forms: frozenset[str]) -> DiagnosisModel:
    """Weights drawn from the seed on the CPU, whatever the device, without touching the process's own generator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        classes = spec.task.segmentation_classes if spec.segmentation else None
        model = DiagnosisModel(build_backbone(spec, forms), classes, recompute=recipe.recompute)
    if not recipe.dropout:
        switch_off_dropout(model)
    return model


def switch_off_dropout(model: nn.Module) -> None:
    """Sets every rate of dropout and stochastic depth to 0, for good."""
    for module in model.modules():
        if isinstance(module, nn.Dropout | StochasticDepth):
            module.p = 0.0


def build(spec: ModelSpec, recipe: Recipe, processes: Processes = ALONE) -> TorchEngine:
    """The entry point of `anatobench.engine.load_engine`."""
    return TorchEngine(spec, recipe, processes)
