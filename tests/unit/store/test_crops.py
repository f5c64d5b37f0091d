import numpy as np
import pytest

from anatobench.store.crops import centre_crop_start, random_crop_start


def test_centre_crop() -> None:
    assert centre_crop_start((120, 240, 241), (96, 192, 192)) == (12, 24, 24)
    assert centre_crop_start((96, 192, 192), (96, 192, 192)) == (0, 0, 0)


def test_random_crops_reach_every_position_and_no_other() -> None:
    rng = np.random.default_rng(0)
    starts = {random_crop_start(rng, (6, 4, 5), (4, 4, 3)) for _ in range(300)}
    assert starts == {(d, 0, w) for d in range(3) for w in range(3)}


def test_the_generator_alone_decides() -> None:
    first, second = (random_crop_start(np.random.default_rng(7), (99, 99, 99), (9, 9, 9)) for _ in range(2))
    assert first == second


def test_a_crop_larger_than_the_volume_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        centre_crop_start((96, 192, 192), (96, 193, 192))
