import numpy as np
import pytest
from scan_files import AFFINE

from anatobench.errors import CaseError
from anatobench.volumes.coverage import check_mask_coverage, coverage, mask_off_organs_note
from anatobench.volumes.volume import Grid

SCAN = Grid((100, 100, 100), AFFINE)


def grid(size: tuple[int, int, int], start: tuple[float, float, float] = (0, 0, 0), step: float = 1.0) -> Grid:
    change = np.diag([step, step, step, 1.0])
    change[:3, 3] = start
    return Grid(size, AFFINE @ change)


def test_the_scans_own_grid_covers_it() -> None:
    assert coverage(SCAN, SCAN) == 1
    # coarser voxels over the same field of view: their centres start half a large voxel in
    assert coverage(grid((50, 50, 50), (0.5, 0.5, 0.5), 2.0), SCAN) == 1


@pytest.mark.parametrize(
    ("mask", "share"),
    [
        (grid((50, 100, 100)), 0.5),
        (grid((100, 100, 100), (0, 25, 0)), 0.75),
        (grid((100, 100, 100), (0, 0, -25)), 0.75),
        (grid((100, 100, 100), (200, 0, 0)), 0.0),
    ],
)
def test_part_of_the_field_of_view(mask: Grid, share: float) -> None:
    assert coverage(mask, SCAN) == pytest.approx(share, abs=0.01)
    with pytest.raises(CaseError, match=f"{coverage(mask, SCAN):.1%}") as caught:
        check_mask_coverage(mask, SCAN)
    assert caught.value.reason == "mask-off-grid"


def test_a_lost_slice_is_forgiven() -> None:
    assert check_mask_coverage(grid((98, 100, 100)), SCAN) >= 0.95


def test_a_mirrored_affine_is_not_on_the_grid() -> None:
    with pytest.raises(CaseError):
        check_mask_coverage(Grid(SCAN.size, np.diag([-1.0, 1, 1, 1]) @ AFFINE), SCAN)


def test_an_oblique_mask_over_an_upright_scan() -> None:
    angle = np.deg2rad(45)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    cube = np.array([[0.0, 0, -1, 50], [0, -1, 0, 50], [-1, 0, 0, 50], [0, 0, 0, 1]])
    # a square turned by 45 degrees about its centre shares an octagon with itself: 2 (sqrt(2) - 1) of its area
    turned = Grid((101, 101, 101), turn @ cube)
    assert coverage(turned, Grid((101, 101, 101), cube)) == pytest.approx(2 * (np.sqrt(2) - 1), abs=0.01)


@pytest.mark.parametrize(("organ", "hounsfield"), [("liver", 20), ("lung_upper_lobe_left", -850)])
def test_a_mask_whose_organs_lie_elsewhere_is_named(organ: str, hounsfield: int) -> None:
    noise = np.random.default_rng(0).normal(0, 25, (20, 30, 30))
    voxels, organs = np.full(noise.shape, -100 if organ == "liver" else 40), np.zeros(noise.shape, np.uint8)
    organs[5:15, 8:22, 6:16] = 2
    voxels[organs == 2] = hounsfield
    voxels = (voxels + noise).astype(np.int16)
    names = ("bowel", organ)
    assert mask_off_organs_note(voxels, organs, names) is None
    assert "shifted" in str(mask_off_organs_note(voxels, np.roll(organs, 8, axis=2), names))
    assert mask_off_organs_note(voxels, np.roll(organs, 8, axis=2), names[::-1]) is None  # bowel may hold anything
