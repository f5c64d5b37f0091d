"""A training step as a person would write it with stock torchvision and PyTorch: a peer of `anatobench bench step`.

    anatobench bench step --framework torch,jax --peer benchmarks/peers/step_torchvision.py:eager,autocast ...

torchvision's own builders make the models, changed only where the paper's Table 7 asks for it: one input channel and
another patch or stem. Around them stands the plainest training step there is: memory in PyTorch's default layout,
PyTorch's default precision (TF32 in cuDNN's convolutions, float32 in matrix products) or bfloat16 autocast over all of
the model, with and without `torch.compile`. Loss, optimizer, clipping, weights and batch are the suite's, so that the
arms do the same work; `anatobench.bench.arm_process.Model` says what an arm offers.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.video import r3d_18, swin3d_t
from torchvision.models.video.mvit import MSBlockConfig, MViT
from torchvision.models.video.resnet import VideoResNet
from torchvision.models.video.swin_transformer import PatchEmbed3d, SwinTransformer3d

from anatobench.backbones.mvit_v2_s import LAYOUTS as MVIT_LAYOUTS
from anatobench.backbones.mvit_v2_s import STOCHASTIC_DEPTH
from anatobench.engine import Arrays, ModelSpec, StepMetrics
from anatobench.errors import UsageError
from anatobench.objectives.heads import SEGMENTATION
from anatobench.recipes import Recipe
from anatobench.store.batch import Batch
from torch_ref.instruments import TorchInstruments
from torch_ref.losses.diagnosis import any_injury_loss, classification_loss
from torch_ref.losses.segmentation import segmentation_loss
from torch_ref.models import build_backbone
from torch_ref.optimizer import build_optimizer, clip_and_update
from torch_ref.precision import Precision
from torch_ref.preprocessing import normalise
from torch_ref.weights import copy_by_name, named_tensors, to_numpy


@dataclass(frozen=True)
class Variant:
    """How the stock model is run."""

    autocast: bool = False
    compiled: bool = False


VARIANTS = {
    "eager": Variant(),
    "autocast": Variant(autocast=True),
    "compile": Variant(compiled=True),
    "compile_autocast": Variant(autocast=True, compiled=True),
}


class StockModel(nn.Module):
    """torchvision's video model with logits from the averaged feature map F, and the segmentation head on F."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        # The tiny sizes exist in this suite alone: torchvision's classes with the suite's numbers.
        self.backbone: Any = build_backbone(spec) if spec.size == "tiny" else self.stock_backbone(spec)
        self.segmentation_head: nn.Module | None = None
        if SEGMENTATION in spec.heads:
            channels = self.classifier().in_features
            self.segmentation_head = nn.Conv3d(channels, spec.task.segmentation_classes, kernel_size=1)

    @staticmethod
    def stock_backbone(spec: ModelSpec) -> nn.Module:
        """torchvision's builder with Table 7's changes."""
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        """Return what torchvision's `forward` computes up to its pooling, [B, C, d, h, w]."""
        raise NotImplementedError

    def classifier(self) -> nn.Linear:
        """Return the last linear layer, from F's channels to the logits. (MViT's lies behind dropout, which `head`
        draws.)"""
        return [module for module in self.backbone.modules() if isinstance(module, nn.Linear)][-1]

    def logits(self, pooled: Tensor) -> Tensor:
        """[B, C] to [B, logits], as torchvision's `forward` ends."""
        logits: Tensor = self.backbone.head(pooled)
        return logits

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.features(x)
        logits = self.logits(features.mean((2, 3, 4)))
        if self.segmentation_head is None:
            return logits, None
        coarse = self.segmentation_head(features)
        return logits, nn.functional.interpolate(coarse, size=x.shape[2:], mode="trilinear", align_corners=False)


class StockResNet(StockModel):
    """`torchvision.models.video.r3d_18`."""

    @staticmethod
    def stock_backbone(spec: ModelSpec) -> nn.Module:
        model: VideoResNet = r3d_18(num_classes=spec.task.logit_count)
        cast(nn.Sequential, model.stem)[0] = nn.Conv3d(1, 64, kernel_size=2, stride=2, bias=False)
        return model

    def features(self, x: Tensor) -> Tensor:
        model = self.backbone
        features: Tensor = model.layer4(model.layer3(model.layer2(model.layer1(model.stem(x)))))
        return features

    def logits(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.backbone.fc(pooled)
        return logits


class StockSwin(StockModel):
    """`torchvision.models.video.swin3d_t`."""

    @staticmethod
    def stock_backbone(spec: ModelSpec) -> nn.Module:
        model: SwinTransformer3d = swin3d_t(num_classes=spec.task.logit_count, patch_embed=_one_channel_patches)
        return model

    def features(self, x: Tensor) -> Tensor:
        model = self.backbone
        features: Tensor = model.norm(model.features(model.pos_drop(model.patch_embed(x))))
        return features.permute(0, 4, 1, 2, 3)


class StockMViT(StockModel):
    """`torchvision.models.video.MViT` with `mvit_v2_s`'s blocks."""

    @staticmethod
    def stock_backbone(spec: ModelSpec) -> nn.Module:
        return _mvit(spec, spec.task.logit_count)

    def features(self, x: Tensor) -> Tensor:
        model = self.backbone
        x = model.conv_proj(x)
        grid = (x.shape[2], x.shape[3], x.shape[4])
        x = model.pos_encoding(x.flatten(2).transpose(1, 2))
        for block in model.blocks:
            x, grid = block(x, grid)
        patches: Tensor = model.norm(x)[:, 1:]
        features: Tensor = patches.transpose(1, 2).unflatten(2, grid)
        return features


STOCK_MODELS: dict[str, type[StockModel]] = {
    "r3d_18": StockResNet,
    "swin3d_t": StockSwin,
    "mvit_v2_s": StockMViT,
}


def _one_channel_patches(patch_size: list[int], **options: Any) -> PatchEmbed3d:
    """In place of `swin3d_t`'s own patch size, which its builder does not let one change."""
    return PatchEmbed3d(patch_size=[16, 2, 2], in_channels=1, **options)


def _mvit(spec: ModelSpec, classes: int) -> MViT:
    layout = MVIT_LAYOUTS[spec.size]
    blocks = [
        MSBlockConfig(
            num_heads=heads,
            input_channels=layout.channels[index],
            output_channels=layout.channels[index + 1],
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=[1, layout.query_strides[index], layout.query_strides[index]],
            stride_kv=[1, layout.key_value_strides[index], layout.key_value_strides[index]],
        )
        for index, heads in enumerate(layout.heads)
    ]
    depth, height, width = spec.crop_size
    model = MViT(
        spatial_size=(height, width),
        temporal_size=depth,
        block_setting=blocks,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        stochastic_depth_prob=STOCHASTIC_DEPTH,
        num_classes=classes,
        patch_embed_kernel=layout.patch,
        patch_embed_stride=layout.patch,
        patch_embed_padding=(0, 0, 0),
    )
    model.conv_proj = nn.Conv3d(1, layout.channels[0], layout.patch, layout.patch)
    return model


@dataclass(frozen=True)
class PendingStep:
    """The figures of a step, still on the device."""

    loss: Tensor
    gradient_norm: Tensor
    case_losses: Tensor

    def fetch(self) -> StepMetrics:
        """Wait for the device. (A stock step keeps no account of single terms.)"""
        return StepMetrics(self.loss.item(), {}, self.gradient_norm.item(), to_numpy(self.case_losses.float()))


def _stock_model(spec: ModelSpec) -> StockModel:
    """torchvision's own model; `UsageError` if this file has none of that name."""
    if spec.model not in STOCK_MODELS:
        raise UsageError(
            f"model {spec.model} has no stock model to be compared with: leave the peer out, or add a line to "
            "`STOCK_MODELS` in benchmarks/peers/step_torchvision.py"
        )
    return STOCK_MODELS[spec.model](spec)


class StockStep:
    """One stock model with its optimizer on one device, the GPU if there is one."""

    def __init__(self, variant: Variant, spec: ModelSpec, recipe: Recipe) -> None:
        self._spec, self._variant = spec, variant
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # What the operations are counted against: PyTorch's default lets convolutions use TF32 where a GPU has it.
        single = "tf32" if self._device.type == "cuda" else "fp32"
        self.recipe = replace(recipe, precision="bf16" if variant.autocast else single)
        torch.manual_seed(recipe.seed)
        self._model = _stock_model(spec).to(self._device).train()
        self._optimizer = build_optimizer(self._model.parameters(), recipe)
        self._forward = torch.compile(self._model) if variant.compiled else self._model

    def train_step(self, batch: Batch, learning_rate: float, step: int) -> PendingStep:
        """Forward, backward, clip, AdamW."""
        volume, organs, targets = (
            torch.from_numpy(array).to(self._device) for array in (batch["volume"], batch["organs"], batch["targets"])
        )
        x = normalise(volume, self._spec.task.window, torch.float32)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._variant.autocast):
            logits, seg_logits = self._forward(x)
        seg_logits = None if seg_logits is None else seg_logits.float()
        case_losses = self._case_losses(logits.float(), seg_logits, organs, targets.long())
        loss = case_losses.mean()
        self._optimizer.zero_grad()
        loss.backward()
        norm = clip_and_update(self._optimizer, self.recipe.clip_norm, learning_rate)
        return PendingStep(loss.detach(), norm, case_losses.detach())

    def _case_losses(self, logits: Tensor, seg_logits: Tensor | None, organs: Tensor, targets: Tensor) -> Tensor:
        task, recipe = self._spec.task, self.recipe
        loss = classification_loss(task, logits, targets)
        loss = loss + recipe.any_injury_weight * any_injury_loss(task, logits, targets)
        if seg_logits is not None:
            loss = loss + recipe.segmentation_weight * segmentation_loss(recipe, seg_logits, organs)
        return loss

    def weights(self) -> Arrays:
        """In canonical form."""
        return {name: to_numpy(tensor) for name, tensor in named_tensors(self._model).items()}

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take up what `weights` gave. Names and shapes must be those of this model."""
        head = self._model.segmentation_head is not None
        given = {name: array for name, array in weights.items() if head or not name.startswith("segmentation_head.")}
        copy_by_name(named_tensors(self._model), given, "weights")

    def device(self) -> dict[str, Any]:
        """As `anatobench.engine.Engine.device`."""
        gpu = self._device.type == "cuda"
        return {
            "kind": "gpu" if gpu else "cpu",
            "name": torch.cuda.get_device_name() if gpu else platform.processor() or platform.machine(),
            "count": 1,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "cuda": torch.version.cuda if gpu else None,
                "cudnn": torch.backends.cudnn.version() if gpu else None,
            },
        }

    def instruments(self) -> TorchInstruments:
        """As `anatobench.engine.Engine.instruments`."""
        precision = Precision(torch.float32, torch.bfloat16 if self._variant.autocast else torch.float32, True)
        return _DefaultSwitches(self._device, precision)


class _DefaultSwitches(TorchInstruments):
    """Leaves the TF32 switches as PyTorch sets them: the step runs under them."""

    def matrix_product_rate(self) -> float:
        products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        try:
            return super().matrix_product_rate()
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions


def build(variant: str, spec: ModelSpec, recipe: Recipe) -> StockStep:
    """Return the entry point of `anatobench bench step --peer`."""
    return StockStep(VARIANTS[variant], spec, recipe)
