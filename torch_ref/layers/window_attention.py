"""torchvision's ShiftedWindowAttention3d (torchvision/models/video/swin_transformer.py), and its fast form.

The plain form is torchvision's own: the logits of all windows in memory, the relative positions' bias and the shift's
mask added to them. The fast form leaves them to fused kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from anatobench.tasks import Size
from torch_ref.layers.attention import ALIGNMENT, fused_attention
from torch_ref.layers.triton_language import kernels_run_on
from torch_ref.layers.window_kernels import MASKED, window_attention

REGIONS = 8
"""At most in a window: two along each axis."""


class FastWindowAttention(ShiftedWindowAttention3d):
    """What `with_fast_forms` makes of one: self-attention within windows of [B, d, h, w, C]; same shape out."""

    forms: frozenset[str]
    """Which of `window_attention` and `window_kernel` are on; neither is torchvision's own form."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.forms:
            return super().forward(x)
        size = x.shape[1:4]
        window, shift = fitted_window(size, self.window_size, self.shift_size)
        missing = [-length % side for length, side in zip(size, window, strict=True)]
        padded = [length + more for length, more in zip(size, missing, strict=True)]
        if any(missing):  # zeros, like torchvision's: they are keys for everybody in their window, by the bias of qkv
            x = F.pad(x, (0, 0, 0, missing[2], 0, missing[1], 0, missing[0]))
        if any(shift):
            x = torch.roll(x, [-s for s in shift], (1, 2, 3))
        regions = shift_regions(padded, window, shift, x.device) if any(shift) else None
        x = from_windows(self._attend(to_windows(x, window), window, regions), window, padded)
        if any(shift):
            x = torch.roll(x, shift, (1, 2, 3))
        return x[:, : size[0], : size[1], : size[2]]

    def _attend(self, x: Tensor, window: Size, regions: Tensor | None) -> Tensor:
        """x [B, windows, voxels of a window, C]; regions [windows, voxels] or None."""
        batch, windows, voxels, channels = x.shape
        qkv = self.qkv(x).reshape(batch * windows, voxels, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, values = qkv.unbind(0)
        bias = self._relative_position_bias(window)
        if "window_kernel" in self.forms and kernels_run_on(queries):
            attended = window_attention(queries, keys, values, bias, regions)  # which scales the queries itself
        else:
            flex = torch.compiler.is_compiling() and x.is_cuda and x.dtype != torch.float64
            attend = attend_with_flex if flex else attend_with_columns
            attended = attend(queries * queries.shape[-1] ** -0.5, keys, values, bias, regions)
        projected: Tensor = self.proj(attended.transpose(1, 2).reshape(batch, windows, voxels, channels))
        return projected

    def _relative_position_bias(self, window: Size) -> Tensor:
        """[heads, voxels, voxels]; see `get_relative_position_bias` of torchvision's layer."""
        return self.get_relative_position_bias(list(window))[0]


def attend_with_flex(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, regions: Tensor | None) -> Tensor:
    """FlexAttention, which has to be compiled: bias and mask are added inside the kernel, and the bias has its gradient
    there. Queries, keys and values [B windows, heads, voxels, d], queries scaled; to the same shape.
    bias [heads, voxels, voxels]; regions int32 [windows, voxels] of `shift_regions`, or None where nothing is shifted.

    On an H100 45 ms a step of swin3d_t against 55 ms by `attend_with_columns` with a mask in memory.
    """

    def score(logit: Tensor, pair: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        logit = logit + bias[head, query, key]
        if regions is None:
            return logit
        place = pair % len(regions)
        return logit + torch.where(regions[place, query] == regions[place, key], 0.0, MASKED)

    return flex_attention(queries.contiguous(), keys.contiguous(), values.contiguous(), score, scale=1.0)


def attend_with_columns(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, regions: Tensor | None) -> Tensor:
    """Return the same, of the same shapes, by PyTorch's attention kernels, which take one bias for all windows.

    So the mask goes into the product of queries and keys: a query has MASKED in its own region's column, and a key has
    1 in all columns but its own. Their product is 0 within a region and MASKED between two, exactly.

    On a GPU no array of all logits exists going forward; PyTorch's kernel writes the bias's gradient for every window,
    [B windows, heads, voxels, voxels] in the type of the queries, before it is summed up.
    """
    if regions is not None:
        numbers = torch.arange(REGIONS, device=regions.device)
        own = (regions[:, None, :, None] == numbers).to(queries.dtype)
        own = own.repeat(len(queries) // len(regions), queries.shape[1], 1, 1)
        queries, keys = torch.cat([queries, MASKED * own], -1), torch.cat([keys, 1 - own], -1)
    # The kernels want rows of a multiple of 8 numbers in memory, not in use.
    count = bias.shape[-1]
    bias = bias.to(queries.dtype)
    if count % ALIGNMENT:
        bias = F.pad(bias, (0, -count % ALIGNMENT))[..., :count]
    return fused_attention(queries, keys, values, bias.expand(len(queries), -1, -1, -1))


def with_fast_forms(layer: ShiftedWindowAttention3d, forms: frozenset[str]) -> None:
    """Switch on those of `forms` that this layer has. Parameters and their names stay."""
    layer.__class__ = FastWindowAttention
    assert isinstance(layer, FastWindowAttention)
    layer.forms = forms & {"window_attention", "window_kernel"}


def fitted_window(size: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> tuple[Size, Size]:
    """Window and shift for a map: on an axis that the window covers it shrinks to the map and does not shift."""
    covered = [length <= side for length, side in zip(size, window, strict=True)]
    fitted = [length if c else side for length, side, c in zip(size, window, covered, strict=True)]
    shifts = [0 if c else s for s, c in zip(shift, covered, strict=True)]
    return (fitted[0], fitted[1], fitted[2]), (shifts[0], shifts[1], shifts[2])


def to_windows(x: Tensor, window: Size) -> Tensor:
    """[B, D, H, W, C] of a size that windows fill to [B, windows, voxels of a window, C]."""
    batch, *size, channels = x.shape
    (wd, wh, ww), (nd, nh, nw) = window, (length // side for length, side in zip(size, window, strict=True))
    x = x.reshape(batch, nd, wd, nh, wh, nw, ww, channels).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(batch, nd * nh * nw, prod(window), channels)


def from_windows(x: Tensor, window: Size, size: Sequence[int]) -> Tensor:
    """Return the inverse of `to_windows`: [B, windows, voxels of a window, C] to [B, D, H, W, C] of `size`."""
    batch, channels = x.shape[0], x.shape[-1]
    (wd, wh, ww), (nd, nh, nw) = window, (length // side for length, side in zip(size, window, strict=True))
    x = x.reshape(batch, nd, nh, nw, wd, wh, ww, channels).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(batch, *size, channels)


def shift_regions(size: Sequence[int], window: Size, shift: Size, device: torch.device) -> Tensor:
    """int32 [windows, voxels of a window], 0 to 7: what lay together in a window before the shift has equal numbers.
    Only the last window of an axis mixes: its last `shift` positions come from the map's other end."""
    numbers = torch.zeros((1, *size, 1), dtype=torch.int32, device=device)
    for axis, (length, moved) in enumerate(zip(size, shift, strict=True)):
        wrapped = torch.arange(length, device=device) >= length - moved
        numbers = 2 * numbers + wrapped.reshape([-1 if other == axis + 1 else 1 for other in range(5)])
    return to_windows(numbers, window)[0, :, :, 0]
