"""A mask that is flipped against its scan is found by the HU under its labels, in slabs of any thickness."""

from itertools import product

import numpy as np
import pytest
from scan_files import AFFINE, NO_SHARED_DATA, SHARED_DATA

from anatobench.errors import CaseError
from anatobench.volumes.mask_fit import FLIPS, best_flip, check_not_flipped
from anatobench.volumes.read import read_mask, read_volume
from anatobench.volumes.volume import Mask, Volume

LIVER, BONE, LUNG = 5, 26, 10


def scan_and_mask(slices: int, seed: int = 0) -> tuple[Volume, Mask]:
    """Return a body with a liver on the right that grows downwards, a lung that shrinks, and a spine behind."""
    rng = np.random.default_rng(seed)
    h, w = np.linspace(-1, 1, 48)[:, None], np.linspace(-1, 1, 48)[None]
    labels = np.zeros((slices, 48, 48), np.uint8)
    for plane, place in zip(labels, np.linspace(0.3, 0.7, slices), strict=True):
        plane[np.hypot(h + 0.1, w + 0.4) < 0.15 + 0.5 * place] = LIVER
        plane[np.hypot(h + 0.2, w - 0.4) < 0.7 - 0.5 * place] = LUNG
        plane[np.hypot(h - 0.6, w) < 0.2] = BONE
    inside = np.hypot(h / 0.8, w) < 0.95
    voxels = np.where(inside, np.select([labels == LIVER, labels == LUNG, labels == BONE], [60, -850, 500], -80), -1000)
    noise = rng.normal(0, 15, voxels.shape)
    return Volume(np.rint(voxels + noise).astype(np.int16), AFFINE), Mask(labels, AFFINE)


@pytest.mark.parametrize("flipped", FLIPS)
@pytest.mark.parametrize("slices", [2, 3, 8, 50])
def test_a_flipped_mask_is_refused_and_says_how_it_lies(flipped: tuple[bool, bool, bool], slices: int) -> None:
    volume, mask = scan_and_mask(slices)
    check_not_flipped(mask, volume)
    wrong = Mask(np.flip(mask.labels, tuple(np.flatnonzero(flipped).tolist())), AFFINE)
    with pytest.raises(CaseError, match=FLIPS[flipped]) as caught:
        check_not_flipped(wrong, volume)
    assert caught.value.reason == "mirrored-mask"


def test_the_affine_counts() -> None:
    volume, mask = scan_and_mask(6)
    turned = AFFINE @ np.array([[-1.0, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    check_not_flipped(Mask(mask.labels[::-1], turned), volume)
    with pytest.raises(CaseError):
        check_not_flipped(Mask(mask.labels, turned), volume)


@pytest.mark.parametrize("part", ["coarser", "larger"])
def test_a_mask_on_another_grid_is_judged_where_the_scan_is(part: str) -> None:
    volume, mask = scan_and_mask(8)
    if part == "coarser":
        affine = AFFINE @ np.diag([1.0, 2, 2, 1])
        labels = mask.labels[:, ::2, ::2]
    else:
        labels = np.pad(mask.labels, ((2, 2), (3, 3), (4, 4)))
        affine = AFFINE.copy()
        affine[:3, 3] = (AFFINE @ [-2, -3, -4, 1])[:3]
    assert best_flip(Mask(labels, affine), volume) is None
    for axis, turned in ((1, "front and back"), (2, "left and right")):
        assert turned in (best_flip(Mask(np.flip(labels, axis), affine), volume) or "")


@pytest.mark.parametrize("kind", ["the same in every slice", "symmetric", "empty", "one label", "another scan's noise"])
def test_without_evidence_nothing_is_said(kind: str) -> None:
    volume, mask = scan_and_mask(6)
    labels = mask.labels.copy()
    if kind == "the same in every slice":
        labels[:] = labels[0]
    elif kind == "symmetric":
        labels = np.maximum.reduce([np.flip(labels, axes) for axes in ((), 0, 1, 2, (0, 1), (0, 2), (1, 2), (0, 1, 2))])
    elif kind == "another scan's noise":
        labels = np.random.default_rng(3).integers(0, 6, labels.shape).astype(np.uint8)
    else:
        labels[:] = 0 if kind == "empty" else 5
    turned = [np.flip(labels, 0)] if kind == "the same in every slice" else [labels]
    assert [best_flip(Mask(one, AFFINE), volume) for one in turned] == [None]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=NO_SHARED_DATA)
@pytest.mark.parametrize(
    ("scan", "mask"),
    [("ct_small.nii.gz", "ct_small_totalsegmentator.nii.gz"), ("dicom", "dicom_totalsegmentator.nii.gz")],
)
def test_real_masks_lie_right_in_every_slab_and_their_flips_do_not(scan: str, mask: str) -> None:
    volume, whole = read_volume(SHARED_DATA / scan), read_mask(SHARED_DATA / mask)
    for thick, first in product((3, 6, len(volume.voxels)), (0, 5, 11, 14)):
        if first + thick > len(volume.voxels):
            continue
        part = slice(first, first + thick)
        slab, labels = Volume(volume.voxels[part], volume.affine), whole.labels[part]
        assert best_flip(Mask(labels, volume.affine), slab) is None
        for flipped in FLIPS:
            turned = np.flip(labels, tuple(np.flatnonzero(flipped).tolist()))
            assert best_flip(Mask(turned, volume.affine), slab) == FLIPS[flipped]
