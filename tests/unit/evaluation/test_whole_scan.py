"""One statistic of a whole scan tells a finding that shifts it, and none that does not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tiny_store import write_store

from anatobench.evaluation.whole_scan import TISSUES, given_away, whole_scan_statistics
from anatobench.tasks import multi_label_task


def test_a_finding_that_brightens_the_scan_is_told_by_it(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", multi_label_task("findings", "chest", ("bright", "also")), {"train": 16})
    told = given_away(store)
    assert list(told) == ["bright", "also"]
    assert told["bright"]["auc"] > 0.9, "half of such a scan is brighter by 250 HU"


def test_a_label_that_nothing_shows_is_not(tmp_path: Path) -> None:
    sizes = {"train": 64}
    store = write_store(tmp_path / "store", multi_label_task("noise", "chest", tuple("abcdefg")), sizes)
    # Numbers 0 to 63 in binary: the first six findings add 250 HU each, the seventh is always absent.
    told = given_away(store)
    assert "g" not in told, "of a class without both labels there is no AUC"
    assert 0.5 <= told["a"]["auc"] < 0.85, "one of six alike is seen by chance alone"


def test_statistics_of_a_volume() -> None:
    volume = np.full((2, 2, 2), -1000, np.int16)
    volume[0] = 50
    found = whole_scan_statistics(volume)
    assert found["mean"] == pytest.approx(-475)
    assert found["deviation"] == pytest.approx(525)
    assert found["share of air"] == found["share of soft tissue"] == 0.5
    assert sum(found[f"share of {name}"] for name in TISSUES) == 1


def test_every_stored_value_but_light_fat_and_airways_is_a_tissue() -> None:
    bounds = sorted(TISSUES.values())
    assert all(high <= low for (_, high), (low, _) in pairwise(bounds)), "no voxel counts twice"
