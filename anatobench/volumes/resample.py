"""Scans and masks on a new grid: trilinear for HU, nearest for labels.

Both go straight from the stored voxels to the final (padded or cropped) grid, so nothing outside it is computed. A
scan is resampled along its own voxel axes: an oblique scan stays oblique and its affine stays exact. A mask may lie on
any grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from anatobench.tasks import Size, Spacing
from anatobench.volumes.volume import AIR_HU, Grid, Volume

ALIGNMENT_TOLERANCE = 1e-2
"""Voxels by which two grids' axes may drift apart over the whole grid and still count as aligned."""
EDGE_TOLERANCE = 1e-6
"""Voxels by which rounding may push a corner over the edge of a grid."""
POSITION_DECIMALS = 4
"""Voxel positions are rounded to this, so that float noise in headers decides neither ties nor edges."""


def resampled_grid(grid: Grid, spacing: Spacing) -> Grid:
    """Return the grid over the same field of view, with the same centre and exactly `spacing` millimetres between
    voxels.

    Its size is extent / spacing, rounded, at least 1; extent counts whole voxels (size times spacing).
    """
    size, new_spacing = np.array(grid.size), np.array(spacing)
    ratio = new_spacing / np.array(grid.spacing)
    d, h, w = (max(1, int(n)) for n in np.rint(size / ratio))
    first = (size - 1) / 2 - (np.array((d, h, w)) - 1) / 2 * ratio
    return Grid((d, h, w), grid.affine @ _scale_and_shift(ratio, first))


def padded_or_cropped_grid(grid: Grid, size: Size) -> Grid:
    """Return the grid with `size` voxels about the same centre, shifted by whole voxels.

    Where the difference is odd, padding puts the extra voxel at the start of the axis and cropping drops it at the end.
    """
    first = [(old - new) // 2 for old, new in zip(grid.size, size, strict=True)]
    return Grid(size, grid.affine @ _scale_and_shift(np.ones(3), np.array(first)))


def cropped_grid(grid: Grid, start: Size, size: Size) -> Grid:
    """Return the grid of a crop of `size` voxels whose first one is voxel `start` of `grid`."""
    return Grid(size, grid.affine @ _scale_and_shift(np.ones(3), np.array(start)))


def upright_grid(grid: Grid) -> Grid:
    """Return the grid with perpendicular axes that covers a sheared one and shares its last voxel: every reader of
    NIfTI places it alike, which is not so of a grid that a tilted gantry has sheared."""
    down, back, left = grid.affine[:3, :3].T
    left_axis = left / np.linalg.norm(left)
    back_axis = back - (back @ left_axis) * left_axis
    back_axis /= np.linalg.norm(back_axis)
    down_axis = np.cross(left_axis, back_axis)
    down_axis *= np.sign(down_axis @ down)
    axes = np.stack([down_axis, back_axis, left_axis], axis=1)
    spacing = np.array([down @ down_axis, np.linalg.norm(back), np.linalg.norm(left)])
    last = grid.affine @ [*(n - 1 for n in grid.size), 1]
    corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in grid.size))])
    steps = (corners @ grid.affine.T - last)[:, :3] @ axes / spacing
    before = np.ceil(-steps.min(axis=0) - EDGE_TOLERANCE)
    d, h, w = (int(n) for n in before + np.ceil(steps.max(axis=0) - EDGE_TOLERANCE) + 1)
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = last[:3] - affine[:3, :3] @ before
    return Grid((d, h, w), affine)


def resample_volume(volume: Volume, grid: Grid) -> np.ndarray:
    """Trilinear interpolation of a scan, int16 [D, H, W] of `grid.size`, rounded to whole HU.

    The field of view ends half a voxel beyond the outermost voxel centres (they are held constant there); outside it is
    `AIR_HU`. `grid` must have the scan's own axes, as `resampled_grid` and `padded_or_cropped_grid` make it.
    """
    mapping = _voxel_mapping(volume.grid, grid)
    if not _aligned(mapping, grid.size):
        raise ValueError("a scan is resampled along its own axes: take the grid from resampled_grid")
    voxels, mapping = _in_memory_order(volume.voxels, mapping)
    depth, rows, columns = (
        _LinearTaps.along(mapping[axis, axis], mapping[axis, 3], grid.size[axis], voxels.shape[axis])
        for axis in range(3)
    )
    result = np.full(grid.size, AIR_HU, dtype=np.int16)
    if 0 in (depth.count, rows.count, columns.count):
        return result
    shrunk: dict[int, np.ndarray] = {}  # the input slices on the new grid in plane, two at a time
    for index in range(depth.count):
        needed = (int(depth.lower[index]), int(depth.upper[index]))
        shrunk = {z: shrunk[z] if z in shrunk else _shrink_plane(voxels[z], rows, columns) for z in needed}
        below, above = (shrunk[z] for z in needed)
        blended = (above - below) * depth.weight[index]
        blended += below
        np.rint(blended, out=blended)
        result[depth.start + index, rows.output, columns.output] = blended
    return result


def resample_mask(labels: np.ndarray, affine: np.ndarray, grid: Grid) -> np.ndarray:
    """Nearest-neighbour labels on `grid`, [D, H, W] of the labels' own type, 0 outside the mask's field of view.

    `labels` is [D, H, W] unsigned; `affine` maps its voxels to RAS+ millimetres and may be any affine.
    """
    d, h, w = labels.shape
    mapping = _voxel_mapping(Grid((d, h, w), affine), grid)
    if not _aligned(mapping, grid.size):
        return _gather_oblique(labels, mapping, grid.size)
    depth, rows, columns = (
        _nearest(mapping[axis, axis] * np.arange(grid.size[axis]) + mapping[axis, 3], labels.shape[axis])
        for axis in range(3)
    )
    result = np.zeros(grid.size, dtype=labels.dtype)
    inside = np.ix_(rows >= 0, columns >= 0)
    wanted_rows, wanted_columns = rows[rows >= 0], columns[columns >= 0]
    for index in np.flatnonzero(depth >= 0):
        result[index][inside] = labels[depth[index]][wanted_rows].take(wanted_columns, axis=1)
    return result


@dataclass(frozen=True)
class _LinearTaps:
    """Linear interpolation along one axis: output `start + n` blends inputs `lower[n]` and `upper[n]`."""

    start: int
    """First output inside the field of view."""
    lower: np.ndarray
    upper: np.ndarray
    weight: np.ndarray
    """float32, share of `upper`."""

    @property
    def count(self) -> int:
        return len(self.lower)

    @property
    def output(self) -> slice:
        return slice(self.start, self.start + self.count)

    @staticmethod
    def along(step: float, first: float, outputs: int, inputs: int) -> _LinearTaps:
        positions = np.round(step * np.arange(outputs) + first, POSITION_DECIMALS)
        inside = np.flatnonzero((positions >= -0.5) & (positions <= inputs - 0.5))
        positions = np.clip(positions[inside], 0, inputs - 1)
        lower = np.clip(np.floor(positions).astype(np.intp), 0, max(0, inputs - 2))
        upper = np.minimum(lower + 1, inputs - 1)
        start = int(inside[0]) if len(inside) else 0
        return _LinearTaps(start, lower, upper, (positions - lower).astype(np.float32))


def _shrink_plane(plane: np.ndarray, rows: _LinearTaps, columns: _LinearTaps) -> np.ndarray:
    """Return one int16 slice [h, w] at the wanted rows and columns, float32."""
    # Rows first: they are contiguous in memory, so the gather is a copy and only what is left pays for single columns.
    leftmost, rightmost = int(columns.lower.min()), int(columns.upper.max())
    used = plane[:, leftmost : rightmost + 1]
    upper_row = used[rows.lower].astype(np.float32)
    mixed = used[rows.upper].astype(np.float32)
    mixed -= upper_row
    mixed *= rows.weight[:, None]
    mixed += upper_row
    # mode="clip" spares a bounds check per element; the indices are in bounds
    left = mixed.take(columns.lower - leftmost, axis=1, mode="clip")
    right: np.ndarray = mixed.take(columns.upper - leftmost, axis=1, mode="clip")
    right -= left
    right *= columns.weight
    right += left
    return right


def _gather_oblique(labels: np.ndarray, mapping: np.ndarray, size: Size) -> np.ndarray:
    """Nearest labels where the two grids' axes are not parallel, one output slice at a time."""
    result = np.zeros(size, dtype=labels.dtype)
    per_slice, per_row, per_column, first = (mapping[:3, axis, None, None] for axis in range(4))
    in_plane = first + per_row * np.arange(size[1])[:, None] + per_column * np.arange(size[2])
    for index in range(size[0]):
        positions = in_plane + per_slice * index
        d, h, w = (_nearest(positions[axis], labels.shape[axis]) for axis in range(3))
        inside = (d >= 0) & (h >= 0) & (w >= 0)
        result[index][inside] = labels[d[inside], h[inside], w[inside]]
    return result


def _nearest(positions: np.ndarray, inputs: int) -> np.ndarray:
    """Index of the nearest of `inputs` voxels (halves go up), -1 outside the field of view."""
    positions = np.round(positions, POSITION_DECIMALS)
    inside = (positions >= -0.5) & (positions <= inputs - 0.5)
    nearest = np.minimum(np.floor(positions + 0.5).astype(np.intp), inputs - 1)
    return np.where(inside, nearest, -1)


def _voxel_mapping(source: Grid, target: Grid) -> np.ndarray:
    """float64 [4, 4]: target voxel index to source voxel index."""
    return np.linalg.solve(source.affine, target.affine)


def _aligned(mapping: np.ndarray, size: Size) -> bool:
    """Return whether a voxel mapping keeps the axes apart: each source index depends on one target index."""
    drift = np.abs(mapping[:3, :3] - np.diag(np.diagonal(mapping[:3, :3]))) @ np.array(size, dtype=float)
    return bool((drift <= ALIGNMENT_TOLERANCE).all())


def _in_memory_order(voxels: np.ndarray, mapping: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels as they lie in memory and the mapping onto them: reading forwards spares a copy of every
    slice."""
    mapping = mapping.copy()
    for axis in range(3):
        if voxels.strides[axis] < 0:
            voxels = np.flip(voxels, axis)
            mapping[axis] *= -1
            mapping[axis, 3] += voxels.shape[axis] - 1
    return voxels, mapping


def _scale_and_shift(scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    matrix = np.diag([*scale, 1.0])
    matrix[:3, 3] = shift
    return matrix
