# ruff: noqa: N803, RUF005
# In a Triton kernel an annotation is an instruction to the compiler, sizes keep their capitals, tuples grow by "+".
"""The auxiliary head's loss from its coarse logits: upsampling, cross-entropy and soft Dice in one kernel each way.

Trilinear upsampling is linear between neighbouring coarse voxels. So the full-size voxels are taken by cells: cell j
of an axis holds the positions between the centres of coarse voxels j and j + 1, and cells -1 and n - 1 hold those
outside the first and last centre. A program has one cell of the H axis and all cells of W: there every logit of a row
is a line in the row's position, a multiplication and an addition away from what the program has in registers, and what
a row gives back sums up there as well. Full-size logits are written nowhere.

For ten chest crops of 96x192x192, on an H100: the organs, all that is read once per voxel, are 35 MB each way, 0.01 ms.
Counted in the code compiled for compute capability 9.0, a voxel of 7 classes takes some 200 instructions forward and
270 backward with cross-entropy, 320 both ways with Dice: 0.2 to 0.4 ms each way. Not measured. PyTorch's upsampling
takes 25.9 ms backward alone.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
from torch import Tensor

from anatobench.recipes import Recipe
from anatobench.tasks import IGNORED_ORGAN
from torch_ref.layers.triton_language import OFFSETS, accumulator, blocks, jit, kernels_run_on, tl
from torch_ref.layers.upsampling import interpolation_matrix, upsample_trilinear

KINDS = ("ce", "dice", "ce_dice")
SLICES = 4
"""Of a case per program of the forward pass, so that its sums over voxels are reduced less often. Not measured."""


def segmentation_loss_fused(coarse: Tensor, organs: Tensor, kind: str, smooth: float) -> Tensor:
    """Loss per case, [B], of logits [B, K, d, h, w] after trilinear upsampling to the size of `organs` [B, D, H, W].

    `organs` is uint8; 255 is a voxel without mask and counts nowhere. `kind` is "ce" (mean over a case's voxels with
    mask), "dice" (mean over organs, background left out, of 1 - (2 |P T| + smooth) / (|P| + |T| + smooth)) or
    "ce_dice", their sum; 0 for a case without mask. In float32 at least; differentiable once, with respect to `coarse`.
    `ValueError` for another kind.
    """
    if kernels_run_on(coarse) and organs[0].numel() < OFFSETS:
        return _loss(_segmentation_sums(coarse.contiguous(), organs.contiguous(), _with_dice(kind)), kind, smooth)
    return segmentation_loss_plain(coarse, organs, kind, smooth)


def segmentation_loss_plain(coarse: Tensor, organs: Tensor, kind: str, smooth: float) -> Tensor:
    """Return the same, [B], by PyTorch's upsampling: the logits [B, K, D, H, W] are in memory."""
    from torch_ref.losses.segmentation import segmentation_loss  # now: that package's first import is this module

    _with_dice(kind)  # refuses what is no kind
    depth, height, width = organs.shape[1:]
    seg_logits = upsample_trilinear(coarse.to(torch.promote_types(coarse.dtype, torch.float32)), (depth, height, width))
    return segmentation_loss(Recipe(segmentation_loss=kind, dice_smooth=smooth), seg_logits, organs)


def _with_dice(kind: str) -> bool:
    if kind not in KINDS:
        raise ValueError(f"segmentation loss {kind!r}: pass one of {', '.join(KINDS)}")
    return kind != "ce"


def _loss(sums: Tensor, kind: str, smooth: float) -> Tensor:
    loss = torch.zeros_like(sums[:, 0])
    if kind != "dice":
        loss = loss + sums[:, 0] / sums[:, 1].clamp(min=1.0)
    if kind != "ce":
        overlap, probability, truth = (part[:, 1:] for part in sums[:, 2:].chunk(3, 1))
        of_organ = 1.0 - (2.0 * overlap + smooth) / (probability + truth + smooth)
        loss = loss + torch.where(sums[:, 1] > 0.0, of_organ.mean(1), 0.0)
    return loss


@torch.library.custom_op("anatobench::segmentation_sums", mutates_args=())
def _segmentation_sums(coarse: Tensor, organs: Tensor, dice: bool) -> Tensor:
    batch, classes, d, h, w = coarse.shape
    sum_type, acc = accumulator(coarse.dtype)
    chunks = blocks(organs.shape[1], SLICES)
    columns = 2 + 3 * classes if dice else 2
    partial = coarse.new_empty((batch, chunks * (h + 1), columns), dtype=sum_type)
    _sums_kernel[(chunks * (h + 1), batch)](
        *(coarse, organs, partial, *organs.shape[1:], d, h, w, organs[0].numel()),
        **{"K": classes, "DICE": dice, "SLICES": SLICES, "IGNORED": IGNORED_ORGAN, "ACC": acc},
        **_tile(w, organs.shape[3]),
    )
    return partial.sum(1)


@_segmentation_sums.register_fake
def _(coarse: Tensor, organs: Tensor, dice: bool) -> Tensor:
    columns = 2 + 3 * coarse.shape[1] if dice else 2
    return coarse.new_empty((coarse.shape[0], columns), dtype=accumulator(coarse.dtype)[0])


@torch.library.custom_op("anatobench::segmentation_sums_backward", mutates_args=())
def _segmentation_sums_backward(gradient: Tensor, coarse: Tensor, organs: Tensor, dice: bool) -> Tensor:
    gradient = gradient.contiguous()
    batch, classes, d, h, w = coarse.shape
    depth = organs.shape[1]
    sum_type, acc = accumulator(coarse.dtype)
    # What the cells of both axes say of their lower and upper ends.
    ends = coarse.new_empty((batch, depth, h + 1, 2, classes, 2, w + 1), dtype=sum_type)
    _sums_gradient_kernel[(depth * (h + 1), batch)](
        *(gradient, coarse, organs, ends, *organs.shape[1:], d, h, w, organs[0].numel()),
        **{"K": classes, "DICE": dice, "IGNORED": IGNORED_ORGAN, "ACC": acc},
        **_tile(w, organs.shape[3]),
    )
    rows = ends[..., 0, 1:] + ends[..., 1, :-1]
    rows = rows[:, :, 1:, 0] + rows[:, :, :-1, 1]  # [B, D, h, K, w], 1/256 of the logits at full size
    # Multiplied and summed, not a matrix product, which could be one in TF32.
    weights = interpolation_matrix(d, depth, ends)[:, :, None, None, None]
    return (rows[:, :, None] * weights).sum(1).permute(0, 3, 1, 2, 4).to(coarse.dtype).contiguous()


@_segmentation_sums_backward.register_fake
def _(gradient: Tensor, coarse: Tensor, organs: Tensor, dice: bool) -> Tensor:
    return torch.empty_like(coarse)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    coarse, organs, ctx.dice = inputs
    ctx.save_for_backward(coarse, organs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return _segmentation_sums_backward(gradient, *ctx.saved_tensors, ctx.dice), None, None


_segmentation_sums.register_autograd(_backward, setup_context=_save)


def _tile(source: int, target: int) -> dict[str, int]:
    """Return a row as cells x positions of a cell, in powers of two: 16 x 16 for 192 voxels from 12."""
    return {"CELLS": _power_of_two(source + 1), "SLOTS": _power_of_two(blocks(target, source))}


def _power_of_two(length: int) -> int:
    return 1 << (length - 1).bit_length()


@jit
@no_type_check
def _first(cell, source, target):
    """Return the first position of a cell: ceil((cell + 1/2) target / source - 1/2), within the axis."""
    return tl.minimum((tl.maximum((2 * cell + 1) * target - source, 0) + 2 * source - 1) // (2 * source), target)


@jit
@no_type_check
def _fraction(position, cell, source, target, ACC: tl.constexpr):
    """Return the weight of a cell's upper end; all of it in the cell before the first centre, none after the last."""
    inside = ((2 * position + 1) * source - (2 * cell + 1) * target).to(ACC) / (2 * target)
    return tl.where(cell < 0, 1.0, tl.where(cell == source - 1, 0.0, inside)).to(ACC)


@jit
@no_type_check
def _column(coarse, below, above, x, fz, there, ACC: tl.constexpr):
    """[CELLS] between two slices."""
    lower = tl.load(coarse + below + x, mask=there, other=0.0).to(ACC)
    return lower + fz * (tl.load(coarse + above + x, mask=there, other=0.0).to(ACC) - lower)


@jit
@no_type_check
def _ends_of_lines(coarse, z, cell, x_cell, fx, D, d, h, w, K: tl.constexpr, ACC: tl.constexpr):
    """Return every class's logits [CELLS, SLOTS] at the lower end of a cell of H, and what they rise by to its upper
    end."""
    z_cell = ((2 * z + 1) * d + D) // (2 * D) - 1
    fz = _fraction(z, z_cell, d, D, ACC)
    below, above = tl.maximum(z_cell, 0) * h * w, tl.minimum(z_cell + 1, d - 1) * h * w
    near, far = tl.maximum(cell, 0) * w, tl.minimum(cell + 1, h - 1) * w
    left, right = tl.maximum(x_cell, 0), tl.minimum(x_cell + 1, w - 1)
    there = x_cell < w
    lows = ()
    rises = ()
    for k in tl.static_range(K):
        plane = coarse + k * d * h * w
        start = _column(plane, below + near, above + near, left, fz, there, ACC)
        end = _column(plane, below + near, above + near, right, fz, there, ACC)
        low = start[:, None] + fx * (end - start)[:, None]
        start = _column(plane, below + far, above + far, left, fz, there, ACC)
        end = _column(plane, below + far, above + far, right, fz, there, ACC)
        lows = lows + (low,)
        rises = rises + (start[:, None] + fx * (end - start)[:, None] - low,)
    return lows, rises


@jit
@no_type_check
def _softmax(lows, rises, fy, K: tl.constexpr):
    """Return the logits of a row, their exponentials below the highest, the sum of those, and the highest."""
    logits = ()
    for k in tl.static_range(K):
        logits = logits + (lows[k] + fy * rises[k],)
    highest = logits[0]
    for k in tl.static_range(1, K):
        highest = tl.maximum(highest, logits[k])
    powers = ()
    total = tl.zeros_like(highest)
    for k in tl.static_range(K):
        power = tl.exp(logits[k] - highest)
        powers = powers + (power,)
        total += power
    return logits, powers, total, highest


@jit
@no_type_check
def _sums_kernel(
    coarse, organs, partial, D, H, W, d, h, w, voxels,
    K: tl.constexpr, DICE: tl.constexpr, SLICES: tl.constexpr, IGNORED: tl.constexpr, ACC: tl.constexpr,
    CELLS: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    cell = tl.program_id(0) % (h + 1) - 1
    first_z = tl.program_id(0) // (h + 1) * SLICES
    case = tl.program_id(1).to(tl.int64)
    organs += case * voxels
    x_cell = tl.arange(0, CELLS) - 1
    x = _first(x_cell, w, W)[:, None] + tl.arange(0, SLOTS)[None, :]
    there = (x < _first(x_cell + 1, w, W)[:, None]) & (x_cell < w)[:, None]
    fx = _fraction(x, x_cell[:, None], w, W, ACC)
    zero = tl.zeros((CELLS, SLOTS), ACC)
    entropy = zero
    count = zero
    sums = ()
    for _k in tl.static_range(3 * K if DICE else 0):
        sums = sums + (zero,)
    for z in range(first_z, tl.minimum(first_z + SLICES, D)):
        lows, rises = _ends_of_lines(coarse + case * K * d * h * w, z, cell, x_cell, fx, D, d, h, w, K, ACC)
        for y in range(_first(cell, h, H), _first(cell + 1, h, H)):
            organ = tl.load(organs + (z * H + y) * W + x, mask=there, other=IGNORED).to(tl.int32)
            valid = organ != IGNORED
            logits, powers, total, highest = _softmax(lows, rises, _fraction(y, cell, h, H, ACC), K)
            of_truth = zero
            for k in tl.static_range(K):
                of_truth += tl.where(organ == k, logits[k], 0.0)
            entropy += tl.where(valid, highest + tl.log(total) - of_truth, 0.0)
            count += valid.to(ACC)
            if DICE:
                overlaps = ()
                probabilities = ()
                truths = ()
                for k in tl.static_range(K):
                    p = tl.where(valid, powers[k] / total, 0.0)
                    overlaps = overlaps + (sums[k] + tl.where(organ == k, p, 0.0),)
                    probabilities = probabilities + (sums[K + k] + p,)
                    truths = truths + (sums[2 * K + k] + (organ == k).to(ACC),)
                sums = overlaps + probabilities + truths
    partial += (case * tl.num_programs(0) + tl.program_id(0)) * (2 + 3 * K if DICE else 2)
    tl.store(partial, tl.sum(entropy))
    tl.store(partial + 1, tl.sum(count))
    for k in tl.static_range(3 * K if DICE else 0):
        tl.store(partial + 2 + k, tl.sum(sums[k]))


@jit
@no_type_check
def _sums_gradient_kernel(
    gradient, coarse, organs, ends, D, H, W, d, h, w, voxels,
    K: tl.constexpr, DICE: tl.constexpr, IGNORED: tl.constexpr, ACC: tl.constexpr,
    CELLS: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    cell = tl.program_id(0) % (h + 1) - 1
    z = tl.program_id(0) // (h + 1)
    case = tl.program_id(1).to(tl.int64)
    organs += case * voxels
    gradient += case * (2 + 3 * K if DICE else 2)
    x_cell = tl.arange(0, CELLS) - 1
    x = _first(x_cell, w, W)[:, None] + tl.arange(0, SLOTS)[None, :]
    there = (x < _first(x_cell + 1, w, W)[:, None]) & (x_cell < w)[:, None]
    fx = _fraction(x, x_cell[:, None], w, W, ACC)
    zero = tl.zeros((CELLS, SLOTS), ACC)
    of_entropy = tl.load(gradient).to(ACC)
    nears = ()
    fars = ()
    for _k in tl.static_range(K):
        nears = nears + (zero,)
        fars = fars + (zero,)
    lows, rises = _ends_of_lines(coarse + case * K * d * h * w, z, cell, x_cell, fx, D, d, h, w, K, ACC)
    for y in range(_first(cell, h, H), _first(cell + 1, h, H)):
        organ = tl.load(organs + (z * H + y) * W + x, mask=there, other=IGNORED).to(tl.int32)
        valid = organ != IGNORED
        fy = _fraction(y, cell, h, H, ACC)
        _, powers, total, _ = _softmax(lows, rises, fy, K)
        mean = zero  # of the gradients with respect to probabilities
        if DICE:
            for k in tl.static_range(K):
                of_p = tl.load(gradient + 2 + K + k) + tl.where(organ == k, tl.load(gradient + 2 + k), 0.0)
                mean += powers[k] / total * of_p.to(ACC)
        new_nears = ()
        new_fars = ()
        for k in tl.static_range(K):
            p = powers[k] / total
            g = of_entropy * (p - (organ == k).to(ACC))
            if DICE:
                of_p = tl.load(gradient + 2 + K + k) + tl.where(organ == k, tl.load(gradient + 2 + k), 0.0)
                g += p * (of_p.to(ACC) - mean)
            g = tl.where(valid, g, 0.0)
            new_nears = new_nears + (nears[k] + (1.0 - fy) * g,)
            new_fars = new_fars + (fars[k] + fy * g,)
        nears = new_nears
        fars = new_fars
    ends += ((case * D + z) * (h + 1) + cell + 1) * 4 * K * (w + 1) + x_cell + 1
    for k in tl.static_range(K):
        right = tl.sum(nears[k] * fx, 1)
        tl.store(ends + 2 * k * (w + 1), tl.sum(nears[k], 1) - right, mask=x_cell < w)
        tl.store(ends + (2 * k + 1) * (w + 1), right, mask=x_cell < w)
        right = tl.sum(fars[k] * fx, 1)
        tl.store(ends + 2 * (K + k) * (w + 1), tl.sum(fars[k], 1) - right, mask=x_cell < w)
        tl.store(ends + (2 * (K + k) + 1) * (w + 1), right, mask=x_cell < w)
