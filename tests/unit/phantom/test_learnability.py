"""A phantom must be hard for a model that ignores where it looks, and easy for one that knows.

Inside the organs a lesion nearly decides each label; the scan's histogram, which any network learns first, does not.
"""

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, gaussian_filter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anatobench.phantom.abdomen import LOOKS, abdomen_body, abdomen_findings
from anatobench.phantom.body import BOWEL, STRUCTURES
from anatobench.phantom.plan import CohortPlan, Stream
from anatobench.phantom.render import render
from anatobench.phantom.write_ratic import SETTINGS, scans_of
from anatobench.tasks import RATIC

PATIENTS = 80
ORGANS = {**{name: (name,) for name in ("liver", "spleen", "kidney_left", "kidney_right")}, "bowel": BOWEL}
Cohort = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Which organs are injured, what is inside them, and what the whole scan says: each [scans, figures]."""
IN_PLANE = np.ones((1, 3, 3), dtype=bool)


def deepest_defect(hu: np.ndarray, mask: np.ndarray, erosion: np.ndarray) -> float:
    """Return how much darker than the organ its darkest patch is, HU."""
    core = binary_erosion(mask, erosion)
    if not core.any():
        return 0.0
    width = (0.8, 1.4, 1.4)
    weight = gaussian_filter(core.astype(np.float32), width)
    local = gaussian_filter(np.where(core, hu, 0), width)[core] / np.maximum(weight[core], 1e-3)
    return float(np.percentile(hu[core], 70) - local[weight[core] > 0.35].min())


def inside_organs(hu: np.ndarray, labels: np.ndarray) -> list[float]:
    """Return one number per label group, each from the organs that the group is about."""
    masks = {name: np.isin(labels, [STRUCTURES[part] for part in parts]) for name, parts in ORGANS.items()}
    bright_bowel = ((hu > 90) & (hu < 200))[masks["bowel"]].mean()
    blood = max(float((hu[mask] > 210).mean()) for mask in masks.values())
    kidney = max(deepest_defect(hu, masks[name], IN_PLANE) for name in ("kidney_left", "kidney_right"))
    solid = [deepest_defect(hu, masks[name], np.ones((3, 3, 3), dtype=bool)) for name in ("liver", "spleen")]
    return [bright_bowel, blood, kidney, *solid]


def of_the_whole_scan(hu: np.ndarray) -> list[float]:
    """Means, deviations and the histogram of the body, without any place."""
    body = hu[hu > -300]
    edges = [-300, -120, -80, -40, 0, 30, 50, 70, 90, 110, 130, 160, 200, 250, 300, 400, 3000]
    histogram = np.histogram(body, bins=edges)[0] / len(body)
    return [hu.mean(), hu.std(), body.mean(), body.std(), np.log(len(body)), *histogram]


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    plan = CohortPlan("ratic", "tiny", 7, PATIENTS)
    injured, local, everywhere = [], [], []
    for index in range(plan.cases):
        scan, rng = scans_of(plan, index)[0], plan.rng(index, Stream.SERIES)
        body = abdomen_body(plan.rng(index, Stream.BODY))
        findings = abdomen_findings(plan.rng(index, Stream.FINDINGS), body, scan.targets, LOOKS["tiny"]["typical"])
        volume, labels = render(rng, body, findings, SETTINGS["tiny"].draw(rng))
        hu = volume.voxels.astype(np.float32)
        injured.append([target > 0 for target in scan.targets])
        local.append(inside_organs(hu, labels))
        everywhere.append(of_the_whole_scan(hu))
    return np.array(injured), np.array(local), np.array(everywhere)


@pytest.mark.slow
@pytest.mark.parametrize("column", range(len(RATIC.groups)), ids=[group.name for group in RATIC.groups])
def test_a_look_inside_the_organ_finds_the_injury(cohort: Cohort, column: int) -> None:
    injured, local, _ = cohort
    assert roc_auc_score(injured[:, column], local[:, column]) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("column", range(len(RATIC.groups)), ids=[group.name for group in RATIC.groups])
def test_statistics_of_the_whole_scan_do_not(cohort: Cohort, column: int) -> None:
    injured, _, everywhere = cohort
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    predicted = cross_val_predict(model, everywhere, injured[:, column], cv=5, method="predict_proba")[:, 1]
    assert roc_auc_score(injured[:, column], predicted) < 0.65
