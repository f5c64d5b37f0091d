"""Batches are the same bytes for any number of readers, processes and restarts, and cover what they say."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest

from anatobench.errors import AnatoBenchError, UsageError
from anatobench.store.batch import Batch
from anatobench.store.batches import PADDING, evaluation_batches, steps_per_epoch, training_batches
from anatobench.store.reader import Store, data_file
from anatobench.tasks import IGNORED_ORGAN

MakeStore = Callable[..., Store]


def digests(store: Store, count: int, **options: Any) -> list[str]:
    with training_batches(store, 7, 4, **options) as batches:
        return [batch.digest() for batch in islice(batches, count)]


def test_the_order_and_the_crops_have_not_changed(noise_store: Store) -> None:
    """A change here breaks the comparison with every earlier run: if it is meant, say so in the release notes."""
    with training_batches(noise_store, 7, 4) as batches:
        first = [next(batches) for _ in range(5)]
    assert [batch.case_index.tolist() for batch in first] == GOLDEN_ORDER
    assert [batch.digest() for batch in first] == GOLDEN_DIGESTS


def test_arrays_are_what_engines_expect(noise_store: Store) -> None:
    with training_batches(noise_store, 7, 4) as batches:
        batch = next(batches)
    crop = noise_store.geometry.crop_size
    for array, dtype, shape in (
        (batch["volume"], np.int16, (4, *crop)),
        (batch["organs"], np.uint8, (4, *crop)),
        (batch["targets"], np.int8, (4, 18)),
        (batch.case_index, np.int32, (4,)),
    ):
        assert array.dtype == dtype
        assert array.shape == shape
        assert array.flags.c_contiguous
        assert array.flags.writeable


def find_crop(batch: Batch, place: int, store: Store) -> tuple[int, int, int]:
    """Return where the crop was cut, found by looking for it in the whole volume (noise is unique)."""
    size, crop = store.geometry.padded_size, store.geometry.crop_size
    whole, _ = store.read_crop(int(batch.case_index[place]), (0, 0, 0), size)
    corner = batch["volume"][place][:1, :1, :4]
    for d, h, w in np.argwhere(
        whole[: size[0] - crop[0] + 1, : size[1] - crop[1] + 1, : size[2] - crop[2] + 1] == corner[0, 0, 0]
    ):
        if np.array_equal(whole[d : d + crop[0], h : h + crop[1], w : w + crop[2]], batch["volume"][place]):
            return int(d), int(h), int(w)
    raise AssertionError("the crop is not in its case")


def test_each_place_holds_its_own_case_at_a_new_crop(noise_store: Store) -> None:
    with training_batches(noise_store, 7, 4) as batches:
        seen = list(islice(batches, 8))
    starts = []
    for batch in seen:
        for place, index in enumerate(batch.case_index):
            start = find_crop(batch, place, noise_store)
            starts.append(start)
            _, organs = noise_store.read_crop(int(index), start, noise_store.geometry.crop_size)
            np.testing.assert_array_equal(batch["organs"][place], organs)
            assert tuple(batch["targets"][place]) == noise_store.cases[index].targets
    for axis in range(3):  # 32 crops at 7 or 13 positions per axis
        assert len({start[axis] for start in starts}) >= 5
    assert {start[0] for start in starts} <= set(range(7))


def test_an_epoch_holds_no_case_twice_and_the_next_has_another_order(noise_store: Store) -> None:
    steps = steps_per_epoch(noise_store, 4)
    assert steps == 4
    with training_batches(noise_store, 7, 4) as batches:
        epochs = [[int(i) for batch in islice(batches, steps) for i in batch.case_index] for _ in range(6)]
    training = set(noise_store.split("train"))
    for epoch in epochs:
        assert len(set(epoch)) == 16
        assert set(epoch) <= training
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert len({(training - set(epoch)).pop() for epoch in epochs}) > 1  # who is left out changes


def test_another_seed_gives_another_order_in_every_epoch(noise_store: Store) -> None:
    def epochs(seed: int) -> list[tuple[int, ...]]:
        with training_batches(noise_store, seed, 16) as batches:
            return [tuple(batch.case_index) for batch in islice(batches, 3)]

    # Grain's shuffle adds the epoch to the seed: epoch 1 of seed 0 must not be epoch 0 of seed 1.
    assert len(set(epochs(0) + epochs(1) + epochs(2))) == 9


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_number_of_reading_threads_changes_nothing(noise_store: Store, workers: int) -> None:
    assert digests(noise_store, 6, workers=workers) == digests(noise_store, 6)


def test_a_global_batch_is_the_same_for_any_number_of_processes(noise_store: Store) -> None:
    def global_batches(processes: int) -> list[set[tuple[int, bytes]]]:
        result: list[set[tuple[int, bytes]]] = [set() for _ in range(6)]
        for process in range(processes):
            with training_batches(noise_store, 7, 4, process_index=process, process_count=processes) as batches:
                for places, batch in zip(result, batches, strict=False):
                    assert batch.size == 4 // processes
                    places |= {(int(i), v.tobytes()) for i, v in zip(batch.case_index, batch["volume"], strict=True)}
        return result

    assert global_batches(1) == global_batches(2) == global_batches(4)


def test_a_batch_that_cannot_be_shared_is_refused(noise_store: Store) -> None:
    with pytest.raises(UsageError, match="4 cannot be shared by 3"):
        training_batches(noise_store, 7, 4, process_index=0, process_count=3)
    with pytest.raises(UsageError, match="process 2 of 2"):
        evaluation_batches(noise_store, "test", 4, process_index=2, process_count=2)


def test_too_few_training_cases_are_an_error(noise_store: Store) -> None:
    with pytest.raises(UsageError, match=r"17 training cases, too few for one batch of 18.*--set batch_size=17"):
        training_batches(noise_store, 7, 18)


def test_a_store_without_training_cases_says_what_it_holds(noise_store: Store) -> None:
    others = tuple(case for case in noise_store.cases if case.split != "train")
    held = len([case for case in others if case.split == "test"])
    with pytest.raises(UsageError, match=rf"nothing to train on: it holds {len(others)} cases \(.*{held} test\)"):
        steps_per_epoch(replace(noise_store, cases=others), 1)
    with pytest.raises(UsageError, match=r"nothing to train on: it holds no case at all \(.*rejected.csv says why"):
        steps_per_epoch(replace(noise_store, cases=()), 1)


@pytest.mark.parametrize("step", [1, 4, 9])
def test_a_step_can_be_opened_directly(noise_store: Store, step: int) -> None:
    assert digests(noise_store, 3, start_step=step) == digests(noise_store, step + 3)[step:]


RESUME = """
import json, sys
from anatobench.store.batches import training_batches
from anatobench.store.reader import Store
with training_batches(Store.open(sys.argv[1]), 7, 4) as batches:
    next(batches)
    batches.set_state(json.loads(sys.argv[2]))
    print(json.dumps([next(batches).digest() for _ in range(6)]))
"""


@pytest.mark.slow
def test_a_restored_state_goes_on_exactly_in_a_new_process(noise_store: Store) -> None:
    with training_batches(noise_store, 7, 4) as batches:
        for _ in range(3):
            next(batches)
        state = json.dumps(batches.get_state())
        expected = [next(batches).digest() for _ in range(6)]
        batches.set_state(json.loads(state))
        assert [next(batches).digest() for _ in range(6)] == expected
    command = [sys.executable, "-c", RESUME, str(noise_store.root), state]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert json.loads(output) == expected


def test_a_state_of_another_run_is_refused(noise_store: Store, make_noise_store: MakeStore) -> None:
    with training_batches(noise_store, 7, 4) as batches:
        state = batches.get_state()
    for other, seed, batch_size, named in (
        (noise_store, 8, 4, "seed 7"),
        (noise_store, 7, 2, "batch_size 4"),
        (make_noise_store(22), 7, 4, "cases"),
    ):
        with training_batches(other, seed, batch_size) as batches, pytest.raises(AnatoBenchError, match=named):
            batches.set_state(state)


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_sees_every_case_once_in_equal_batches(noise_store: Store, processes: int) -> None:
    for split, count in (("train", 17), ("validation", 3), ("test", 3)):
        seen: list[int] = []
        lengths = set()
        for process in range(processes):
            with evaluation_batches(noise_store, split, 4, process_index=process, process_count=processes) as iterator:
                batches = list(iterator)
            assert {batch.size for batch in batches} == {4 // processes}
            lengths.add(len(batches))
            seen += [int(i) for batch in batches for i in batch.case_index]
        assert lengths == {-(-count // 4)}
        assert Counter(seen) == Counter(noise_store.split(split) + [PADDING] * (-count % 4))


def test_evaluation_crops_the_centre_and_marks_padding(noise_store: Store) -> None:
    with evaluation_batches(noise_store, "validation", 4) as batches:
        [batch] = list(batches)
    assert batch.case_index.tolist() == [0, 10, 20, PADDING]
    volume, organs = noise_store.read_crop(10, (3, 6, 6), noise_store.geometry.crop_size)
    np.testing.assert_array_equal(batch["volume"][1], volume)
    np.testing.assert_array_equal(batch["organs"][1], organs)
    assert (batch["volume"][3] == -1000).all()
    assert (batch["organs"][3] == IGNORED_ORGAN).all()
    assert (batch["targets"][3] == -1).all()


def test_an_empty_split_is_an_error(make_noise_store: MakeStore) -> None:
    with pytest.raises(AnatoBenchError, match="no test cases"):
        evaluation_batches(make_noise_store(1), "test", 2)


def test_a_case_that_cannot_be_read_is_named(make_noise_store: MakeStore) -> None:
    store = make_noise_store(12)
    path = data_file(store.root, "case_005")
    path.write_bytes(path.read_bytes()[:3000])
    with training_batches(store, 7, 8) as batches, pytest.raises(AnatoBenchError, match=r"case_005.*cut short"):
        next(batches)


@pytest.mark.slow
def test_memory_stays_flat(noise_store: Store) -> None:
    """A leak of one batch per step would be 100 MB over these steps."""
    with training_batches(noise_store, 7, 4) as batches:
        for _ in range(20):
            next(batches)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(150):
            next(batches)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 20_000  # KiB


GOLDEN_ORDER = [[5, 12, 15, 3], [22, 6, 13, 7], [19, 14, 17, 4], [18, 8, 16, 9], [4, 2, 19, 18]]
GOLDEN_DIGESTS = [
    "2dc46a658eee2feb400de3db1e822f34",
    "f81e1d2e132a3da2139e792310f17787",
    "ac7bd4a98c0783f1dfdba9bc8c7a40dd",
    "13da2b372291ae829d4d988b5ca86440",
    "3dd47da3acb8c840eab95ffa99591df7",
]
