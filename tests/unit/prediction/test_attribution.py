"""The log-odds that evidence is for, and where a map lies in a scan."""

import numpy as np
import pytest

from anatobench.evaluation.predictions import class_probabilities
from anatobench.prediction.attribution import attribution_on_grid, log_odds_slope
from anatobench.prediction.files import _heated
from anatobench.tasks import RATIC, LabelGroup, Task, multi_label_task
from anatobench.volumes.volume import Grid

FINDINGS = multi_label_task("findings", "chest", ("calcification", "effusion"))
GRADED = Task("graded", "chest", (LabelGroup("a", ("no", "low", "high"), (1.0,) * 3),), ("heart",), (0.0, 1.0))


@pytest.mark.parametrize(("task", "finding"), [(task, name) for task in (RATIC, FINDINGS, GRADED)
                                               for name in task.class_names])  # fmt: skip
def test_slope_is_the_derivative_of_the_log_odds(task: Task, finding: str) -> None:
    logits = np.random.default_rng(0).normal(0, 1.5, (2, task.logit_count))
    column = task.class_names.index(finding)

    def log_odds(z: np.ndarray) -> np.ndarray:
        p = class_probabilities(task, z)[:, column]
        odds: np.ndarray = np.log(p / (1 - p))
        return odds

    step = 1e-5
    expected = np.stack(
        [(log_odds(logits + step * unit) - log_odds(logits - step * unit)) / (2 * step)
         for unit in np.eye(task.logit_count)], axis=1)  # fmt: skip
    np.testing.assert_allclose(log_odds_slope(task, logits, finding), expected, atol=1e-7)


def test_a_class_of_another_task_is_refused() -> None:
    with pytest.raises(ValueError, match="has no such class"):
        log_odds_slope(FINDINGS, np.zeros((1, 2)), "liver_high")


def test_a_heated_slice_stays_within_what_a_picture_can_show() -> None:
    evidence = np.float32(10) ** np.linspace(-12, 0, 256, dtype=np.float32).reshape(16, 16)
    picture = _heated(np.full((16, 16), 3000), evidence, 1.0, FINDINGS)
    assert 0 <= picture.min() < picture.max() <= 1


def test_a_map_lies_where_its_cells_do() -> None:
    """A crop of 8 x 4 x 4 voxels of 2 mm, two cells of four voxels along the first axis; the scan has 1 mm voxels and
    begins 4 mm before the crop."""
    crop = Grid((8, 4, 4), np.diag([2.0, 2, 2, 1]))
    shifted = np.diag([1.0, 1, 1, 1])
    shifted[:3, 3] = [-4.5, -0.5, -0.5]  # the scan's first voxel centre, in the crop's millimetres
    found = attribution_on_grid(np.array([1.0, 3.0]).reshape(2, 1, 1), crop, Grid((24, 8, 8), shifted))
    assert found.dtype == np.float32
    along = found[:, 3, 3]
    # The crop reaches from -1 to 15 mm, its cells' centres are at 3 and 11 mm; scan voxel i lies at i - 4.5 mm.
    place = np.arange(24) - 4.5
    expected = np.where((place >= -1) & (place <= 15), np.interp(place, [3, 11], [1, 3]), 0)
    np.testing.assert_allclose(along, expected, rtol=1e-6)
    assert (found == along[:, None, None]).all()
