"""The paper's tables were copied without a slip, and exactly what contradicts itself is marked.

Averages and differences are printed twice, so any slip there is seen. In one class it is seen from about a point on
(Tables 10 and 12, printed with one decimal) or a tenth of a point (Table 13).
"""

from __future__ import annotations

import pytest

from anatobench.experiments.published import (
    TABLE_1,
    TABLE_3,
    TABLE_10,
    TABLE_12,
    TABLE_13,
    TABLE_14,
    ClassRow,
    published_auc,
    published_gain,
)
from anatobench.tasks import RATIC, get_task

HALF_UNIT = {"Table 10": 0.0005, "Table 12": 0.0005, "Table 13": 0.00005}
"""Of a cell's last printed digit, as a fraction."""
HALF_UNIT_OF_AVERAGE = 0.00005
CLASS_ROWS = (*TABLE_10, *TABLE_12, *TABLE_13)
PRINTED_GAINS = {
    ("r3d_18", False): (1.61, 1.84, 7.39),
    ("mvit_v2_s", False): (2.07, 2.86, 12.74),
    ("swin3d_t", False): (2.85, 4.14, 9.29),
    ("r3d_18", True): (0.81, 1.12, 1.95),
    ("mvit_v2_s", True): (2.23, 1.89, 11.01),
    ("swin3d_t", True): (3.28, 2.69, 9.67),
}
"""The numbers in parentheses in Table 1, per cent."""


def mean_of(row: ClassRow, **replaced: float) -> float:
    """Return the mean of the classes, with some replaced; names with underscores for spaces."""
    values = {name: cell.auc for name, cell in row.classes.items()}
    for name, value in replaced.items():
        assert name.replace("_", " ") in values
        values[name.replace("_", " ")] = value
    return sum(values.values()) / len(values)


def could_round_to_the_average(row: ClassRow, mean: float) -> bool:
    allowed = HALF_UNIT[row.average.source] + HALF_UNIT_OF_AVERAGE
    return abs(mean - row.average.auc) <= allowed + 1e-12


def row_name(row: ClassRow) -> str:
    return f"{row.average.source}, pretrained {row.pretrained}, weight {row.segmentation_weight}"


def test_exactly_the_marked_averages_are_not_those_of_their_classes() -> None:
    wrong = {row_name(row) for row in CLASS_ROWS if not could_round_to_the_average(row, mean_of(row))}
    assert wrong == {row_name(row) for row in CLASS_ROWS if row.average.note}
    assert wrong == {f"Table 13, pretrained True, weight {weight}" for weight in (0.0, 1.0)}


@pytest.mark.parametrize(("weight", "mean"), [(0.0, "69.36"), (1.0, "80.30")])
def test_the_notes_tell_what_the_classes_average(weight: float, mean: str) -> None:
    row = next(row for row in TABLE_13 if row.segmentation_weight == weight)
    assert f"{100 * mean_of(row):.2f}" == mean
    assert f"average {mean}" in row.average.note
    assert f"prints {100 * row.average.auc:.2f}" in row.average.note


@pytest.mark.parametrize("row", CLASS_ROWS, ids=row_name)
def test_classes_are_the_tasks(row: ClassRow) -> None:
    assert sorted(row.classes) == sorted(get_task(row.dataset).class_names)
    assert all(0.5 < cell.auc < 1 and cell.source == row.average.source for cell in row.classes.values())


@pytest.mark.parametrize("row", [*TABLE_12, *TABLE_13], ids=row_name)
def test_the_two_grades_of_a_two_way_group_have_one_auc(row: ClassRow) -> None:
    for group in ("bowel", "extravasation"):
        assert row.classes[f"{group}_healthy"].auc == row.classes[f"{group}_injury"].auc


def test_damaged_cells_are_read_as_their_averages_demand() -> None:
    _, with_segmentation, pretrained, both = TABLE_10
    tens = range(80, 90)

    def fitting(row: ClassRow, name: str, candidates: list[float]) -> list[float]:
        return [auc for auc in candidates if could_round_to_the_average(row, mean_of(row, **{name: auc}))]

    assert fitting(with_segmentation, "Lung_opacity", [(ten + 0.8) / 100 for ten in tens]) == pytest.approx([0.868])
    assert fitting(pretrained, "Lung_opacity", [(ten + 0.4) / 100 for ten in tens]) == pytest.approx([0.844, 0.854])
    readings = [0.903, 0.9036, *((ten + 0.6) / 100 for ten in range(90, 100))]
    assert fitting(both, "Coronary_artery_wall_calcification", readings) == pytest.approx([0.926, 0.936])
    noted = {(row_name(row), name) for row in CLASS_ROWS for name, cell in row.classes.items() if cell.note}
    assert noted == {
        ("Table 10, pretrained False, weight 1.0", "Lung opacity"),
        ("Table 10, pretrained False, weight 1.0", "Pulmonary fibrotic sequela"),
        ("Table 10, pretrained True, weight 0.0", "Lung opacity"),
        ("Table 10, pretrained True, weight 0.0", "Pulmonary fibrotic sequela"),
        ("Table 10, pretrained True, weight 1.0", "Coronary artery wall calcification"),
        ("Table 12, pretrained False, weight 1.0", "liver_healthy"),
    }


@pytest.mark.parametrize("row", [row for row in CLASS_ROWS if row.segmentation_weight in (0, 1)], ids=row_name)
def test_table_1_repeats_the_averages_and_their_doubts(row: ClassRow) -> None:
    found = published_auc(row.dataset, row.model, row.pretrained, segmentation=row.segmentation_weight == 1)
    assert found is not None
    assert (found.auc, found.note) == (row.average.auc, row.average.note)
    assert found.source == "Table 1"
    if not found.note:
        assert could_round_to_the_average(row, mean_of(row))


def test_table_1_is_whole_and_doubted_only_where_table_13_is() -> None:
    assert len(TABLE_1) == 3 * 3 * 2 * 2
    assert {key for key, found in TABLE_1.items() if found.note} == {
        ("ratic", "swin3d_t", True, False),
        ("ratic", "swin3d_t", True, True),
    }


@pytest.mark.parametrize(("model", "pretrained"), PRINTED_GAINS)
def test_gains_are_the_printed_ones(model: str, pretrained: bool) -> None:
    found = [published_gain(dataset, model, pretrained) for dataset in ("ct_rate", "rad_chestct", "ratic")]
    assert found == pytest.approx([percent / 100 for percent in PRINTED_GAINS[model, pretrained]], abs=1e-9)


def test_what_the_paper_does_not_have_is_none() -> None:
    assert published_auc("ratic", "tiny", False, True) is None
    assert published_gain("manifest", "r3d_18", False) is None


def test_organ_subsets_begin_and_end_with_table_1() -> None:
    assert {organ for organs in TABLE_3 for organ in organs} == set(RATIC.organs)
    none, *some, every = TABLE_3
    assert (none, every) == ((), RATIC.organs)
    for organs, segmentation in ((none, False), (every, True)):
        found = TABLE_1["ratic", "swin3d_t", True, segmentation]
        assert (TABLE_3[organs].auc, TABLE_3[organs].note) == (found.auc, found.note)
    assert [TABLE_3[organs].auc for organs in some] == [0.6915, 0.7615, 0.7117, 0.7960]


def test_undistorted_masks_are_the_model_of_weight_10_and_marked() -> None:
    by_weight = {row.segmentation_weight: row.average.auc for row in TABLE_13}
    assert TABLE_14[0.0].auc == by_weight[10.0] != by_weight[1.0]
    assert {percent: bool(auc.note) for percent, auc in TABLE_14.items()} == {0.0: True, 10.0: False, 50.0: False}
    assert (TABLE_14[10.0].auc, TABLE_14[50.0].auc) == (0.8036, 0.8130)
