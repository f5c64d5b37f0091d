"""Augmentation: the same bytes however they are read, masks that stay on their organs, and nothing at all when off."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anatobench.errors import UsageError
from anatobench.recipes import Recipe, override
from anatobench.store.augmentation import Augmentation, voxel_map
from anatobench.store.batch import Batch
from anatobench.store.batches import training_batches
from anatobench.store.mask_noise import MaskNoise
from anatobench.store.reader import Store
from anatobench.store.writer import CaseOrigin, PreparedCase, StoreWriter
from anatobench.tasks import IGNORED_ORGAN, STORED_HU, get_task

EVERYTHING = Augmentation(rotation=10, scaling=10, noise=20, shift=30, seed=7)


def read(store: Store, count: int, augmentation: Augmentation | None = EVERYTHING, **options: Any) -> list[Batch]:
    with training_batches(store, 7, 4, augmentation=augmentation, **options) as batches:
        return list(islice(batches, count))


def digests(store: Store, count: int, **options: Any) -> list[str]:
    return [batch.digest() for batch in read(store, count, **options)]


def test_off_by_default_and_on_with_any_part() -> None:
    assert Augmentation.of(Recipe()) is None
    for name in ("rotation", "scaling", "noise", "shift"):
        found = Augmentation.of(override(Recipe(seed=3), [f"augment_{name}=2.5"]))
        assert found is not None
        assert (getattr(found, name), found.seed) == (2.5, 3)
    with pytest.raises(UsageError, match="augment_rotation"):
        override(Recipe(), ["augment_rotation=90"])


def test_an_augmentation_of_nothing_leaves_every_byte(noise_store: Store) -> None:
    nothing = Augmentation(0, 0, 0, 0, seed=7)
    assert digests(noise_store, 3, augmentation=nothing) == digests(noise_store, 3, augmentation=None)


@pytest.mark.slow
def test_the_same_bytes_for_any_readers_and_from_any_step(noise_store: Store) -> None:
    whole = digests(noise_store, 10)  # more than two epochs of 4 batches
    assert len(set(whole)) == 10
    assert digests(noise_store, 10, workers=0) == whole
    assert digests(noise_store, 10, workers=1) == whole
    assert digests(noise_store, 4, start_step=6) == whole[6:]
    with training_batches(noise_store, 7, 4, augmentation=EVERYTHING) as batches:
        next(batches)
        state = batches.get_state()
        next(batches)
        batches.set_state(state)
        assert next(batches).digest() == whole[1]


def test_processes_share_out_the_same_batch(noise_store: Store) -> None:
    whole = read(noise_store, 5)
    parts = [read(noise_store, 5, process_index=index, process_count=2) for index in range(2)]
    for step, batch in enumerate(whole):
        for name in ("volume", "organs", "targets"):
            np.testing.assert_array_equal(np.concatenate([part[step][name] for part in parts]), batch[name])


def test_the_same_case_is_drawn_anew_in_every_epoch(noise_store: Store) -> None:
    noise = replace(EVERYTHING, rotation=0, scaling=0, noise=0)
    plain, changed = read(noise_store, 8, None), read(noise_store, 8, noise)
    shifts = set()
    for before, after in zip(plain, changed, strict=True):
        np.testing.assert_array_equal(after["organs"], before["organs"])
        difference = after["volume"].astype(int) - before["volume"]
        inside = np.abs(before["volume"].astype(int)) < 960  # not clipped
        for place in range(4):
            (shift,) = {int(found) for found in np.unique(difference[place][inside[place]])}
            assert abs(shift) <= 30
            shifts.add(shift)
        assert before.case_index.tolist() == after.case_index.tolist()
    assert len(shifts) > 10


def test_noise_has_its_standard_deviation(noise_store: Store) -> None:
    deviations = []
    for before, after in zip(
        read(noise_store, 8, None), read(noise_store, 8, Augmentation(0, 0, 50, 0, seed=7)), strict=True
    ):
        inside = np.abs(before["volume"].astype(int)) < 700
        difference = after["volume"].astype(int) - before["volume"]
        deviations += [float(d[i].std()) for d, i in zip(difference, inside, strict=True)]
        assert after["volume"].min() >= STORED_HU[0]
        assert after["volume"].max() <= STORED_HU[1]
    assert max(deviations) < 51
    assert 15 < np.mean(deviations) < 35


def organ_store(root: Path) -> Store:
    """Return a store whose mask is what is bright: one box far from symmetric, in cases that have a mask."""
    task = get_task("ratic")
    writer = StoreWriter(root)
    writer.create(task, "tiny", "boxes", {})
    depth, height, width = size = task.geometry("tiny").padded_size
    organs = np.zeros(size, np.uint8)
    organs[depth // 4 : depth // 2 + 2, height // 3 : 3 * height // 4, width // 5 : width // 2] = 1
    volume = np.where(organs, 400, -400).astype(np.int16)
    for number in range(8):
        origin = CaseOrigin(f"case_{number}", f"patient_{number}", "train", (0,) * 5, f"{number}.nii.gz", None)
        masks = None if number == 7 else organs
        writer.write(origin, PreparedCase(volume, masks, np.diag([-12.0, -6.0, -6.0, 1.0])))
    writer.finish()
    return Store.open(root)


@pytest.mark.parametrize("noise", [None, MaskNoise(get_task("ratic").organs, 0.0, 7)])
def test_mask_and_volume_stay_aligned(tmp_path: Path, noise: MaskNoise | None) -> None:
    store = organ_store(tmp_path / "store")
    moved = 0
    for before, after in zip(
        read(store, 4, None, mask_noise=noise),
        read(store, 4, Augmentation(20, 20, 0, 0, seed=7), mask_noise=noise),
        strict=True,
    ):
        for place, case in enumerate(after.case_index.tolist()):
            volume, organs = after["volume"][place], after["organs"][place]
            if case == 7:
                assert (organs == IGNORED_ORGAN).all()
                continue
            known = (organs != IGNORED_ORGAN) & (np.abs(volume) > 310)  # the nearest voxel weighs an eighth at least
            assert set(np.unique(organs)) <= {0, 1, IGNORED_ORGAN}
            assert known.mean() > 0.5
            np.testing.assert_array_equal(organs[known] == 1, volume[known] > 0)
            moved += int(np.count_nonzero(organs != before["organs"][place]))
    assert moved > 1000


def test_the_map_is_a_rotation_in_millimetres_and_enlarges() -> None:
    spacing = np.array([12.0, 6.0, 6.0])
    matrix = voxel_map(np.array([0.2, -0.1, 0.3]), 1.25, (12.0, 6.0, 6.0))
    in_mm = matrix * spacing[:, None] / spacing
    np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3) / 1.25**2, atol=1e-12)
    assert np.linalg.det(in_mm) > 0
    about_the_body = voxel_map(np.array([0.2, 0.0, 0.0]), 1, (12.0, 6.0, 6.0))
    np.testing.assert_allclose(about_the_body[0], [1, 0, 0], atol=1e-12)
