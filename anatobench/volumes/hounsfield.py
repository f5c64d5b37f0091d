"""Are these Hounsfield units? The voxels are asked, because headers lie: a wrong HU trains and predicts in silence.

A CT scan shows air near -1000, fat near -100 and soft tissue near 40. What was cut to a window, scaled to grey values,
lost its intercept or wrapped around in an unsigned word does not. Every reader's voxels pass through here (read.py sees
to it); what cannot be HU is refused, and `--rescale hu` overrides that.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

OVERRIDE = "state --rescale hu if it is HU all the same"
SAMPLES = 1 << 19
"""About so many voxels are looked at: evenly spread rows of a large scan, all of a small one."""
OFFSET = 32768
"""Bin of 0 HU in a histogram of int16."""

AIR = (-1100, -850)
LOWEST_POSSIBLE, HIGHEST_POSSIBLE = -1300, 5000
"""Noise below air; dense metal on an extended scale. Padding constants lie lower and are one value."""
SPIKE_SHARE = 0.02
"""One value with more of the voxels than this is a constant that somebody filled in, not a measurement."""
NEARLY_CONSTANT = 0.999
SCALED_SPAN = 20
IMPOSSIBLE_SHARE = 0.4
DENSE_SHARE = 0.1
LIMIT_SHARE = 0.2
"""Share of voxels at the lowest or highest value from which a scan was cut to a window."""
WINDOW_FLOOR = -900
FEW_VALUES = 20
"""A phantom without noise has as few, and no window."""
FILLED_ABOVE, FILLED_ABOVE_SHARE = 1200, 0.15
SATURATED_SHARE = 0.05
TISSUE = (-300, 3100)
LUNG, LUNG_SHARE = (-930, 3100), 0.04
NEGATIVE, NEGATIVE_SHARE = -50, 1e-3
SHIFTED_TISSUE, SHIFTED_TISSUE_SHARE = (950, 1150), 0.1
"""Where soft tissue lies if 1000 or 1024 was not subtracted; of a body hardly anything is as dense as that."""
SHIFTED_AIR, SHIFTED_AIR_SHARE = (-2150, -1850), 0.1
"""Where air lies if 1000 or 1024 was subtracted twice; padding of -2000 is one value and does not count."""
SHIFTED_FAT, SHIFTED_FAT_SHARE = (-1250, -1060), 0.05
SHIFTED_REST, SHIFTED_REST_SHARE = (-750, 3100), 0.1
"""Where fat lies in a crop of the trunk then, and where other crops have all that is denser than lung."""
PILE_HU = 20
"""Air that was scaled to a grey value lies so close together, at the lowest values."""
AIR_PEAK, PEAK_WIDTH, PEAK_SHARE = (-1400, -600), 21, 0.05
"""Where the lowest peak may lie, whatever was added to it."""
LARGEST_DRIFT, FARTHEST_PEAK = 130, 400
"""Of air's peak from -1000 on scanners that are not calibrated; farther than the second other things lie there."""
FAT_PEAK, MUSCLE_PEAK = (-125, -85), (20, 80)
MOVED_RATIO, MOVED_SHARE, LEAST_OF_EACH = 3, 0.05, 0.01
"""Fat and muscle lie where air's shift puts them so many times as often as at their own place."""
STRETCHED_TO, STRETCHED_SPAN = 0.85, 500
"""Share of the values between both limits that occur at all after a narrower window was stretched."""
STRETCHED_LOW, STRETCHED_HIGH = 0.1, 0.005
DENSER_THAN_LUNG, AT_HOME = (-600, 5000), (-200, 300)
DENSER_SHARE, AT_HOME_SHARE = 0.15, 0.12
"""Of what is denser than lung, fat and soft tissue are more: 42 % in the worst of real crops, 14 % of even noise."""
LIGHTEST, HALF_WAY, HALF_WAY_PEAK, HALF_WAY_SHARE = -850, (-700, -300), 60, 0.15
"""Nothing that was measured lies half-way between air and fat, so much of it within so few HU, without anything
lighter."""
GREY_LEVELS, GREY_END_SHARE, GREY_END_COUNT = 255, 0.005, 20
"""Span of 8 bits, and what lies at each of its ends if a window was put into them."""
SOFT_LIMIT, SOFT_LIMIT_SHARE = 20, 0.05
"""A highest value below soft tissue at which more than noise's share lies was cut off there."""
FILLED_CORNER = 3
"""Voxels along each side of a corner: of so many no two are alike in what was measured, let alone all."""
FRAME_SHARE = 0.5
CORNER_SHARE, FEWEST_CORNERS = 0.5, 8
"""Of the four corners of all slices: as many with one and the same value were filled in."""


@dataclass(frozen=True)
class Histogram:
    """How often each HU occurs among the voxels that were looked at."""

    counts: np.ndarray
    """[65536], from -32768 HU."""
    total: int
    lowest: int
    highest: int

    @staticmethod
    def of(voxels: np.ndarray) -> Histogram:
        """From int16 voxels [D, H, W], or [H, W] of one slice."""
        sample = _sample(voxels)
        counts = np.bincount(sample.reshape(-1).astype(np.intp) + OFFSET, minlength=2 * OFFSET)
        present = np.flatnonzero(counts)
        return Histogram(counts, sample.size, int(present[0]) - OFFSET, int(present[-1]) - OFFSET)

    def share(self, low: int, high: int) -> float:
        """Return the share of voxels from `low` to `high` HU, both included."""
        first, last = max(low + OFFSET, 0), min(high + OFFSET, 2 * OFFSET - 1)
        return float(self.counts[first : last + 1].sum() / self.total)

    @property
    def distinct(self) -> int:
        """How many values occur."""
        return int(np.count_nonzero(self.counts))

    def without_spikes(self, low: int, high: int) -> Histogram:
        """Without the constants that were filled in between `low` and `high`; itself where there are none."""
        spikes = np.flatnonzero(self.counts > SPIKE_SHARE * self.total)
        spikes = spikes[(spikes >= low + OFFSET) & (spikes <= high + OFFSET)]
        if not len(spikes) or self.counts[spikes].sum() == self.total:
            return self
        counts = self.counts.copy()
        counts[spikes] = 0
        present = np.flatnonzero(counts)
        return Histogram(counts, int(counts.sum()), int(present[0]) - OFFSET, int(present[-1]) - OFFSET)


def why_not_hounsfield(voxels: np.ndarray) -> str | None:
    """Return what speaks against int16 `voxels` [D, H, W] being HU, as the rest of a sentence; None if nothing does.

    Cropped scans, scans with metal or with lungs only, and scans clipped at -1000 or padded below it have nothing
    against them.
    """
    return judge_hounsfield(voxels)[0]


def judge_hounsfield(voxels: np.ndarray) -> tuple[str | None, bool]:
    """Return what speaks against int16 `voxels` [D, H, W] being HU (`why_not_hounsfield`), and whether nothing in them
    is as light as lung or air: a crop inside the body, or a sign of something else."""
    found = Histogram.of(voxels)
    return _why_not(found) or _filled_in(voxels, found), found.share(-OFFSET, -500) < NEGATIVE_SHARE


def shows_air_and_tissue(histogram: Histogram) -> bool:
    """Return whether the values are plainly HU: air and soft tissue, each at its own place, and nothing against it.

    Stricter than `why_not_hounsfield`: this is what another reading of the same bits must show to be believed.
    """
    return (
        histogram.share(*AIR) >= 0.01
        and histogram.share(-200, 200) >= 0.02
        and histogram.share(400, 2000) < histogram.share(-200, 300)
        and _why_not(histogram) is None
    )


def _why_not(found: Histogram) -> str | None:
    low, high = found.lowest, found.highest
    commonest = int(found.counts.argmax()) - OFFSET
    if found.share(commonest, commonest) >= NEARLY_CONSTANT:
        return f"nearly every voxel is {commonest}"
    if high - low <= SCALED_SPAN:
        return f"its values run from {low} to {high} only, as those of an image that was scaled do"
    if high == OFFSET - 1 and found.share(high, high) >= SATURATED_SHARE:
        return f"{found.share(high, high):.0%} of its voxels lie beyond what 16 bits hold"
    found = found.without_spikes(-OFFSET, LOWEST_POSSIBLE)  # padding below air is air
    outside = found.share(-OFFSET, LOWEST_POSSIBLE) + found.share(HIGHEST_POSSIBLE, OFFSET)
    if outside > IMPOSSIBLE_SHARE:
        return f"{outside:.0%} of its voxels are below {LOWEST_POSSIBLE} or above {HIGHEST_POSSIBLE} (lowest {low})"
    dense = found.share(HIGHEST_POSSIBLE, OFFSET)
    if dense > DENSE_SHARE:
        return f"{dense:.0%} of its voxels are above {HIGHEST_POSSIBLE}, which metal alone is"
    shifted = found.share(*SHIFTED_AIR)
    if shifted >= SHIFTED_AIR_SHARE:
        return f"{shifted:.0%} of its voxels are near -2000, where air lies if the intercept was subtracted twice"
    if found.share(-OFFSET, NEGATIVE) < NEGATIVE_SHARE:
        return _no_air(low, high)
    fat = found.share(*SHIFTED_FAT)
    if fat >= SHIFTED_FAT_SHARE and found.share(*SHIFTED_REST) < SHIFTED_REST_SHARE:
        return f"{fat:.0%} of its voxels are near -1124, where fat lies if the intercept was subtracted twice"
    if found.share(*TISSUE) < NEGATIVE_SHARE and found.without_spikes(*AIR).share(*LUNG) < LUNG_SHARE:
        return f"it has neither tissue nor lung: hardly anything is above {LUNG[0]} (values from {low} to {high})"
    at_lowest = found.share(found.lowest, found.lowest)
    if at_lowest >= LIMIT_SHARE and found.lowest > WINDOW_FLOOR and found.distinct > FEW_VALUES:
        return f"{at_lowest:.0%} of its voxels are at its lowest value {found.lowest}: it was cut to a window"
    piled = found.share(found.lowest, found.lowest + PILE_HU)
    if piled >= LIMIT_SHARE and found.lowest > WINDOW_FLOOR and found.distinct > FEW_VALUES:
        return f"{piled:.0%} of its voxels lie at {found.lowest} to {found.lowest + PILE_HU}, its lowest: it was scaled"
    at_highest = found.share(found.highest, found.highest)
    if (
        at_highest >= LIMIT_SHARE and found.distinct > FEW_VALUES
    ):  # a phantom without noise has few values, and no window
        return f"{at_highest:.0%} of its voxels are at its highest value {found.highest}: cut to a window, or filled in"
    if found.highest < SOFT_LIMIT and at_highest >= SOFT_LIMIT_SHARE and found.distinct > FEW_VALUES:
        return f"{at_highest:.0%} of its voxels are at its highest value {found.highest}: it was cut to a window"
    spikes = np.flatnonzero(found.counts > FILLED_ABOVE_SHARE * found.total) - OFFSET
    if len(spikes) and spikes[-1] > FILLED_ABOVE and found.distinct > FEW_VALUES:
        return f"{found.share(spikes[-1], spikes[-1]):.0%} of its voxels are exactly {spikes[-1]}: padding, or wrapped"
    shifted = found.share(*SHIFTED_TISSUE)
    if shifted >= SHIFTED_TISSUE_SHARE:
        return f"{shifted:.0%} of its voxels are near 1024, where soft tissue lies if the intercept was lost"
    return _grey_levels(found) or _moved(found) or _misplaced(found) or _stretched(found)


def _grey_levels(found: Histogram) -> str | None:
    """Name 8-bit grey values, whatever was added to them: a narrow span with many voxels at both ends."""
    ends = [int(found.counts[value + OFFSET]) for value in (found.lowest, found.highest)]
    if found.highest - found.lowest > GREY_LEVELS or found.distinct <= FEW_VALUES:
        return None
    if min(ends) < max(GREY_END_COUNT, GREY_END_SHARE * found.total):
        return None
    return f"its values run from {found.lowest} to {found.highest} only, with many at both ends: grey values of 8 bits"


def _misplaced(found: Histogram) -> str | None:
    """Name what is denser than lung where fat and soft tissue are not, or lighter than fat where air is not: another
    slope or intercept."""
    if found.distinct <= FEW_VALUES:
        return None
    denser, at_home = found.share(*DENSER_THAN_LUNG), found.share(*AT_HOME)
    if denser >= DENSER_SHARE and at_home < AT_HOME_SHARE * denser:
        return (
            f"of the {denser:.0%} of its voxels that are denser than lung only {at_home / denser:.0%} lie at "
            f"{AT_HOME[0]} to {AT_HOME[1]}, where fat and soft tissue are: another slope or intercept"
        )
    between = found.counts[HALF_WAY[0] + OFFSET : HALF_WAY[1] + OFFSET]
    half_way = float(np.convolve(between, np.ones(HALF_WAY_PEAK), "valid").max()) / found.total
    if half_way >= HALF_WAY_SHARE and found.share(-OFFSET, LIGHTEST) < NEGATIVE_SHARE:
        return f"{half_way:.0%} of its voxels are near -500 and none near -1000: without air where air is"
    return None


def _moved(found: Histogram) -> str | None:
    """Air, fat and muscle all lie the same way off their own places: another intercept was meant."""
    air = found.without_spikes(-OFFSET, AIR[0] + 150)
    first = AIR_PEAK[0] + OFFSET
    smooth = np.convolve(air.counts[first : AIR_PEAK[1] + OFFSET], np.ones(PEAK_WIDTH), "same")
    peak = int(smooth.argmax()) + AIR_PEAK[0]
    shift = peak + 1000
    if (
        found.distinct <= FEW_VALUES
        or not LARGEST_DRIFT <= abs(shift) <= FARTHEST_PEAK
        or smooth.max() < PEAK_SHARE * air.total
    ):
        return None
    there, here = (
        [found.share(low + moved, high + moved) for low, high in (FAT_PEAK, MUSCLE_PEAK)] for moved in (shift, 0)
    )
    if min(there) < LEAST_OF_EACH or sum(there) < max(MOVED_SHARE, MOVED_RATIO * sum(here)):
        return None
    return f"air lies at {peak} instead of -1000, and fat and muscle as far from their places: another intercept"


def _stretched(found: Histogram) -> str | None:
    """Name a window of fewer HU than the values span: both ends are cut off, and between them most values do not
    occur."""
    low, high = found.lowest, found.highest
    ends = found.share(low, low), found.share(high, high)
    if high - low < STRETCHED_SPAN or ends[0] < STRETCHED_LOW or ends[1] < STRETCHED_HIGH:
        return None
    inner = found.counts[low + 1 + OFFSET : high + OFFSET].cumsum()
    if inner[-1] == 0 or found.distinct <= FEW_VALUES:
        return None
    first, last = np.searchsorted(inner, [0.1 * inner[-1], 0.9 * inner[-1]])
    counts = found.counts[low + 1 + OFFSET :][first : last + 1]
    occurring = np.count_nonzero(counts) / len(counts)
    if occurring > STRETCHED_TO or counts.sum() < 20 * len(counts):
        return None
    return (
        f"only {occurring:.0%} of the values between its limits {low} and {high} occur, and {sum(ends):.0%} of the "
        "voxels are at the limits: a window was stretched"
    )


def _no_air(low: int, high: int) -> str:
    if low >= 0 and high <= 255:
        return f"its values run from {low} to {high}: grey values, without air at -1000"
    if low >= 28000:
        return f"its lowest value is {low}: without air at -1000, as if 32768 were not subtracted"
    if low >= -200 and high > 1000:
        return f"its lowest value is {low}: without air at -1000, as if 1000 or 1024 were not subtracted"
    return f"its lowest value is {low}: it has neither air at -1000 nor fat at -100 (highest {high})"


def _filled_in(voxels: np.ndarray, found: Histogram) -> str | None:
    """Constants denser than air in whole slices, in their corners or along their edges: nothing that was measured."""
    if voxels.ndim != 3 or found.distinct <= FEW_VALUES:
        return None
    few = voxels[:, :: max(1, voxels.shape[1] // 12), :: max(1, voxels.shape[2] // 12)]
    lowest, highest = few.min(axis=(1, 2)), few.max(axis=(1, 2))
    constant = np.flatnonzero((lowest == highest) & (lowest > AIR[1]))
    if len(constant) and min(voxels.shape[1:]) > 8:
        return f"{len(constant)} of its slices hold nothing but {lowest[constant[0]]}: filled in instead of air"
    corners = voxels[:, :: voxels.shape[1] - 1, :: voxels.shape[2] - 1].reshape(-1)
    values, counts = np.unique(corners[corners > AIR[1]], return_counts=True)
    if len(values) and counts.max() >= max(CORNER_SHARE * corners.size, FEWEST_CORNERS):
        value = values[counts.argmax()]
        return f"the corners of its slices are exactly {value}: padding that is denser than air"
    return _filled_corner(voxels, found) or _filled_frame(voxels)


def _filled_corner(voxels: np.ndarray, found: Histogram) -> str | None:
    if min(voxels.shape) < 2 * FILLED_CORNER:
        return None
    for ends in product((slice(FILLED_CORNER), slice(-FILLED_CORNER, None)), repeat=3):
        corner = voxels[ends]
        value = int(corner[0, 0, 0])
        clipped = found.highest <= value <= FILLED_ABOVE  # what was clipped is even, too, but hardly in every slice
        column = voxels[:, ends[1], ends[2]] if clipped else corner
        if value > AIR[1] and (corner == value).all() and (column == value).all():
            return f"a corner of it is filled with {value}: nothing that was measured is that even"
    return None


def _filled_frame(voxels: np.ndarray) -> str | None:
    """Name zeros around the view: nothing that was measured is exactly 0 HU along the edges of the slices."""
    if min(voxels.shape) < 3:
        return None
    step = max(1, len(voxels) // 32)
    rows, columns = voxels[::step, :: voxels.shape[1] - 1], voxels[::step, :, :: voxels.shape[2] - 1]
    zeros = float(np.count_nonzero(rows == 0) + np.count_nonzero(columns == 0)) / (rows.size + columns.size)
    if zeros < FRAME_SHARE:
        return None
    return f"{zeros:.0%} of the voxels along the edges of its slices are exactly 0: filled with water instead of air"


def _sample(voxels: np.ndarray) -> np.ndarray:
    step = -(-voxels.size // SAMPLES)
    if step == 1 or voxels.ndim != 3:
        return voxels
    per_slice = max(1, min(int(step**0.5), len(voxels) // 16))
    return voxels[::per_slice, :: -(-step // per_slice)]
