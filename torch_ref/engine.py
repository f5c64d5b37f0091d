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

from anatobench.engine import Arrays, Batch, Inspection, ModelSpec, StepMetrics
from anatobench.errors import UsageError
from anatobench.processes import ALONE, Processes
from anatobench.recipes import Recipe
from anatobench.tasks import Size
from torch_ref import parallel
from torch_ref.instruments import TorchInstruments
from torch_ref.losses import CaseLosses, case_losses
from torch_ref.models import build_backbone
from torch_ref.models.diagnosis_model import DiagnosisModel
from torch_ref.optimizer import build_optimizer, clip_and_update
from torch_ref.precision import Precision
from torch_ref.preprocessing import normalise
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
        self._model = parallel.with_global_batch_norm(_build_model(spec, recipe), self._device, processes)
        self._model = self._model.to(self._device, self._precision.parameter_dtype)
        if self._device.type == "cuda":  # the layout from which cuDNN's 3D convolutions reach the tensor cores
            self._model = self._model.to(memory_format=torch.channels_last_3d)
        self._optimizer = build_optimizer(self._model.parameters(), recipe)
        self._distributed = parallel.distributed(self._model, self._device, processes)

    def train_step(self, batch: Batch, learning_rate: float, step: int, stop: bool = False) -> PendingStep:
        """See `anatobench.engine.Engine.train_step`."""
        self._model.train()
        x = self._normalised(batch.volume)
        with self._seeded(step):
            logits, seg_logits = self._distributed(x, _size(batch.volume), self._precision.autocast(self._device))
        losses = self._losses(logits, seg_logits, batch)
        self._optimizer.zero_grad()
        losses.total.mean().backward()
        norm = clip_and_update(self._optimizer, self.recipe.clip_norm, learning_rate)
        asked = torch.full_like(norm, float(stop))
        means = torch.stack([*(_means(losses).values()), norm, asked]).detach()
        return PendingStep(parallel.mean_of_all(means, self.processes), losses.total.detach())

    @torch.inference_mode()
    def predict(self, volume: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Engine.predict`."""
        self._model.eval()
        return to_numpy(self._model.classify(self._features(volume)).float())

    @torch.inference_mode()
    def segment(self, volume: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Engine.segment`; `UsageError` for a model without the head."""
        self._model.eval()
        seg_logits = self._segment(self._features(volume), volume)
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
        activations: Arrays = {}
        dtype = self._precision.parameter_dtype
        self._model.train(train)
        with self._kept_buffers(), torch.set_grad_enabled(gradients), self._seeded(0):
            # Copied at once: a later in-place ReLU may not change what was seen.
            features = self._features(
                batch.volume, lambda name, output: activations.update({name: to_numpy(output.to(dtype))})
            )
            logits = self._model.classify(features)
            seg_logits = self._segment(features, batch.volume)
            losses = self._losses(logits, seg_logits, batch)
            found = self._gradients(losses) if gradients else {}
        return Inspection(
            activations=activations,
            logits=to_numpy(logits),
            seg_logits=np.zeros(0) if seg_logits is None else to_numpy(seg_logits),
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
        with self._kept_buffers(), self._seeded(0):
            features = self._features(batch.volume)
            logits, seg_logits = self._model.classify(features), self._segment(features, batch.volume)
            loss = self._losses(logits, seg_logits, batch).total.mean()
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
        del self._distributed, self._optimizer, self._model  # gloo aborts if a reducer outlives its group
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

    def _features(self, volume: np.ndarray, record: Callable[[str, Tensor], None] | None = None) -> Tensor:
        """int16 [B, D, H, W] to the feature map; `record` is shown every stage's output."""
        x = self._normalised(volume)
        with self._precision.autocast(self._device):
            return self._model.features(x, record)

    def _normalised(self, volume: np.ndarray) -> Tensor:
        """int16 [B, D, H, W] to the model's input [B, 1, D, H, W]."""
        self._precision.set_switches()
        return normalise(self._to_device(volume), self.spec.task.window, self._precision.parameter_dtype)

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

    def _to_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self._device.type == "cuda":  # pinned memory is what lets the copy overlap with the step before
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor

    def _segment(self, features: Tensor, volume: np.ndarray) -> Tensor | None:
        return self._model.segment(features, _size(volume))

    def _losses(self, logits: Tensor, seg_logits: Tensor | None, batch: Batch) -> CaseLosses:
        targets, organs = self._to_device(batch.targets), self._to_device(batch.organs)
        return case_losses(self.spec.task, self.recipe, logits, seg_logits, targets, organs)

    def _gradients(self, losses: CaseLosses) -> Arrays:
        names, parameters = zip(*named_parameters(self._model), strict=True)
        gradients = torch.autograd.grad(losses.total.mean(), parameters)
        return {name: to_numpy(gradient) for name, gradient in zip(names, gradients, strict=True)}


def _size(volume: np.ndarray) -> Size:
    depth, height, width = volume.shape[1:]
    return depth, height, width


def _means(losses: CaseLosses) -> dict[str, Tensor]:
    return {
        "loss": losses.total.mean(),
        "classification": losses.classification.mean(),
        "any_injury": losses.any_injury.mean(),
        "segmentation": losses.segmentation.mean(),
    }


def _build_model(spec: ModelSpec, recipe: Recipe) -> DiagnosisModel:
    """Weights drawn from the seed on the CPU, whatever the device, without touching the process's own generator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        classes = spec.task.segmentation_classes if spec.segmentation else None
        model = DiagnosisModel(build_backbone(spec), classes, recompute=recipe.recompute)
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
